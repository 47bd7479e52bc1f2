package authn

import (
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
)

// kubernetesClaims are what a token says beside the registered claims of RFC 7519.
type kubernetesClaims struct {
	// Audience is here for writing: it is always a list in Kubernetes' tokens, also when
	// it is a list of one.
	Audience   audiences `json:"aud,omitempty"`
	Kubernetes boundTo   `json:"kubernetes.io,omitzero"`
}

type audiences []string

// UnmarshalJSON leaves reading, in all the forms that RFC 7519 allows, to [jwt.Claims].
func (*audiences) UnmarshalJSON([]byte) error { return nil }

// boundTo names the objects that a token lives and dies with.
type boundTo struct {
	Namespace      string           `json:"namespace,omitempty"`
	Node           *objectRef       `json:"node,omitempty"`
	Pod            *objectRef       `json:"pod,omitempty"`
	Secret         *objectRef       `json:"secret,omitempty"`
	ServiceAccount objectRef        `json:"serviceaccount,omitzero"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type objectRef struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// leeway is how far clocks may be apart, and for how long a token still holds after the
// deletion of what it is bound to began.
const leeway = time.Minute
