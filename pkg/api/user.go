package api

import (
	"context"
	"slices"
)

// User is who makes a request. Kinds that record it (signing requests) find it in the context.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// InGroup reports whether the user belongs to a group.
func (u *User) InGroup(group string) bool { return slices.Contains(u.Groups, group) }

type userKey struct{}

// WithUser attaches who asks, for [Kind.PrepareForCreate].
func WithUser(ctx context.Context, user *User) context.Context {
	return context.WithValue(ctx, userKey{}, user)
}

// UserFrom returns who asks, nil outside of an authenticated request.
func UserFrom(ctx context.Context) *User {
	user, _ := ctx.Value(userKey{}).(*User)
	return user
}
