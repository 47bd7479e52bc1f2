package apiserver

import (
	"encoding/json"
	"mime"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/audit"
	"skiff/pkg/apiserver/request"
)

// audited writes down what is asked for, and what comes of it.
func (s *server) audited(next http.Handler) http.Handler {
	if s.cfg.Audit == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := request.InfoFrom(r.Context())
		record := s.cfg.Audit.Begin(r, request.UserFrom(r.Context()))
		if record == nil {
			next.ServeHTTP(w, r)
			return
		}
		record.Stage(auditv1.StageRequestReceived)
		begun := false
		seen := &statusWriter{ResponseWriter: w}
		seen.first = func(code int) {
			begun = true
			record.Code(code)
			if info.LongRunning() {
				record.Stage(auditv1.StageResponseStarted)
			}
		}
		defer func() {
			record.Named(info.Name)
			if reason := recover(); reason != nil {
				record.Panicked(reason)
				panic(reason)
			}
			if !begun {
				record.Status(&metav1.Status{Code: http.StatusOK, Status: metav1.StatusSuccess, Message: "Connection closed early"})
				if info.LongRunning() {
					record.Stage(auditv1.StageResponseStarted)
				}
			}
			record.Stage(auditv1.StageResponseComplete)
		}()
		next.ServeHTTP(seen, r.WithContext(audit.With(r.Context(), record)))
	})
}

// auditUnknown writes down that somebody was not recognized.
func (s *server) auditUnknown(r *http.Request) {
	if s.cfg.Audit == nil {
		return
	}
	if record := s.cfg.Audit.Begin(r, nil); record != nil {
		record.Status(&metav1.Status{Message: audit.Attempted(r)})
		record.Code(http.StatusUnauthorized)
		record.Stage(auditv1.StageResponseStarted)
	}
}

// auditRequest notes a request's body where the audit policy wants it.
func auditRequest(r *http.Request, body []byte) {
	if record := audit.From(r.Context()); record.WantsRequest() && len(body) > 0 {
		if document := jsonDocument(r.Header.Get("Content-Type"), body); document != nil {
			record.Request(document)
		}
	}
}

// auditResponse notes an answer's body where the audit policy wants it.
func auditResponse(r *http.Request, contentType string, chunks [][]byte) {
	if record := audit.From(r.Context()); record.WantsResponse() {
		if document := jsonDocument(contentType, concat(chunks)); document != nil {
			record.Response(document)
		}
	}
}

var protobufSerializer = protobuf.NewSerializer(api.Scheme, api.Scheme)

// jsonDocument is a body as JSON; nil if it can't be read.
func jsonDocument(contentType string, body []byte) []byte {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		mediaType = runtime.ContentTypeJSON
	}
	switch {
	case mediaType == runtime.ContentTypeProtobuf:
		obj, kind, err := protobufSerializer.Decode(body, nil, nil)
		if err != nil {
			return nil
		}
		obj.GetObjectKind().SetGroupVersionKind(*kind)
		document, _ := json.Marshal(obj)
		return document
	case strings.HasSuffix(mediaType, "yaml"):
		document, _ := yaml.YAMLToJSON(body)
		return document
	case json.Valid(body):
		return body
	}
	return nil
}
