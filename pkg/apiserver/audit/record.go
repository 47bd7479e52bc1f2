package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"skiff/pkg/apiserver/request"
)

// Record is the event of a request that is being handled. It may be used concurrently, and all methods
// of a nil one do nothing.
type Record struct {
	log *Log
	decision

	mu    sync.Mutex
	event auditv1.Event
}

type contextKey struct{}

// With attaches a request's record, and has [request.Annotate] annotate it.
func With(ctx context.Context, r *Record) context.Context {
	return request.WithAnnotate(context.WithValue(ctx, contextKey{}, r), r.annotate)
}

// From returns a request's record; nil if nothing is written down of it.
func From(ctx context.Context) *Record {
	r, _ := ctx.Value(contextKey{}).(*Record)
	return r
}

// maxUserAgent is how much of a client's name for itself is kept.
const maxUserAgent = 1024

// Begin returns the record of a request, or nil where the policy wants none. user is nil when nobody was recognized.
func (l *Log) Begin(r *http.Request, user *request.User) *Record {
	info := request.InfoFrom(r.Context())
	decision := l.policy.decide(user, info)
	if decision.level == auditv1.LevelNone {
		return nil
	}
	record := &Record{log: l, decision: decision}
	e := &record.event
	e.TypeMeta = metav1.TypeMeta{Kind: "Event", APIVersion: auditv1.SchemeGroupVersion.String()}
	e.Level, e.Verb, e.RequestURI = decision.level, info.Verb, r.URL.RequestURI()
	e.AuditID = types.UID(request.AuditIDFrom(r.Context()))
	e.RequestReceivedTimestamp = metav1.NewMicroTime(time.Now())
	if e.UserAgent = r.UserAgent(); len(e.UserAgent) > maxUserAgent {
		e.UserAgent = e.UserAgent[:maxUserAgent] + "...TRUNCATED"
	}
	for _, ip := range utilnet.SourceIPs(r) {
		e.SourceIPs = append(e.SourceIPs, ip.String())
	}
	if user != nil {
		e.User = userInfo(user)
	}
	if info.IsResourceRequest {
		e.ObjectRef = &auditv1.ObjectReference{Namespace: info.Namespace, Name: info.Name, Resource: info.Resource,
			Subresource: info.Subresource, APIGroup: info.APIGroup, APIVersion: info.APIVersion}
	}
	return record
}

func userInfo(user *request.User) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: user.Name, UID: user.UID, Groups: user.Groups}
	for key, values := range user.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

// Impersonated notes in whose name the request is made.
func (r *Record) Impersonated(user *request.User) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	info := userInfo(user)
	r.event.ImpersonatedUser = &info
}

// Named notes the object's name, which the path of a create doesn't say.
func (r *Record) Named(name string) {
	if r == nil || name == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ref := r.event.ObjectRef; ref != nil && ref.Name == "" {
		ref.Name = name
	}
}

// annotate keeps what was said first, as Kubernetes does.
func (r *Record) annotate(key, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.event.Annotations[key]; ok {
		if old != value {
			slog.Warn("an audit annotation was set twice", "audit", r.event.AuditID, "key", key, "first", old, "second", value)
		}
		return
	}
	if r.event.Annotations == nil {
		r.event.Annotations = map[string]string{}
	}
	r.event.Annotations[key] = value
}

// WantsRequest says that the body of the request belongs into the event, WantsResponse that the answer's does.
func (r *Record) WantsRequest() bool {
	return r != nil && r.event.ObjectRef != nil && (r.level == auditv1.LevelRequest || r.level == auditv1.LevelRequestResponse)
}

// WantsResponse is WantsRequest for the answer.
func (r *Record) WantsResponse() bool {
	return r != nil && r.event.ObjectRef != nil && r.level == auditv1.LevelRequestResponse
}

// Request notes the request's body, a JSON document.
func (r *Record) Request(document []byte) {
	var about struct {
		Metadata struct {
			Namespace, Name, ResourceVersion string
			UID                              types.UID
		}
	}
	_ = json.Unmarshal(document, &about) // a patch may be no object at all
	document = r.trim(document)
	r.mu.Lock()
	defer r.mu.Unlock()
	ref, meta := r.event.ObjectRef, &about.Metadata
	for to, from := range map[*string]string{&ref.Namespace: meta.Namespace, &ref.Name: meta.Name, &ref.ResourceVersion: meta.ResourceVersion} {
		if *to == "" {
			*to = from
		}
	}
	if ref.UID == "" {
		ref.UID = meta.UID
	}
	r.event.RequestObject = &runtime.Unknown{Raw: document, ContentType: runtime.ContentTypeJSON}
}

// Response notes the answer's body, a JSON document.
func (r *Record) Response(document []byte) {
	document = r.trim(document)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.event.ResponseObject = &runtime.Unknown{Raw: document, ContentType: runtime.ContentTypeJSON}
}

// Status notes what the answer says when it is no object.
func (r *Record) Status(s *metav1.Status) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.event.ResponseStatus = &metav1.Status{Status: s.Status, Message: s.Message, Reason: s.Reason, Details: s.Details, Code: s.Code}
}

// Code notes the status code of the answer.
func (r *Record) Code(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.event.ResponseStatus == nil {
		r.event.ResponseStatus = &metav1.Status{}
	}
	r.event.ResponseStatus.Code = int32(code)
}

// Stage writes the event as it is at a stage of the request, unless the policy omits that.
func (r *Record) Stage(stage auditv1.Stage) {
	if r.omits(stage) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.event.Stage, r.event.StageTimestamp = stage, metav1.NewMicroTime(time.Now())
	if stage == auditv1.StageRequestReceived {
		r.event.StageTimestamp = r.event.RequestReceivedTimestamp
	}
	r.log.write(&r.event)
}

// Panicked is the last stage of a request whose handler panicked.
func (r *Record) Panicked(reason any) {
	r.Status(&metav1.Status{Code: http.StatusInternalServerError, Status: metav1.StatusFailure,
		Reason: metav1.StatusReasonInternalError, Message: fmt.Sprintf("APIServer panic'd: %v", reason)})
	r.Stage(auditv1.StagePanic)
}

// Attempted says how somebody who was not recognized had tried to be.
func Attempted(r *http.Request) string {
	var methods []string
	if _, _, ok := r.BasicAuth(); ok {
		methods = append(methods, "basic")
	}
	if scheme, _, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " "); ok && strings.EqualFold(scheme, "bearer") {
		methods = append(methods, "bearer")
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		methods = append(methods, "x509")
	}
	if len(methods) == 0 {
		return "Authentication failed, no credentials provided"
	}
	return "Authentication failed, attempted: " + strings.Join(methods, ", ")
}

// trim takes the managed fields out of a document where the policy says so: of an object, a list's items or a table's rows.
func (r *Record) trim(document []byte) []byte {
	var content map[string]any
	if !r.omitManagedFields || json.Unmarshal(document, &content) != nil {
		return document
	}
	forget(content)
	for _, list := range []string{"items", "rows"} {
		all, _ := content[list].([]any)
		for _, one := range all {
			object, _ := one.(map[string]any)
			forget(object)
			if row, ok := object["object"].(map[string]any); ok {
				forget(row)
			}
		}
	}
	trimmed, err := json.Marshal(content)
	if err != nil {
		return document
	}
	return trimmed
}

func forget(object map[string]any) {
	if metadata, ok := object["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
	}
}
