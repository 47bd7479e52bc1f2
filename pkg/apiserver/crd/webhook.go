package crd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"

	"skiff/pkg/apiserver/hookclient"
)

// webhook converts by asking the definition's webhook.
type webhook struct {
	client  *rest.RESTClient
	version string // of the reviews that it understands
}

func newWebhook(crd *crdv1.CustomResourceDefinition, services hookclient.Resolver) (*webhook, error) {
	w := &webhook{}
	hook := crd.Spec.Conversion.Webhook
	for _, version := range hook.ConversionReviewVersions {
		if version == "v1" || version == "v1beta1" { // they look the same
			w.version = version
			break
		}
	}
	where := hook.ClientConfig
	var err error
	w.client, err = hookclient.New(&admissionregistrationv1.WebhookClientConfig{
		URL: where.URL, Service: (*admissionregistrationv1.ServiceReference)(where.Service), CABundle: where.CABundle,
	}, services, reviews)
	if err != nil {
		return nil, fmt.Errorf("conversion_webhook_for_%s: %w", crd.Name, err)
	}
	return w, nil
}

func (w *webhook) convert(u *unstructured.Unstructured, to schema.GroupVersion) (*unstructured.Unstructured, error) {
	from := u.GroupVersionKind()
	fail := func(what string, err error) error {
		return fmt.Errorf("conversion webhook for %v %s: %w", from, what, err)
	}
	answer, err := w.ask(u, to)
	if err != nil {
		return nil, fail("failed", err)
	}
	if len(answer) != 1 {
		return nil, fmt.Errorf("conversion webhook for %v returned %d objects, expected 1", from, len(answer))
	}
	out := &unstructured.Unstructured{}
	if err := out.UnmarshalJSON(answer[0].Raw); err != nil {
		return nil, err
	}
	if got := out.GroupVersionKind().GroupVersion(); got != to {
		return nil, fmt.Errorf("conversion webhook for %v returned invalid object at index 0: invalid groupVersion (expected %v, received %v)", from, to, got)
	}
	if got := out.GetKind(); got != from.Kind {
		return nil, fmt.Errorf("conversion webhook for %v returned invalid object at index 0: invalid kind (expected %v, received %v)", from, from.Kind, got)
	}
	if err := sameIdentity(u, out); err != nil {
		return nil, fail("returned invalid object", err)
	}
	if err := restoreMetadata(u, out); err != nil {
		return nil, fail("returned invalid metadata", err)
	}
	return out, nil
}

// ask sends one object to be converted.
func (w *webhook) ask(u *unstructured.Unstructured, to schema.GroupVersion) ([]runtime.RawExtension, error) {
	if w.version == "" {
		return nil, errors.New("no supported conversion review versions")
	}
	kind := metav1.TypeMeta{APIVersion: crdv1.GroupName + "/" + w.version, Kind: "ConversionReview"}
	id := uuid.NewUUID()
	body, err := json.Marshal(&crdv1.ConversionReview{TypeMeta: kind, Request: &crdv1.ConversionRequest{
		UID: id, DesiredAPIVersion: to.String(), Objects: []runtime.RawExtension{{Object: u}},
	}})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), hookclient.Timeout)
	defer cancel()
	call := w.client.Post().SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).Do(ctx)
	if w.version == crdv1beta1.SchemeGroupVersion.Version {
		review := &crdv1beta1.ConversionReview{}
		if err := call.Into(review); err != nil {
			return nil, err
		}
		return converted((*crdv1.ConversionResponse)(review.Response))
	}
	review := &crdv1.ConversionReview{}
	if err := call.Into(review); err != nil {
		return nil, err
	}
	switch {
	case review.TypeMeta != kind:
		return nil, fmt.Errorf("expected webhook response of %v, got %v", kind.GroupVersionKind(), review.GroupVersionKind())
	case review.Response != nil && review.Response.UID != id:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", id, review.Response.UID)
	}
	return converted(review.Response)
}

// reviews reads what webhooks answer.
var reviews = hookclient.Reviews(map[schema.GroupVersion]func(*runtime.Scheme) error{
	crdv1.SchemeGroupVersion: crdv1.AddToScheme, crdv1beta1.SchemeGroupVersion: crdv1beta1.AddToScheme,
})

func converted(answer *crdv1.ConversionResponse) ([]runtime.RawExtension, error) {
	switch {
	case answer == nil:
		return nil, errors.New("no response provided")
	case answer.Result.Status == metav1.StatusSuccess:
		return answer.ConvertedObjects, nil
	case answer.Result.Message != "":
		return nil, errors.New(answer.Result.Message)
	}
	return nil, fmt.Errorf("response.result.status was '%s', not 'Success'", answer.Result.Status)
}

// sameIdentity refuses a conversion that makes another object.
func sameIdentity(in, out *unstructured.Unstructured) error {
	for _, what := range []struct{ name, before, after string }{
		{"kind", in.GetKind(), out.GetKind()},
		{"name", in.GetName(), out.GetName()},
		{"namespace", in.GetNamespace(), out.GetNamespace()},
		{"UID", string(in.GetUID()), string(out.GetUID())},
	} {
		if what.before != what.after {
			return fmt.Errorf("must have the same %s: %v != %v", what.name, what.before, what.after)
		}
	}
	return nil
}

// restoreMetadata undoes what a webhook did to metadata; only labels and annotations are its to change.
func restoreMetadata(original, converted *unstructured.Unstructured) error {
	answer, found := converted.Object["metadata"]
	if !found {
		return errors.New("missing metadata in converted object")
	}
	given, ok := answer.(map[string]any)
	if !ok {
		return fmt.Errorf("invalid metadata of type %T in converted object", answer)
	}
	before, _ := original.Object["metadata"].(map[string]any)
	metadata := map[string]any{}
	for key, value := range before {
		if key != "labels" && key != "annotations" {
			metadata[key] = value
		}
	}
	for _, name := range []string{"labels", "annotations"} {
		if given[name] == nil {
			continue
		}
		pairs, ok := given[name].(map[string]any)
		if !ok {
			return fmt.Errorf("invalid metadata.%s of type %T in converted object", name, given[name])
		}
		texts := map[string]string{}
		for key, value := range pairs {
			if texts[key], ok = value.(string); !ok {
				return fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, key, value)
			}
		}
		var errs field.ErrorList
		if name == "labels" {
			errs = metavalidation.ValidateLabels(texts, field.NewPath("metadata", "labels"))
		} else {
			errs = apivalidation.ValidateAnnotations(texts, field.NewPath("metadata", "annotation"))
		}
		if len(errs) > 0 {
			return errs.ToAggregate()
		}
		metadata[name] = pairs
	}
	converted.Object["metadata"] = metadata
	return nil
}
