package apiregistration

import (
	"fmt"
	"strings"

	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

// The largest priorities, whatever their messages say: they are Kubernetes'.
const maxGroupPriority, maxVersionPriority = 20000, 1000

func validate(obj api.Object) field.ErrorList {
	s := obj.(*v1.APIService)
	at := field.NewPath("spec")
	var errs check.Errors
	want := s.Spec.Version + "." + s.Spec.Group
	for _, name := range []struct{ field, is string }{{"generateName", s.GenerateName}, {"name", s.Name}} {
		if name.is != want && name.is != "" && len(api.PathSegment(name.is, false)) == 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", name.field), name.is, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)))
		}
	}
	if s.Spec.Group == "" && s.Spec.Version != "v1" {
		errs = append(errs, field.Required(at.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	if s.Spec.Group != "" {
		errs = append(errs, check.Subdomain(at.Child("group"), s.Spec.Group)...)
	}
	errs = append(errs, check.Messages(at.Child("version"), s.Spec.Version, utilvalidation.IsDNS1035Label(s.Spec.Version))...)
	if p := s.Spec.GroupPriorityMinimum; p <= 0 || p > maxGroupPriority {
		errs = append(errs, field.Invalid(at.Child("groupPriorityMinimum"), p, "must be positive and less than 20000"))
	}
	if p := s.Spec.VersionPriority; p <= 0 || p > maxVersionPriority {
		errs = append(errs, field.Invalid(at.Child("versionPriority"), p, "must be positive and less than 1000"))
	}
	if s.Spec.Service == nil {
		return append(errs, validateLocal(s, at)...)
	}
	return append(errs, validateService(s, at)...)
}

func validateLocal(s *v1.APIService, at *field.Path) check.Errors {
	var errs check.Errors
	if n := len(s.Spec.CABundle); n > 0 {
		errs = append(errs, field.Invalid(at.Child("caBundle"), fmt.Sprintf("%d bytes", n), "local APIServices may not have a caBundle"))
	}
	if s.Spec.InsecureSkipTLSVerify {
		errs = append(errs, field.Invalid(at.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify"))
	}
	return errs
}

func validateService(s *v1.APIService, at *field.Path) check.Errors {
	service := at.Child("service")
	errs := append(check.Required(service.Child("namespace"), s.Spec.Service.Namespace), check.Required(service.Child("name"), s.Spec.Service.Name)...)
	port := int32(0)
	if s.Spec.Service.Port != nil {
		port = *s.Spec.Service.Port
	}
	if messages := utilvalidation.IsValidPortNum(int(port)); messages != nil {
		errs = append(errs, field.Invalid(service.Child("port"), port, "port is not valid: "+strings.Join(messages, ", ")))
	}
	if s.Spec.InsecureSkipTLSVerify && len(s.Spec.CABundle) > 0 {
		errs = append(errs, field.Invalid(at.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"))
	}
	return errs
}

func validateStatus(obj, _ api.Object) field.ErrorList {
	var errs check.Errors
	for i, c := range obj.(*v1.APIService).Status.Conditions {
		switch c.Status {
		case v1.ConditionTrue, v1.ConditionFalse, v1.ConditionUnknown:
		default:
			errs = append(errs, field.NotSupported(field.NewPath("status", "conditions").Index(i).Child("status"), c.Status,
				[]v1.ConditionStatus{v1.ConditionTrue, v1.ConditionFalse, v1.ConditionUnknown}))
		}
	}
	return errs
}
