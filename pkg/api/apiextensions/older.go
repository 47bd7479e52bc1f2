package apiextensions

import (
	"encoding/json"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"

	"skiff/pkg/api"
)

// readOlder reads definitions as Kubernetes stores them up to now: in v1beta1, which is more compact than v1.
func readOlder(version string, data []byte) (api.Object, error) {
	if version != crdv1beta1.SchemeGroupVersion.Version {
		return nil, nil
	}
	var stored crdv1beta1.CustomResourceDefinition
	if err := json.Unmarshal(data, &stored); err != nil {
		return nil, err
	}
	crdv1beta1.SetDefaults_CustomResourceDefinition(&stored)
	crdv1beta1.SetDefaults_CustomResourceDefinitionSpec(&stored.Spec)
	var internal apiextensions.CustomResourceDefinition
	if err := crdv1beta1.Convert_v1beta1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&stored, &internal, nil); err != nil {
		return nil, err
	}
	crd := &crdv1.CustomResourceDefinition{}
	if err := crdv1.Convert_apiextensions_CustomResourceDefinition_To_v1_CustomResourceDefinition(&internal, crd, nil); err != nil {
		return nil, err
	}
	setDefaults(crd)
	return crd, nil
}
