package authn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/apiserver/request"
)

// ReviewToken answers a TokenReview.
func (a *Authenticator) ReviewToken(ctx context.Context, in *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	if in.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	out := in.DeepCopy()
	out.Status = authenticationv1.TokenReviewStatus{}
	user, audiences, err := a.bearer(ctx, in.Spec.Token, in.Spec.Audiences)
	if err != nil {
		out.Status.Error = err.Error()
		if !errors.Is(err, errInvalidToken) {
			out.Status.Error = fmt.Sprintf("[%v, %v]", errInvalidToken, err) // as Kubernetes, which asks twice
		}
		return out, nil
	}
	out.Status.Authenticated = true
	out.Status.User = userInfo(authenticated(user))
	out.Status.Audiences = audiences
	return out, nil
}

// ReviewSelf answers a SelfSubjectReview: who am I?
func ReviewSelf(ctx context.Context) (*authenticationv1.SelfSubjectReview, error) {
	user := request.UserFrom(ctx)
	if user == nil {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	return &authenticationv1.SelfSubjectReview{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(time.Now())},
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(user)},
	}, nil
}

func userInfo(user *request.User) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: user.Name, UID: user.UID, Groups: slices.Clone(user.Groups)}
	for key, values := range user.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}
