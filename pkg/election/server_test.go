//lint:file-ignore SA1019 the lock stands in an Endpoints object, deprecated or not

package election

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// server is an apiserver in memory, as small as the lock needs it: Endpoints
// and Leases with compare-and-swap and watches, and "configmaps", whose writes
// are noted with who made them and are fenced.
type server struct {
	fencing bool

	mu       sync.Mutex
	revision int64
	objects  map[string]metav1.Object // by path
	epoch    int64
	watchers map[chan []byte]string // path prefix
	writes   []write
	refused  int // fenced
	events   []string
}

type write struct {
	by string
	at time.Time
}

func newServer(fencing bool) *server {
	return &server{fencing: fencing, objects: map[string]metav1.Object{}, watchers: map[chan []byte]string{}}
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	if r.URL.Query().Get("watch") != "" {
		return s.watch(r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	header := http.Header{"Content-Type": {"application/json"}}
	object, err := s.serve(r, body, header)
	code := http.StatusOK
	if err != nil {
		status := err.(apierrors.APIStatus).Status()
		status.Kind, status.APIVersion = "Status", "v1"
		object, code = &status, int(status.Code)
	}
	text, _ := json.Marshal(object)
	return &http.Response{StatusCode: code, Header: header, Body: io.NopCloser(bytes.NewReader(text)), Request: r}, nil
}

func (s *server) serve(r *http.Request, body []byte, header http.Header) (any, error) {
	path := r.URL.Path
	parts := strings.Split(strings.Trim(path, "/"), "/")
	var resource string
	for i, part := range parts {
		if part == "namespaces" && len(parts) > i+2 {
			resource = parts[i+2]
		}
	}
	resourceOf := schema.GroupResource{Resource: resource}
	switch {
	case resource == "events":
		var event corev1.Event
		if err := json.Unmarshal(body, &event); err == nil {
			s.events = append(s.events, event.InvolvedObject.Kind+": "+event.Message)
		}
		return &event, nil
	case resource == "configmaps":
		if fence := r.Header.Get(FenceHeader); s.fencing && fence != "kube-system/test="+strconv.FormatInt(s.epoch, 10) {
			s.refused++
			return nil, &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: ReasonFenced,
				Message: fmt.Sprintf("fence %q is over, epoch is %d", fence, s.epoch)}}
		}
		s.writes = append(s.writes, write{r.Header.Get("Who"), time.Now()})
		return &corev1.ConfigMap{}, nil
	case r.Method == http.MethodGet && parts[len(parts)-1] == resource: // a list
		list := &coordinationv1.LeaseList{TypeMeta: metav1.TypeMeta{Kind: "LeaseList", APIVersion: "coordination.k8s.io/v1"}}
		list.ResourceVersion = strconv.FormatInt(s.revision, 10)
		for _, object := range s.objects {
			if lease, ok := object.(*coordinationv1.Lease); ok {
				list.Items = append(list.Items, *lease)
			}
		}
		return list, nil
	case r.Method == http.MethodGet:
		if object := s.objects[path]; object != nil {
			return object, nil
		}
		return nil, apierrors.NewNotFound(resourceOf, path)
	}

	var object metav1.Object = &coordinationv1.Lease{}
	if resource == "endpoints" {
		object = &corev1.Endpoints{}
	}
	if err := json.Unmarshal(body, object); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if r.Method == http.MethodPost {
		path += "/" + object.GetName()
	}
	old := s.objects[path]
	switch {
	case r.Method == http.MethodPost && old != nil:
		return nil, apierrors.NewAlreadyExists(resourceOf, path)
	case r.Method == http.MethodPut && old == nil:
		return nil, apierrors.NewNotFound(resourceOf, path)
	case r.Method == http.MethodPut && object.GetResourceVersion() != old.GetResourceVersion():
		return nil, apierrors.NewConflict(resourceOf, path, fmt.Errorf("stale"))
	}
	s.revision++
	object.SetResourceVersion(strconv.FormatInt(s.revision, 10))
	s.objects[path] = object
	switch o := object.(type) {
	case *corev1.Endpoints:
		before, _ := old.(*corev1.Endpoints)
		if recordOfEndpoints(before).HolderIdentity != recordOfEndpoints(o).HolderIdentity {
			s.epoch = s.revision
		}
		if s.fencing {
			header.Set(EpochHeader, strconv.FormatInt(s.epoch, 10))
		}
	case *coordinationv1.Lease:
		kind := "MODIFIED"
		if old == nil {
			kind = "ADDED"
		}
		s.tell(kind, o)
	}
	return object, nil
}

func (s *server) tell(kind string, lease *coordinationv1.Lease) {
	withKind := *lease
	withKind.Kind, withKind.APIVersion = "Lease", "coordination.k8s.io/v1"
	text, _ := json.Marshal(map[string]any{"type": kind, "object": &withKind})
	for w := range s.watchers {
		w <- text
	}
}

func (s *server) watch(r *http.Request) (*http.Response, error) {
	header := http.Header{"Content-Type": {"application/json"}}
	if r.URL.Query().Get("sendInitialEvents") != "" {
		status := apierrors.NewInvalid(schema.GroupKind{}, "", nil).Status()
		status.Kind, status.APIVersion = "Status", "v1"
		text, _ := json.Marshal(status)
		return &http.Response{StatusCode: http.StatusUnprocessableEntity, Header: header, Body: io.NopCloser(bytes.NewReader(text)), Request: r}, nil
	}
	events := make(chan []byte, 1000)
	s.mu.Lock()
	s.watchers[events] = r.URL.Path
	s.mu.Unlock()
	reader, writer := io.Pipe()
	go func() {
		defer func() {
			s.mu.Lock()
			delete(s.watchers, events)
			s.mu.Unlock()
		}()
		for {
			select {
			case <-r.Context().Done():
				writer.CloseWithError(r.Context().Err())
				return
			case event := <-events:
				if _, err := writer.Write(event); err != nil {
					return
				}
			}
		}
	}()
	return &http.Response{StatusCode: http.StatusOK, Header: header, Body: reader, Request: r}, nil
}

// remove deletes one half of the lock.
func (s *server) remove(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, object := range s.objects {
		if !strings.Contains(path, "/"+resource+"/") {
			continue
		}
		s.revision++
		delete(s.objects, path)
		object.SetResourceVersion(strconv.FormatInt(s.revision, 10))
		switch o := object.(type) {
		case *corev1.Endpoints:
			s.epoch = s.revision
		case *coordinationv1.Lease:
			s.tell("DELETED", o)
		}
	}
}

// holders returns who stands in the two halves of the lock.
func (s *server) holders() (endpoints, lease string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, object := range s.objects {
		switch o := object.(type) {
		case *corev1.Endpoints:
			endpoints = recordOfEndpoints(o).HolderIdentity
		case *coordinationv1.Lease:
			lease = resourcelock.LeaseSpecToLeaderElectionRecord(&o.Spec).HolderIdentity
		}
	}
	return endpoints, lease
}
