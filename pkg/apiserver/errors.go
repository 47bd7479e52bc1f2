package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
)

// status turns an error into what the client shall see. Errors that aren't statuses
// are failures of the server, and are logged.
func status(ctx context.Context, logger *slog.Logger, err error) *metav1.Status {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		s := known.Status()
		if s.Status == "" {
			s.Status = metav1.StatusFailure
		}
		if s.Code == 0 {
			s.Code = http.StatusInternalServerError
		}
		return &s
	}
	deadline, limited := ctx.Deadline()
	late := limited && !time.Now().Before(deadline) // then HTTP/1 may have cancelled the request before its context ended
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled) && late:
		s := apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0).Status()
		return &s
	case errors.Is(err, context.Canceled):
		// The client went away, or the server is stopping.
		s := apierrors.NewServiceUnavailable("the request was cancelled").Status()
		return &s
	}
	logger.Error("request failed", "error", err, "audit", request.AuditIDFrom(ctx))
	return &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
}

// writeError answers with the status of err, in the format the client accepts.
func (s *server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errNoAPI) {
		http.NotFound(w, r)
		return
	}
	st := status(r.Context(), s.logger, err)
	if st.Details != nil && st.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(st.Details.RetryAfterSeconds)))
	}
	if st.Code == http.StatusNoContent {
		w.WriteHeader(int(st.Code))
		return
	}
	s.writeStatus(w, r, st)
}

func (s *server) writeStatus(w http.ResponseWriter, r *http.Request, st *metav1.Status) {
	st.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	accepted := s.codec.accept(r, nil)
	if accepted == nil {
		// Errors are sent even to whom asked for a format that there isn't.
		accepted = &accept{info: s.codec.info(runtime.ContentTypeJSON)}
	}
	s.writeObject(w, r, int(st.Code), accepted, st)
}

// errNoAPI is for paths where no API begins: the answer is a line of text, as from any server.
var errNoAPI = errors.New("no API begins with this path")

// notFoundIn is for paths of a group that lead nowhere. Only the server's own groups answer with a Status, as in Kubernetes.
func (s *server) notFoundIn(group string) error {
	if slices.ContainsFunc(s.cfg.Catalogue.View().Kinds(), func(k *api.Kind) bool { return k.Group == group && k.Custom == nil }) {
		return notFoundPath()
	}
	return errNoAPI
}

func notFoundPath() error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false)
}

func methodNotAllowed() error {
	return apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", schema.GroupResource{}, "", "", 0, false)
}

// unroutable refuses a request whose media types no route of Kubernetes has; it refuses in these words then,
// before it looks at the resource.
func unroutable(code int, message string) error {
	return apierrors.NewGenericServerResponse(code, "", schema.GroupResource{}, "", message, 0, false)
}

func unsupportedMediaType(accepted []string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusUnsupportedMediaType,
		Reason:  metav1.StatusReasonUnsupportedMediaType,
		Message: "the body of the request was in an unknown format - accepted media types include: " + strings.Join(accepted, ", "),
	}}
}

func notAcceptable(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusNotAcceptable,
		Reason:  metav1.StatusReasonNotAcceptable,
		Message: message,
	}}
}
