package authn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// IssuerConfig says how service account tokens are signed.
type IssuerConfig struct {
	Issuer string // the "iss" claim, usually an https URL
	Key    *Key   // a private one
	// Audiences of this server, which a token is for when its request names none.
	Audiences []string
	// MaxExpiration shortens longer requests; 0 is no limit.
	MaxExpiration time.Duration
	// ExtendExpiration makes tokens that were asked for an hour (what a pod's default volume
	// asks for) live for a year, so that clients that never read the file again go on working.
	// Kubernetes does so by default (--service-account-extend-token-expiration).
	ExtendExpiration bool
	Objects          lookup.Reader
}

// What pods' default volumes ask for, and what such tokens get with ExtendExpiration.
const (
	extendedRequest    = 60*60 + 7
	extendedExpiration = 24 * 365 * 60 * 60
)

// Issuer signs service account tokens. It may be used concurrently.
type Issuer struct {
	config IssuerConfig
	signer jose.Signer
}

// NewIssuer returns an Issuer.
func NewIssuer(config IssuerConfig) (*Issuer, error) {
	if config.Key == nil || config.Key.Private == nil {
		return nil, errors.New("service account issuer: a private key is needed")
	}
	if len(config.Audiences) == 0 {
		config.Audiences = []string{config.Issuer}
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: config.Key.Algorithm,
		Key:       jose.JSONWebKey{Key: config.Key.Private, KeyID: config.Key.ID},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("service account issuer: %w", err)
	}
	return &Issuer{config: config, signer: signer}, nil
}

var tokenRequestKind = schema.GroupKind{Group: "authentication.k8s.io", Kind: "TokenRequest"}

// Request answers a create of serviceaccounts/<name>/token in a namespace. validate, if
// not nil, is asked with the completed request before anything is signed (validating
// admission). Errors are status errors.
func (i *Issuer) Request(ctx context.Context, namespace, name string, in *authenticationv1.TokenRequest, validate func(*authenticationv1.TokenRequest) error) (*authenticationv1.TokenRequest, error) {
	account, err := lookup.Live[*corev1.ServiceAccount](ctx, i.config.Objects, serviceAccounts, namespace, name)
	if err != nil {
		return nil, err
	}
	req := in.DeepCopy()
	if err := i.complete(req, account); err != nil {
		return nil, err
	}
	now := time.Now() // taken first, so that the status never promises more than the token
	req.CreationTimestamp = metav1.NewTime(now)
	req.Status = authenticationv1.TokenRequestStatus{}
	if errs := validateTokenRequest(req); len(errs) > 0 {
		return nil, apierrors.NewInvalid(tokenRequestKind, "", errs)
	}
	if validate != nil {
		if err := validate(req.DeepCopy()); err != nil {
			return nil, err
		}
	}
	bound, err := i.bind(ctx, account, req.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	id := string(uuid.NewUUID())
	token, err := i.sign(req, id, account, bound, i.lifetime(ctx, req, bound), now)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	request.Annotate(ctx, "authentication.kubernetes.io/issued-credential-id", "JTI="+id)
	req.Status = authenticationv1.TokenRequestStatus{
		Token:               token,
		ExpirationTimestamp: metav1.NewTime(now.Add(time.Duration(*req.Spec.ExpirationSeconds) * time.Second)),
	}
	return req, nil
}

// complete fills in what the client left out, and refuses what contradicts the account.
func (i *Issuer) complete(req *authenticationv1.TokenRequest, account *corev1.ServiceAccount) error {
	metadata := field.NewPath("metadata")
	if req.Name != "" && req.Name != account.Name {
		return apierrors.NewInvalid(tokenRequestKind, account.Name, field.ErrorList{
			field.Invalid(metadata.Child("name"), req.Name, "must match the service account name if specified")})
	}
	if req.Namespace != "" && req.Namespace != account.Namespace {
		return apierrors.NewInvalid(tokenRequestKind, account.Name, field.ErrorList{
			field.Invalid(metadata.Child("namespace"), req.Namespace, "must match the service account namespace if specified")})
	}
	if req.UID != "" && req.UID != account.UID {
		return apierrors.NewConflict(schema.GroupResource{Group: tokenRequestKind.Group, Resource: tokenRequestKind.Kind}, account.Name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, account.UID))
	}
	req.Name, req.Namespace, req.UID = account.Name, account.Namespace, account.UID
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = i.config.Audiences
	}
	if req.Spec.ExpirationSeconds == nil {
		hour := int64(3600)
		req.Spec.ExpirationSeconds = &hour
	}
	return nil
}

