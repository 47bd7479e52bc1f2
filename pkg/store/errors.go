package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

// The texts are Kubernetes' own: clients and scripts match on them.
const (
	tooOldWatch    = "The resourceVersion for the provided watch is too old."
	tooOldList     = "The resourceVersion for the provided list is too old."
	objectModified = "the object has been modified; please apply your changes to the latest version and try again"

	tooOldContinue = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list."
)

func notFound(kind *api.Kind, name string) error {
	return apierrors.NewNotFound(kind.GroupResource(), name)
}

func conflict(kind *api.Kind, name, format string, args ...any) error {
	return apierrors.NewConflict(kind.GroupResource(), name, fmt.Errorf(format, args...))
}

func tooOld(asked, oldest int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", asked, oldest))
}

// tooLarge answers a read at a revision that etcd has not reached.
func tooLarge(asked, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}

// unavailable turns etcd's failures into what clients understand: 504 when the outcome isn't known,
// 413 for an object that etcd won't take. Everything else says what was being done.
func unavailable(doing string, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case errors.Is(err, rpctypes.ErrNoSpace):
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure,
			Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError, Message: err.Error()}}
	case inDoubt(err):
		return apierrors.NewTimeoutError(err.Error(), 1)
	}
	if status.Code(err) == codes.ResourceExhausted { // gRPC's own limit on messages
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// inDoubt says that etcd may have done what it was asked, or may yet, or not.
func inDoubt(err error) bool {
	if slices.ContainsFunc(transient, func(t error) bool { return errors.Is(err, t) }) {
		return true
	}
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// transient are failures after which etcd may have done what it was asked, or not.
var transient = []error{
	rpctypes.ErrNoLeader, rpctypes.ErrLeaderChanged, rpctypes.ErrStopped, rpctypes.ErrTimeout,
	rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrTimeoutWaitAppliedIndex,
	context.DeadlineExceeded,
}

// parseRevision reads a request's resourceVersion; empty is 0.
func parseRevision(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: resourceVersion: Invalid value: %q: %v", s, err))
	}
	return int64(n), nil
}
