package apiextensions

import (
	"encoding/json"
	"testing"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"

	"skiff/pkg/api"
)

// A definition as a kube-apiserver has stored it, and the same in v1.
const (
	older = `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1","metadata":{"name":"widgets.example.com","uid":"u"},
		"spec":{"group":"example.com","version":"v1","names":{"plural":"widgets","singular":"widget","kind":"Widget","listKind":"WidgetList"},"scope":"Namespaced",
		"validation":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"size":{"type":"integer","minimum":1,"default":3}}}}}},
		"subresources":{"status":{}},"versions":[{"name":"v1","served":true,"storage":true},{"name":"v2","served":true,"storage":false}],
		"additionalPrinterColumns":[{"name":"Size","type":"integer","JSONPath":".spec.size"}],"conversion":{"strategy":"None"},"preserveUnknownFields":false},
		"status":{"conditions":[],"acceptedNames":{"plural":"widgets","kind":"Widget"},"storedVersions":["v1"]}}`
	version = `"served":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"size":{"type":"integer","minimum":1,"default":3}}}}}},
		"subresources":{"status":{}},"additionalPrinterColumns":[{"name":"Size","type":"integer","jsonPath":".spec.size"}]`
	newer = `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"widgets.example.com","uid":"u"},
		"spec":{"group":"example.com","names":{"plural":"widgets","singular":"widget","kind":"Widget","listKind":"WidgetList"},"scope":"Namespaced",
		"versions":[{"name":"v1","storage":true,` + version + `},{"name":"v2","storage":false,` + version + `}],"conversion":{"strategy":"None"}},
		"status":{"conditions":[],"acceptedNames":{"plural":"widgets","kind":"Widget"},"storedVersions":["v1"]}}`
)

func TestDefinitionsOfKubernetesAreRead(t *testing.T) {
	got, err := api.DecodeStored(definitionKind(), []byte(older))
	if err != nil {
		t.Fatal(err)
	}
	want := &crdv1.CustomResourceDefinition{}
	if err := json.Unmarshal([]byte(newer), want); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(got, want) {
		t.Error(diff.Diff(want, got))
	}
	if _, err := api.DecodeStored(definitionKind(), []byte(`{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v9"}`)); err == nil {
		t.Error("a version that nobody knows was read")
	}
}
