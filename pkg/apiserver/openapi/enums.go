package openapi

import (
	_ "embed"
	"reflect"
	"strings"
	"sync"
)

//go:embed enums.txt
var enumsText string

// enums reads enums.txt: the values of a type, by its package's path below k8s.io/api and its name.
var enums = sync.OnceValue(func() map[string][]string {
	all := map[string][]string{}
	for line := range strings.Lines(enumsText) {
		if name, values, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			all[name] = strings.Split(values, ", ")
		}
	}
	return all
})

// enum are the values that a string type may have; nil: any.
func enum(t reflect.Type) []string {
	return enums()[strings.ReplaceAll(strings.TrimPrefix(t.PkgPath(), "k8s.io/api/"), "/", ".")+"."+t.Name()]
}
