package authn

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/apiserver/request"
)

const (
	impersonateUser  = "Impersonate-User"
	impersonateGroup = "Impersonate-Group"
	impersonateUID   = "Impersonate-Uid"
	impersonateExtra = "Impersonate-Extra-"
)

// Impersonate returns the user that a request's Impersonate headers name, or nil when
// there are none, and takes the headers away. allowed is asked once for each thing that
// the real user must have the right to impersonate, and its error is returned.
func Impersonate(header http.Header, allowed func(*request.Info) error) (*request.User, error) {
	name, groups, uid := header.Get(impersonateUser), header[impersonateGroup], header.Get(impersonateUID)
	extra := extraHeaders(header)
	if name == "" {
		if len(groups) == 0 && uid == "" && len(extra) == 0 {
			return nil, nil
		}
		return nil, apierrors.NewBadRequest(fmt.Sprintf("requested %+v without impersonating a user name", request.User{UID: uid, Groups: groups, Extra: extra}))
	}
	user := &request.User{Name: name, UID: uid, Groups: slices.Clone(groups), Extra: extra}
	ask := func(group, resource, subresource, namespace, name string) error {
		version := ""
		if group != "" {
			version = "v1"
		}
		return allowed(&request.Info{IsResourceRequest: true, Verb: "impersonate", APIGroup: group, APIVersion: version,
			Resource: resource, Subresource: subresource, Namespace: namespace, Name: name})
	}

	var err error
	if namespace, account, ok := splitServiceAccount(name); ok {
		err = ask("", "serviceaccounts", "", namespace, account)
		if len(groups) == 0 {
			user.Groups = serviceAccountGroups(namespace)
		}
	} else {
		err = ask("", "users", "", "", name)
	}
	if err != nil {
		return nil, err
	}
	for _, group := range groups {
		if err := ask("", "groups", "", "", group); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		for _, value := range extra[key] {
			if err := ask("authentication.k8s.io", "userextras", key, "", value); err != nil {
				return nil, err
			}
		}
	}
	if uid != "" {
		if err := ask("authentication.k8s.io", "uids", "", "", uid); err != nil {
			return nil, err
		}
	}
	addSystemGroup(user)
	for key := range header {
		if key == impersonateUser || key == impersonateGroup || key == impersonateUID || strings.HasPrefix(key, impersonateExtra) {
			delete(header, key)
		}
	}
	return user, nil
}

// addSystemGroup makes an impersonated user authenticated, or anonymous where the name says so.
func addSystemGroup(user *request.User) {
	switch {
	case user.InGroup(request.Unauthenticated):
	case user.Name == request.Anonymous:
		user.Groups = append(user.Groups, request.Unauthenticated)
	case !user.InGroup(request.Authenticated):
		user.Groups = append(user.Groups, request.Authenticated)
	}
}

// extraHeaders reads Impersonate-Extra-<key> headers; keys are lower case and may be
// percent-encoded.
func extraHeaders(header http.Header) map[string][]string {
	extra := map[string][]string{}
	for name, values := range header {
		key, found := strings.CutPrefix(name, impersonateExtra)
		if !found {
			continue
		}
		key = strings.ToLower(key)
		if decoded, err := url.PathUnescape(key); err == nil {
			key = decoded
		}
		extra[key] = append(extra[key], values...)
	}
	return extra
}

func splitServiceAccount(user string) (namespace, name string, ok bool) {
	rest, found := strings.CutPrefix(user, "system:serviceaccount:")
	if !found {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	ok = ok && len(validation.ValidateNamespaceName(namespace, false)) == 0 && len(validation.ValidateServiceAccountName(name, false)) == 0
	return namespace, name, ok
}
