package api

import (
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Scheme maps every kind that Skiff speaks to its Go type: the GA versions of all
// groups, and what travels around them (Status, WatchEvent, Table, options).
var Scheme = newScheme()

// Codecs negotiates serializers for [Scheme]. Since there are only versioned types, use
// it without conversion: [serializer.CodecFactory.WithoutConversion] and
// [serializer.CodecFactory.UniversalDeserializer].
var Codecs = serializer.NewCodecFactory(Scheme,
	serializer.WithStreamingCollectionEncodingToJSON(),
	serializer.WithStreamingCollectionEncodingToProtobuf())

// Serializers over [Scheme], all safe for concurrent use. The strict ones report unknown and
// duplicate fields as [runtime.NewStrictDecodingError] *beside* the decoded object.
var (
	JSON       = jsonSerializer(json.SerializerOptions{})
	StrictJSON = jsonSerializer(json.SerializerOptions{Strict: true})
	PrettyJSON = jsonSerializer(json.SerializerOptions{Pretty: true})
	YAML       = jsonSerializer(json.SerializerOptions{Yaml: true})
	StrictYAML = jsonSerializer(json.SerializerOptions{Yaml: true, Strict: true})
	Protobuf   = protobuf.NewSerializer(Scheme, Scheme)
)

func jsonSerializer(options json.SerializerOptions) *json.Serializer {
	options.StreamingCollectionsEncoding = true
	return json.NewSerializerWithOptions(json.DefaultMetaFactory, Scheme, Scheme, options)
}

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(addToScheme(s))
	return s
}

func addToScheme(s *runtime.Scheme) error {
	groups := runtime.SchemeBuilder{
		admissionv1.AddToScheme,
		admissionregistrationv1.AddToScheme,
		apiextensionsv1.AddToScheme,
		apiregistrationv1.AddToScheme,
		appsv1.AddToScheme,
		authenticationv1.AddToScheme,
		authorizationv1.AddToScheme,
		autoscalingv1.AddToScheme,
		autoscalingv2.AddToScheme,
		batchv1.AddToScheme,
		certificatesv1.AddToScheme,
		coordinationv1.AddToScheme,
		corev1.AddToScheme,
		discoveryv1.AddToScheme,
		eventsv1.AddToScheme,
		flowcontrolv1.AddToScheme,
		networkingv1.AddToScheme,
		nodev1.AddToScheme,
		policyv1.AddToScheme,
		rbacv1.AddToScheme,
		resourcev1.AddToScheme,
		schedulingv1.AddToScheme,
		storagev1.AddToScheme,
		metav1.AddMetaToScheme,
		metav1beta1.AddMetaToScheme,
	}
	if err := groups.AddToScheme(s); err != nil {
		return err
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	metav1.AddToGroupVersion(s, metav1.SchemeGroupVersion)
	return nil
}