func validateTokenRequest(req *authenticationv1.TokenRequest) field.ErrorList {
	path, seconds := field.NewPath("spec", "expirationSeconds"), *req.Spec.ExpirationSeconds
	switch {
	case seconds < 10*60:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration less than 10 minutes")}
	case seconds > 1<<32:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

// bind looks up the object that a token shall live and die with.
func (i *Issuer) bind(ctx context.Context, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (boundTo, error) {
	bound := boundTo{
		Namespace:      account.Namespace,
		ServiceAccount: objectRef{Name: account.Name, UID: string(account.UID)},
	}
	if ref == nil {
		return bound, nil
	}
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var obj api.Object
	var err error
	switch kind.GroupKind() {
	case schema.GroupKind{Kind: "Pod"}:
		var pod *corev1.Pod
		if pod, err = lookup.Live[*corev1.Pod](ctx, i.config.Objects, pods, account.Namespace, ref.Name); err != nil {
			return bound, err
		}
		if pod.Spec.ServiceAccountName != account.Name {
			return bound, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		obj, bound.Pod = pod, &objectRef{Name: pod.Name, UID: string(pod.UID)}
		if pod.Spec.NodeName != "" {
			if bound.Node, err = i.nodeOf(ctx, pod.Spec.NodeName); err != nil {
				return bound, err
			}
		}
	case schema.GroupKind{Kind: "Secret"}:
		if obj, err = i.config.Objects.Live(ctx, secrets, account.Namespace, ref.Name); err != nil {
			return bound, err
		}
		bound.Secret = &objectRef{Name: obj.GetName(), UID: string(obj.GetUID())}
	case schema.GroupKind{Kind: "Node"}:
		if obj, err = i.config.Objects.Live(ctx, nodes, "", ref.Name); err != nil {
			return bound, err
		}
		bound.Node = &objectRef{Name: obj.GetName(), UID: string(obj.GetUID())}
	default:
		return bound, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind))
	}
	return bound, sameUID(kind, ref, obj.GetUID())
}

func sameUID(kind schema.GroupVersionKind, ref *authenticationv1.BoundObjectReference, uid types.UID) error {
	if ref.UID == "" || ref.UID == uid {
		return nil
	}
	return apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, ref.Name,
		fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
}

// nodeOf names a pod's node, by name alone when the node object doesn't exist.
func (i *Issuer) nodeOf(ctx context.Context, name string) (*objectRef, error) {
	node, err := i.config.Objects.Get(ctx, nodes, "", name)
	switch {
	case apierrors.IsNotFound(err):
		return &objectRef{Name: name}, nil
	case err != nil:
		return nil, apierrors.NewInternalError(err)
	}
	return &objectRef{Name: name, UID: string(node.GetUID())}, nil
}

// lifetime decides how long the token really holds. It shortens the request where that is
// too long.
func (i *Issuer) lifetime(ctx context.Context, req *authenticationv1.TokenRequest, bound boundTo) lifetime {
	if limit := int64(i.config.MaxExpiration / time.Second); limit > 0 && *req.Spec.ExpirationSeconds > limit {
		request.Warn(ctx, fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", *req.Spec.ExpirationSeconds, limit))
		req.Spec.ExpirationSeconds = &limit
	}
	seconds := *req.Spec.ExpirationSeconds
	foreign := slices.ContainsFunc(req.Spec.Audiences, func(a string) bool { return !slices.Contains(i.config.Audiences, a) })
	if i.config.ExtendExpiration && bound.Pod != nil && seconds == extendedRequest && !foreign {
		extended := int64(extendedExpiration)
		if limit := int64(i.config.MaxExpiration / time.Second); limit > 0 {
			extended = min(extended, limit)
		}
		return lifetime{seconds: extended, warnAfter: seconds}
	}
	return lifetime{seconds: seconds}
}

// lifetime is in seconds from now; warnAfter is 0 when there is nothing to warn of.
type lifetime struct{ seconds, warnAfter int64 }

func (i *Issuer) sign(req *authenticationv1.TokenRequest, id string, account *corev1.ServiceAccount, bound boundTo, life lifetime, now time.Time) (string, error) {
	after := func(seconds int64) *jwt.NumericDate {
		return jwt.NewNumericDate(now.Add(time.Duration(seconds) * time.Second))
	}
	if life.warnAfter > 0 {
		bound.WarnAfter = after(life.warnAfter)
	}
	return jwt.Signed(i.signer).Claims(kubernetesClaims{req.Spec.Audiences, bound}).Claims(jwt.Claims{
		Issuer:    i.config.Issuer,
		Subject:   serviceAccountUser(account.Namespace, account.Name),
		ID:        id,
		IssuedAt:  after(0),
		NotBefore: after(0),
		Expiry:    after(life.seconds),
	}).Serialize()
}
