package apiregistration

import (
	"fmt"

	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"skiff/pkg/api"
)

var columns = api.Columns("Name, Service, Available, Age")

func cells(obj api.Object) []any {
	s := obj.(*v1.APIService)
	service, available := "Local", string(v1.ConditionUnknown)
	if s.Spec.Service != nil {
		service = s.Spec.Service.Namespace + "/" + s.Spec.Service.Name
	}
	if c := helper.GetAPIServiceConditionByType(s, v1.Available); c != nil {
		available = string(c.Status)
		if c.Status != v1.ConditionTrue && c.Reason != "" {
			available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
	}
	return []any{s.Name, service, available, api.Age(s)}
}
