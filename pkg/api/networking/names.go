package networking

import (
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ipAddressName: an IPAddress is named by the address it reserves, in canonical form.
func ipAddressName(name string, _ bool) []string {
	var messages []string
	for _, err := range validation.IsValidIP(&field.Path{}, name) {
		messages = append(messages, err.Detail)
	}
	return messages
}
