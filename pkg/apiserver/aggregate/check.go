package aggregate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/transport"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
)

const (
	// checkEvery is how often a server that answers is asked again; one that doesn't, after firstRetry and then less and
	// less often.
	checkEvery            = 30 * time.Second
	firstRetry, lastRetry = 100 * time.Millisecond, 10 * time.Second
	// checkTime is how long an answer may take, and tries how often it is asked at once when it failed: the service may lead
	// to another server each time.
	checkTime = 5 * time.Second
	tries     = 4
	// maxAnswer is the largest answer that is read.
	maxAnswer = 32 << 20
)

// keep keeps the condition of one APIService, and what is known of its resources, until ctx ends.
func (a *Aggregator) keep(ctx context.Context, gv schema.GroupVersion, poke <-chan struct{}) {
	defer a.metrics.forget(Name(gv))
	retry := firstRetry
	for ctx.Err() == nil {
		wait := checkEvery
		if !a.check(ctx, gv) {
			wait, retry = retry, min(retry*2, lastRetry)
		} else {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
		case <-poke:
			retry = firstRetry
		case <-time.After(wait):
		}
	}
}

// check looks at one APIService, and reports whether all is well.
func (a *Aggregator) check(ctx context.Context, gv schema.GroupVersion) bool {
	a.mu.Lock() // whoever has woken this up may not have finished
	r := a.State().Remote(gv)
	a.mu.Unlock()
	if r == nil {
		return true
	}
	condition, err := a.inspect(ctx, r)
	if err == nil && condition == nil {
		condition, err = a.question(ctx, r)
	}
	if err == nil {
		a.metrics.seen(r.object.Name, condition, r.answers)
		err = a.record(ctx, r.object, condition)
	}
	if err != nil && ctx.Err() == nil {
		a.cfg.Logger.Warn("checking an APIService; trying again", "name", r.object.Name, "error", err)
	}
	return err == nil && condition.Status == v1.ConditionTrue
}

// inspect is [judge] of what the cache has.
func (a *Aggregator) inspect(ctx context.Context, r *Remote) (*v1.APIServiceCondition, error) {
	reference := r.object.Spec.Service
	service, err := lookup.Get[*corev1.Service](ctx, a.cfg.Objects, services, reference.Namespace, reference.Name)
	if apierrors.IsNotFound(err) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	all, err := lookup.List[*discoveryv1.EndpointSlice](ctx, a.cfg.Objects, slicesOf, reference.Namespace)
	if err != nil {
		return nil, err
	}
	var own []*discoveryv1.EndpointSlice
	for _, slice := range all {
		if slice.Labels[discoveryv1.LabelServiceName] == reference.Name {
			own = append(own, slice)
		}
	}
	condition := judge(r.object, service, own)
	if condition != nil {
		a.learn(r, func(next *Remote) { next.answers = false })
	}
	return condition, nil
}

// question asks the server for its resources, which is a question that it can't refuse.
func (a *Aggregator) question(ctx context.Context, r *Remote) (*v1.APIServiceCondition, error) {
	list, err := a.resources(ctx, r)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		a.learn(r, func(next *Remote) { next.answers = false })
		return verdict(v1.ConditionFalse, "FailedDiscoveryCheck", "%v", err), nil
	}
	document := a.findDocument(ctx, r)
	a.learn(r, func(next *Remote) {
		next.resources, next.answers, next.document = resourcesOf(list, versionOf(r.object)), true, document
	})
	return verdict(v1.ConditionTrue, "Passed", "all checks passed"), nil
}

// learn changes what is known of a server, unless that is another one by now. What brings nothing new leaves the
// state as it is, and with it the documents that were made of it.
func (a *Aggregator) learn(asked *Remote, edit func(*Remote)) {
	a.change(func(s *State) {
		gv := versionOf(asked.object)
		now := s.remotes[gv]
		if now == nil || now.transport != asked.transport {
			return
		}
		next := *now
		edit(&next)
		if next.answers != now.answers || next.document != now.document || !equality.Semantic.DeepEqual(next.resources, now.resources) {
			s.remotes[gv] = &next
		}
	})
}

// resources asks once, and if that fails several times at once.
func (a *Aggregator) resources(ctx context.Context, r *Remote) (*metav1.APIResourceList, error) {
	path := "/apis/" + r.object.Spec.Group + "/" + r.object.Spec.Version
	if r.object.Spec.Group == "" {
		path = "/api/" + r.object.Spec.Version
	}
	ask := func() (*metav1.APIResourceList, error) {
		list := &metav1.APIResourceList{}
		return list, a.get(ctx, r, path, list)
	}
	list, err := ask()
	if err == nil {
		return list, nil
	}
	r.transport.CloseIdleConnections()
	type answer struct {
		list *metav1.APIResourceList
		err  error
	}
	answers := make(chan answer, tries)
	for range tries {
		go func() {
			list, err := ask()
			answers <- answer{list, err}
		}()
	}
	for range tries {
		got := <-answers
		if got.err == nil {
			return got.list, nil
		}
		err = got.err
	}
	return nil, err
}

// get asks a server as this server, not on behalf of anybody.
func (a *Aggregator) get(ctx context.Context, r *Remote, path string, into any) error {
	address, err := a.cfg.Resolve(ctx, r.object.Spec.Service.Namespace, r.object.Spec.Service.Name, portOf(r.object))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	url := "https://" + address + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	transport.SetAuthProxyHeaders(req, "system:kube-aggregator", "", []string{"system:masters"}, nil)
	answer, err := (&http.Client{Transport: r.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		return fmt.Errorf("failing or missing response from %s: %w", url, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode < http.StatusOK || answer.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("failing or missing response from %s: %w", url, badStatus{url, answer.StatusCode})
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("failing or missing response from %s: %w", url, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("unexpected answer from %s: %w", url, err)
	}
	return nil
}

// badStatus is an answer that is none.
type badStatus struct {
	url  string
	code int
}

func (b badStatus) Error() string { return fmt.Sprintf("bad status from %s: %d", b.url, b.code) }

func isStatus(err error, code int) bool {
	bad, ok := errors.AsType[badStatus](err)
	return ok && bad.code == code
}

// record writes a condition, if it says something new.
func (a *Aggregator) record(ctx context.Context, object *v1.APIService, condition *v1.APIServiceCondition) error {
	return a.cfg.Objects.Update(ctx, apiServices, "", object.Name, func(current api.Object) (api.Object, error) {
		now, _ := current.(*v1.APIService)
		if now == nil || now.UID != object.UID || !equality.Semantic.DeepEqual(now.Spec, object.Spec) {
			return nil, nil // it will be looked at anew
		}
		old := helper.GetAPIServiceConditionByType(now, v1.Available)
		if old != nil && old.Status == condition.Status && old.Reason == condition.Reason && old.Message == condition.Message {
			return nil, nil
		}
		next := now.DeepCopy()
		set := *condition
		set.LastTransitionTime = metav1.Now()
		helper.SetAPIServiceCondition(next, set)
		a.cfg.Logger.Info("an APIService's condition changes", "name", now.Name, "available", cmp.Or(set.Status, v1.ConditionUnknown), "reason", set.Reason, "message", set.Message)
		return a.cfg.Track(now, next), nil
	})
}
