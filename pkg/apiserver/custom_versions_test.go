package apiserver_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
	"skiff/pkg/apiserver"
	"skiff/pkg/store"
)

// hosts are a definition of two versions: v1 has host and port in one field, v2 in two.
func hosts(conversion string) string {
	return `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hosts.test.example.com}
spec:
  group: test.example.com
  scope: Namespaced
  names: {plural: hosts, kind: Host}
  conversion: ` + conversion + `
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .hostPort}]
    schema: {openAPIV3Schema: {type: object, properties: {hostPort: {type: string}, one: {type: string, default: first}}}}
  - name: v2
    served: true
    storage: false
    selectableFields: [{jsonPath: .host}]
    schema: {openAPIV3Schema: {type: object, properties: {host: {type: string}, port: {type: string}, two: {type: string, default: second}}}}
`
}

// Without a conversion versions differ in their names, their schemas and their defaults.
func TestVersions(t *testing.T) {
	c := startCustom(t)
	c.define(t, hosts("{strategy: None}"))
	ctx := limited(t)
	v1, v2 := c.of("test.example.com", "v1", "hosts", "default"), c.of("test.example.com", "v2", "hosts", "default")
	if _, err := v2.Create(ctx, object(t, `{apiVersion: test.example.com/v2, kind: Host, metadata: {name: a}, host: h}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	answer, err := c.etcd.Client().Get(ctx, "/registry/test.example.com/hosts/default/a")
	if err != nil || len(answer.Kvs) != 1 || !strings.Contains(string(answer.Kvs[0].Value), `"apiVersion":"test.example.com/v1"`) || strings.Contains(string(answer.Kvs[0].Value), `"host"`) {
		t.Errorf("%v %s", err, answer.Kvs)
	}
	got, err := v1.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.GetAPIVersion() != "test.example.com/v1" || got.Object["one"] != "first" || got.Object["host"] != nil {
		t.Errorf("%v %v", err, got)
	}
	list, err := v2.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].GetAPIVersion() != "test.example.com/v2" {
		t.Errorf("%v %v", err, list)
	}
	t.Run("fields owned in two versions", func(t *testing.T) {
		for owner, client := range map[string]string{"one": `{apiVersion: test.example.com/v1, kind: Host, metadata: {name: b, labels: {a: x}}}`, "two": `{apiVersion: test.example.com/v2, kind: Host, metadata: {name: b, labels: {b: x}}}`} {
			u := object(t, client)
			resource := v1
			if owner == "two" {
				resource = v2
			}
			if _, err := resource.Apply(ctx, "b", u, metav1.ApplyOptions{FieldManager: owner}); err != nil {
				t.Fatal(err)
			}
		}
		_, err := v2.Apply(ctx, "b", object(t, `{apiVersion: test.example.com/v2, kind: Host, metadata: {name: b, labels: {a: z, b: x}}}`), metav1.ApplyOptions{FieldManager: "two"})
		if err == nil || err.Error() != `Apply failed with 1 conflict: conflict with "one": .metadata.labels.a` {
			t.Error(err)
		}
	})
	t.Run("the storage version changes, and is not served", func(t *testing.T) {
		watch, err := v1.Watch(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		definitions := c.crds.ApiextensionsV1().CustomResourceDefinitions()
		crd, err := definitions.Get(ctx, "hosts.test.example.com", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		crd.Spec.Versions[0].Storage, crd.Spec.Versions[1].Storage, crd.Spec.Versions[1].Served = false, true, false
		crd.Spec.Versions[0].Deprecated = true
		if crd, err = definitions.Update(ctx, crd, metav1.UpdateOptions{}); err != nil || !slices.Equal(crd.Status.StoredVersions, []string{"v1", "v2"}) || crd.Generation != 2 {
			t.Fatalf("%v %+v", err, crd)
		}
		until(t, "v2 is still served", func() bool {
			code, _, _ := raw(t, c.instance, "GET", "/apis/test.example.com/v2/namespaces/default/hosts", "", "")
			return code == 404
		})
		for range watch.ResultChan() { // it ends
		}
		code, header, _ := raw(t, c.instance, "GET", "/apis/test.example.com/v1/namespaces/default/hosts/a", "", "")
		if code != 200 || !slices.Contains(header["Warning"], `299 - "test.example.com/v1 Host is deprecated"`) {
			t.Errorf("%d %v", code, header)
		}
		// Writing without a change moves an object to the storage version.
		got, err := v1.Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v1.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		answer, err := c.etcd.Client().Get(ctx, "/registry/test.example.com/hosts/default/a")
		if err != nil || !strings.Contains(string(answer.Kvs[0].Value), `"apiVersion":"test.example.com/v2"`) {
			t.Errorf("%v %s", err, answer.Kvs)
		}
		if _, err := v1.Get(ctx, "b", metav1.GetOptions{}); err != nil { // which is still v1
			t.Error(err)
		}
	})
}

// hook is a conversion webhook between the versions of hosts.
type hook struct {
	url, ca string
	calls   atomic.Int32
	change  func(*crdv1.ConversionReview) // of the answer
}

func startHook(t *testing.T, c *custom) *hook {
	h := &hook{change: func(*crdv1.ConversionReview) {}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(h.serve))
	certificate, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	pem, err := os.ReadFile(c.certFile)
	if err != nil {
		t.Fatal(err)
	}
	h.url, h.ca = server.URL+"/convert", base64.StdEncoding.EncodeToString(pem)
	return h
}

func (h *hook) serve(w http.ResponseWriter, r *http.Request) {
	h.calls.Add(1)
	var review crdv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = &crdv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, in := range review.Request.Objects {
		var u unstructured.Unstructured
		_ = u.UnmarshalJSON(in.Raw)
		if review.Request.DesiredAPIVersion == "test.example.com/v2" {
			host, port, _ := strings.Cut(fmt.Sprint(u.Object["hostPort"]), ":")
			u.Object["host"], u.Object["port"] = host, port
			delete(u.Object, "hostPort")
		} else {
			u.Object["hostPort"] = fmt.Sprintf("%v:%v", u.Object["host"], u.Object["port"])
			delete(u.Object, "host")
			delete(u.Object, "port")
		}
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Object: &u})
	}
	review.Request = nil
	h.change(&review)
	_ = json.NewEncoder(w).Encode(&review)
}

func TestConversionWebhook(t *testing.T) {
	c := startCustom(t)
	h := startHook(t, c)
	c.define(t, hosts(fmt.Sprintf("{strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: %q, caBundle: %s}}}", h.url, h.ca)))
	ctx := limited(t)
	v1, v2 := c.of("test.example.com", "v1", "hosts", "default"), c.of("test.example.com", "v2", "hosts", "default")
	made, err := v2.Create(ctx, object(t, `{apiVersion: test.example.com/v2, kind: Host, metadata: {name: a, labels: {x: z}}, host: h, port: "1"}`), metav1.CreateOptions{})
	if err != nil || made.Object["host"] != "h" || made.Object["two"] != nil {
		t.Fatalf("%v %v", err, made)
	}
	if _, err := v1.Create(ctx, object(t, `{apiVersion: test.example.com/v1, kind: Host, metadata: {name: b}, hostPort: "g:2"}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := v1.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.Object["hostPort"] != "h:1" || got.Object["host"] != nil || got.GetUID() != made.GetUID() || got.GetLabels()["x"] != "z" {
		t.Fatalf("%v %v", err, got)
	}
	list, err := v2.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 || list.Items[1].Object["host"] != "g" || list.Items[1].Object["port"] != "2" {
		t.Fatalf("%v %v", err, list)
	}
	before := h.calls.Load()
	if _, err := v2.List(ctx, metav1.ListOptions{}); err != nil || h.calls.Load() != before {
		t.Errorf("%v, converted again", err)
	}
	t.Run("each version has fields of its own", func(t *testing.T) {
		watch, err := v2.Watch(ctx, metav1.ListOptions{FieldSelector: "host=g"})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		if list, err := v2.List(ctx, metav1.ListOptions{FieldSelector: "host=g"}); err != nil || len(list.Items) != 1 || list.Items[0].GetName() != "b" {
			t.Errorf("%v %v", err, list)
		}
		if list, err := v1.List(ctx, metav1.ListOptions{FieldSelector: "hostPort=h:1"}); err != nil || len(list.Items) != 1 || list.Items[0].GetName() != "a" {
			t.Errorf("%v %v", err, list)
		}
		if event := <-watch.ResultChan(); event.Type != "ADDED" || event.Object.(*unstructured.Unstructured).GetName() != "b" {
			t.Errorf("%+v", event)
		}
		if _, err := v1.Patch(ctx, "b", types.MergePatchType, []byte(`{"hostPort":"z:9"}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if event := <-watch.ResultChan(); event.Type != "DELETED" {
			t.Errorf("%+v", event)
		}
	})
	t.Run("failures", func(t *testing.T) {
		const kind = "test.example.com/v2, Kind=Host"
		for want, change := range map[string]func(*crdv1.ConversionReview){
			"conversion webhook for " + kind + " failed: no": func(r *crdv1.ConversionReview) {
				r.Response.Result = metav1.Status{Status: metav1.StatusFailure, Message: "no"}
			},
			"conversion webhook for " + kind + " failed: no response provided":           func(r *crdv1.ConversionReview) { r.Response = nil },
			"conversion webhook for " + kind + " returned 0 objects, expected 1":         func(r *crdv1.ConversionReview) { r.Response.ConvertedObjects = nil },
			"conversion webhook for " + kind + " failed: expected response.uid=":         func(r *crdv1.ConversionReview) { r.Response.UID = "x" },
			"returned invalid object: must have the same name: bad != other":             changed(func(u *unstructured.Unstructured) { u.SetName("other") }),
			"returned invalid metadata: missing metadata in converted object":            changed(func(u *unstructured.Unstructured) { delete(u.Object, "metadata") }),
			"invalid groupVersion (expected test.example.com/v1, received x.y/v1)":       changed(func(u *unstructured.Unstructured) { u.SetAPIVersion("x.y/v1") }),
			`returned invalid metadata: metadata.labels: Invalid value: "not a label!":`: changed(func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{"not a label!": ""}) }),
		} {
			h.change = change
			_, err := v2.Create(ctx, object(t, `{apiVersion: test.example.com/v2, kind: Host, metadata: {name: bad}, host: h, port: "1"}`), metav1.CreateOptions{})
			if err == nil || !strings.Contains(err.Error(), want) && !(strings.Contains(want, "missing metadata") && strings.Contains(err.Error(), "must have the same name")) {
				t.Errorf("%v\nwant %s", err, want)
			}
		}
		h.change = func(*crdv1.ConversionReview) {}
	})
	t.Run("what failed is tried again", func(t *testing.T) {
		h.change = func(r *crdv1.ConversionReview) { r.Response = nil }
		if _, err := v1.Create(ctx, object(t, `{apiVersion: test.example.com/v1, kind: Host, metadata: {name: d}, hostPort: "g:2"}`), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := v2.Get(ctx, "d", metav1.GetOptions{}); err == nil {
			t.Error("read all the same")
		}
		h.change = func(*crdv1.ConversionReview) {}
		if _, err := v2.Get(ctx, "d", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func changed(change func(*unstructured.Unstructured)) func(*crdv1.ConversionReview) {
	return func(r *crdv1.ConversionReview) {
		for _, o := range r.Response.ConvertedObjects {
			change(o.Object.(*unstructured.Unstructured))
		}
	}
}

// Two definitions of a group can't have one name.
func TestNames(t *testing.T) {
	c := startCustom(t)
	c.define(t, simple("Thing", "{type: object}"))
	definitions := c.crds.ApiextensionsV1().CustomResourceDefinitions()
	ctx := limited(t)
	other := readCRD(t, simple("Other", "{type: object}"))
	other.Spec.Names.Kind, other.Spec.Names.ShortNames = "Thing", []string{"things"}
	if _, err := definitions.Create(ctx, other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	crd := c.await(t, other.Name, crdv1.NamesAccepted, crdv1.ConditionFalse)
	var texts []string
	for _, is := range crd.Status.Conditions {
		texts = append(texts, fmt.Sprintf("%s=%s %s: %s", is.Type, is.Status, is.Reason, is.Message))
	}
	if want := []string{`NamesAccepted=False ListKindConflict: "ThingList" is already in use`, "Established=False NotAccepted: not all names are accepted"}; !slices.Equal(texts, want) {
		t.Errorf("%q", texts)
	}
	if crd.Status.AcceptedNames.Plural != "others" || crd.Status.AcceptedNames.Kind != "" {
		t.Errorf("%+v", crd.Status.AcceptedNames)
	}
	if code, _, _ := raw(t, c.instance, "GET", "/apis/test.example.com/v1/others", "", ""); code != 404 {
		t.Error(code)
	}
	// Names that nobody has any more are free.
	if err := definitions.Delete(ctx, "things.test.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await(t, other.Name, crdv1.Established, crdv1.ConditionTrue)
	if code, _, _ := raw(t, c.instance, "GET", "/apis/test.example.com/v1/others", "", ""); code != 200 {
		t.Error(code)
	}
}

// another runs a second apiserver over the etcd of the first.
func another(t *testing.T, first *instance) *instance {
	t.Helper()
	rows := catalogue.Default()
	st := store.New(store.Config{Client: first.etcd.Client(), Stored: func(k *api.Kind) *api.Kind { return rows.View().Stored(k) }})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	cfg := apiserver.Config{
		Listener: listener, AdvertiseAddress: netip.MustParseAddr("127.0.0.2"), CertFile: first.certFile, KeyFile: first.keyFile,
		Catalogue: rows, Store: st, Etcd: first.etcd.Client(), Authenticator: everyone{}, Authorizer: everyone{}, Reviews: everyone{},
		ServiceRange: netip.MustParsePrefix("10.96.0.0/16"), NodePorts: [2]int{30000, 32767},
		Ready: func(net.Addr) { close(ready) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := st.Run(ctx); err != nil {
			t.Errorf("store: %v", err)
		}
	})
	group.Go(func() {
		if err := apiserver.Run(ctx, cfg); err != nil {
			t.Errorf("apiserver: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	<-ready
	config := rest.CopyConfig(first.config)
	config.Host = listener.Addr().String()
	return &instance{address: "https://" + config.Host, store: st, etcd: first.etcd, rows: rows, config: config}
}

// What one apiserver has established another one serves at once.
func TestTwoServers(t *testing.T) {
	a := startCustom(t)
	b := withClients(t, another(t, a.instance))
	for n := range 5 {
		kind := fmt.Sprintf("Thing%d", n)
		a.define(t, simple(kind, "{type: object}"))
		_, err := b.of("test.example.com", "v1", strings.ToLower(kind)+"s", "").Create(limited(t), object(t, `{apiVersion: test.example.com/v1, kind: `+kind+`, metadata: {name: a}}`), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	// Both give names, and never one name twice.
	var group sync.WaitGroup
	for n := range 6 {
		server := []*custom{a, b}[n%2]
		group.Go(func() {
			crd := readCRD(t, simple(fmt.Sprintf("Rival%d", n), "{type: object}"))
			crd.Spec.Names.Kind = "Rival"
			if _, err := server.crds.ApiextensionsV1().CustomResourceDefinitions().Create(limited(t), crd, metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	accepted := 0
	until(t, "names are not settled", func() bool {
		list, err := b.crds.ApiextensionsV1().CustomResourceDefinitions().List(limited(t), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		judged := 0
		accepted = 0
		for _, crd := range list.Items {
			for _, is := range crd.Status.Conditions {
				if crd.Spec.Names.Kind == "Rival" && is.Type == crdv1.NamesAccepted {
					judged++
					if is.Status == crdv1.ConditionTrue {
						accepted++
					}
				}
			}
		}
		return judged == 6
	})
	if accepted != 1 {
		t.Errorf("%d definitions have one kind", accepted)
	}
	// Both delete; one at the other's end is no harm.
	if err := b.crds.ApiextensionsV1().CustomResourceDefinitions().DeleteCollection(limited(t), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "definitions stay", func() bool {
		list, err := a.crds.ApiextensionsV1().CustomResourceDefinitions().List(limited(t), metav1.ListOptions{})
		return err == nil && len(list.Items) == 0
	})
	until(t, "objects stay", func() bool {
		answer, err := a.etcd.Client().Get(limited(t), "/registry/test.example.com/thing0s/a")
		return err == nil && len(answer.Kvs) == 0
	})
	until(t, "still served", func() bool {
		code, _, _ := raw(t, b.instance, "GET", "/apis/test.example.com", "", "")
		return code == 404
	})
}

// While a definition changes the version that is stored, again and again, objects are made: each keeps what is in it.
func TestStorageVersionChangesUnderWrites(t *testing.T) {
	c := startCustom(t)
	h := startHook(t, c)
	c.define(t, hosts(fmt.Sprintf(`{strategy: Webhook, webhook: {clientConfig: {url: %q, caBundle: %s}, conversionReviewVersions: [v1]}}`, h.url, h.ca)))
	ctx := limited(t)
	v1 := c.of("test.example.com", "v1", "hosts", "default")
	changing := make(chan error, 1)
	over := make(chan struct{})
	go func() {
		definitions := c.crds.ApiextensionsV1().CustomResourceDefinitions()
		for range 30 {
			err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
				crd, err := definitions.Get(ctx, "hosts.test.example.com", metav1.GetOptions{})
				if err != nil {
					return err
				}
				for i := range crd.Spec.Versions {
					crd.Spec.Versions[i].Storage = !crd.Spec.Versions[i].Storage
				}
				_, err = definitions.Update(ctx, crd, metav1.UpdateOptions{})
				return err
			})
			if err != nil {
				changing <- err
				break
			}
		}
		close(over)
	}()
	made := 0
	for done := false; !done; made++ {
		select {
		case <-over:
			done = true
		default:
		}
		u := object(t, fmt.Sprintf(`{apiVersion: test.example.com/v1, kind: Host, metadata: {name: h%d}, hostPort: "h:%d"}`, made, made))
		if _, err := v1.Create(ctx, u, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-changing:
		t.Fatal(err)
	default:
	}
	for i := range made {
		got, err := v1.Get(ctx, fmt.Sprintf("h%d", i), metav1.GetOptions{})
		if want := fmt.Sprintf("h:%d", i); err != nil || got.Object["hostPort"] != want {
			t.Errorf("%v: %v, want %s", err, got, want)
		}
	}
	t.Logf("%d objects", made)
}
