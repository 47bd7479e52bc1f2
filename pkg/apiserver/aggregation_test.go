package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	crdclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/utils/ptr"

	"skiff/pkg/apiserver"
	"skiff/pkg/apiserver/authn"
	"skiff/pkg/pki"
)

// aggregated is a secured server, and the server of an API that it aggregates: wardle.example.com/v1alpha1, with flunders.
type aggregated struct {
	*instance
	authority, front *pki.Authority
	admin            *rest.Config
	client           kubernetes.Interface
	services         aggregatorclient.Interface

	wardleCA *pki.Authority
	listener net.Listener
	server   *httptest.Server

	mu    sync.Mutex
	seen  map[string]http.Header // the last request's headers, by path
	ready bool                   // or: it answers everything with 500
}

// The server of the API listens on the very cluster IP of its service: all of 127.0.0.0/8 is this machine.
const wardleIP = "127.10.0.9"

var flunders = schema.GroupVersionResource{Group: "wardle.example.com", Version: "v1alpha1", Resource: "flunders"}

func startAggregated(t *testing.T) *aggregated {
	t.Helper()
	a := &aggregated{seen: map[string]http.Header{}, ready: true}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	made := func(name string) *pki.Authority {
		authority, err := pki.NewAuthority(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := authority.Pair().Write(file(name)); err != nil {
			t.Fatal(err)
		}
		return authority
	}
	a.authority, a.front, a.wardleCA = made("ca"), made("front"), made("wardle")
	issue(t, a.front, pki.Request{CommonName: "front-proxy-client", Client: true}, file("proxy"))
	signing, err := pki.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("sa.key"), signing.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	a.instance = start(t, func(c *apiserver.Config) {
		c.ServiceRange = netip.MustParsePrefix("127.10.0.0/16")
		c.ProxyCertFile, c.ProxyKeyFile = file("proxy.crt"), file("proxy.key")
		if err := apiserver.Secure(c, apiserver.Security{
			ClientCAFile: file("ca.crt"), SigningKeyFile: file("sa.key"), Issuers: []string{"https://kubernetes.default.svc"},
			FrontProxy: authn.FrontProxyConfig{CAFile: file("front.crt"), Names: []string{"front-proxy-client"}, UserHeaders: []string{"X-Remote-User"},
				GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"}},
		}); err != nil {
			t.Fatal(err)
		}
	})
	a.admin = a.as(t, "alice", "system:masters")
	a.client, a.services = kubernetes.NewForConfigOrDie(a.admin), aggregatorclient.NewForConfigOrDie(a.admin)
	eventually(t, func(ctx context.Context) (bool, error) {
		_, err := a.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil, nil
	})
	return a
}

func issue(t *testing.T, by *pki.Authority, r pki.Request, file string) pki.Pair {
	t.Helper()
	pair, err := by.Issue(r)
	if err == nil && file != "" {
		err = pair.Write(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func (a *aggregated) as(t *testing.T, name string, groups ...string) *rest.Config {
	t.Helper()
	pair := issue(t, a.authority, pki.Request{CommonName: name, Organizations: groups, Client: true}, "")
	config := rest.CopyConfig(a.config)
	config.CertData, config.KeyData = pair.Cert, pair.Key
	return config
}

// serveWardle starts the API's server, which takes nobody but the front proxy.
func (a *aggregated) serveWardle(t *testing.T, address string) {
	t.Helper()
	pair := issue(t, a.wardleCA, pki.Request{CommonName: "wardle", Hosts: []string{"api.wardle.svc"}, Server: true}, "")
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(a.front.Pair().Cert)
	if a.listener, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(a.wardle))
	server.Listener.Close()
	server.Listener = a.listener
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it is shown untrusted certificates
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.StartTLS()
	a.server = server
	t.Cleanup(server.Close)
}

func (a *aggregated) port() int32 { return int32(a.listener.Addr().(*net.TCPAddr).Port) }

const flunder = `{"kind":"Flunder","apiVersion":"wardle.example.com/v1alpha1","metadata":{"name":"f","namespace":"default","resourceVersion":"7"}}`

func (a *aggregated) wardle(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.seen[r.URL.Path] = r.Header.Clone()
	ready := a.ready
	a.mu.Unlock()
	if !ready {
		http.Error(w, "not now", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	const base = "/apis/wardle.example.com/v1alpha1"
	switch r.URL.Path {
	case base:
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"wardle.example.com/v1alpha1","resources":[
			{"name":"flunders","singularName":"flunder","namespaced":true,"kind":"Flunder","verbs":["get","list","watch","delete","deletecollection"],"shortNames":["fl"]},
			{"name":"flunders/stream","namespaced":true,"kind":"Flunder","verbs":["get"]}]}`)
	case base + "/namespaces/default/flunders", base + "/flunders":
		if r.URL.Query().Get("watch") == "" {
			fmt.Fprintf(w, `{"kind":"FlunderList","apiVersion":"wardle.example.com/v1alpha1","metadata":{"resourceVersion":"7"},"items":[%s]}`, flunder)
			return
		}
		fmt.Fprintf(w, `{"type":"ADDED","object":%s}`+"\n", flunder)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case base + "/namespaces/default/flunders/f":
		fmt.Fprint(w, flunder)
	case base + "/namespaces/default/flunders/f/stream":
		echo(w, r)
	case "/openapi/v2":
		fmt.Fprint(w, `{"swagger":"2.0","paths":{"/apis/wardle.example.com/v1alpha1/flunders":{"get":{}}}}`)
	case "/openapi/v3":
		fmt.Fprint(w, `{"paths":{"apis/wardle.example.com/v1alpha1":{"serverRelativeURL":"/openapi/v3/apis/wardle.example.com/v1alpha1?hash=A"},"version":{"serverRelativeURL":"/openapi/v3/version?hash=B"}}}`)
	case "/openapi/v3/apis/wardle.example.com/v1alpha1":
		fmt.Fprint(w, `{"openapi":"3.0.0","info":{"title":"wardle"},"paths":{}}`)
	default:
		http.NotFound(w, r)
	}
}

// echo upgrades to a stream, and sends back what comes.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
	rw.Flush()
	io.Copy(conn, rw)
}

func (a *aggregated) last(path string) http.Header {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[path]
}

func (a *aggregated) endpoints(t *testing.T) {
	t.Helper()
	_, err := a.client.DiscoveryV1().EndpointSlices("wardle").Create(limited(t), &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "api", Labels: map[string]string{discoveryv1.LabelServiceName: "api"}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports:     []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(a.port())}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// register makes the APIService and what it needs.
func (a *aggregated) register(t *testing.T) {
	t.Helper()
	ctx := limited(t)
	if _, err := a.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wardle"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.client.CoreV1().Services("wardle").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "api"},
		Spec: corev1.ServiceSpec{ClusterIP: wardleIP, Ports: []corev1.ServicePort{{Name: "https", Port: a.port()}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.endpoints(t)
	if _, err := a.services.ApiregistrationV1().APIServices().Create(ctx, a.apiService(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (a *aggregated) apiService() *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1alpha1.wardle.example.com"}, Spec: apiregistrationv1.APIServiceSpec{
		Group: "wardle.example.com", Version: "v1alpha1", GroupPriorityMinimum: 2000, VersionPriority: 200, CABundle: a.wardleCA.Pair().Cert,
		Service: &apiregistrationv1.ServiceReference{Namespace: "wardle", Name: "api", Port: ptr.To(a.port())},
	}}
}

// becomes waits until the APIService's condition has a reason, and returns its message.
func (a *aggregated) becomes(t *testing.T, reason string) (message string) {
	t.Helper()
	eventually(t, func(ctx context.Context) (bool, error) {
		s, err := a.services.ApiregistrationV1().APIServices().Get(ctx, "v1alpha1.wardle.example.com", metav1.GetOptions{})
		if err != nil || len(s.Status.Conditions) == 0 {
			return false, err
		}
		message = s.Status.Conditions[0].Message
		return s.Status.Conditions[0].Reason == reason, nil
	})
	return message
}

func TestAggregation(t *testing.T) {
	a := startAggregated(t)
	a.serveWardle(t, wardleIP+":0")
	a.register(t)
	if message := a.becomes(t, "Passed"); message != "all checks passed" {
		t.Error(message)
	}
	t.Run("objects", a.testObjects)
	t.Run("identity", a.testIdentity)
	t.Run("stream", a.testStream)
	t.Run("discovery", a.testDiscovery)
	t.Run("documents", a.testDocuments)
	t.Run("registration", a.testRegistration)
	t.Run("availability", a.testAvailability) // and after it the API is gone
}

func (a *aggregated) testObjects(t *testing.T) {
	ctx := limited(t)
	client := dynamic.NewForConfigOrDie(a.admin).Resource(flunders).Namespace("default")
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].GetName() != "f" {
		t.Fatalf("%v %v", list, err)
	}
	if _, err := client.Get(ctx, "f", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := client.Get(ctx, "g", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what the other server hasn't: %v", err)
	}
	w, err := client.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if e := <-w.ResultChan(); e.Type != watch.Added {
		t.Errorf("%+v", e)
	}
	nobody := dynamic.NewForConfigOrDie(a.as(t, "bob")).Resource(flunders).Namespace("default")
	if _, err := nobody.List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("somebody without rights: %v", err)
	}
}

// testIdentity: the other server hears who asks, and believes nothing that the client says of itself.
func (a *aggregated) testIdentity(t *testing.T) {
	const path = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders/f"
	for name, want := range map[string]string{"alice": "alice [system:masters system:authenticated]", "jack": "jack [system:masters g system:authenticated]"} {
		request := kubernetes.NewForConfigOrDie(a.admin).Discovery().RESTClient().Get().AbsPath(path).
			SetHeader("X-Remote-User", "mallory").SetHeader("X-Remote-Group", "system:masters").SetHeader("X-Remote-Extra-Scopes", "all").SetHeader("X-Remote-Uid", "0").
			SetHeader("X-Forwarded-For", "192.0.2.7").SetHeader("X-Forwarded-Proto", "gopher").SetHeader("Audit-ID", "audit-"+name)
		if name != "alice" {
			request = request.SetHeader("Impersonate-User", name).SetHeader("Impersonate-Group", "system:masters", "g")
		}
		if _, err := request.DoRaw(limited(t)); err != nil {
			t.Fatal(err)
		}
		got := a.last(path)
		if who := fmt.Sprint(got.Get("X-Remote-User"), " ", got["X-Remote-Group"]); who != want || got["X-Remote-Extra-Scopes"] != nil || got["X-Remote-Uid"] != nil {
			t.Errorf("%s: %s %v", name, who, got)
		}
		if got.Get("X-Forwarded-For") != "127.0.0.1" || got.Get("X-Forwarded-Proto") != "" || got.Get("Authorization") != "" || got.Get("Impersonate-User") != "" || got.Get("Audit-Id") != "audit-"+name {
			t.Errorf("%s: headers %v", name, got)
		}
	}
}

func (a *aggregated) testStream(t *testing.T) {
	config, err := rest.TLSConfigFor(a.admin)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", a.config.Host, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const path = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders/f/stream"
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Remote-User: mallory\r\n\r\n", path)
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols || answer.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v %v", answer, err)
	}
	fmt.Fprintln(conn, "ping")
	if line, err := in.ReadString('\n'); err != nil || line != "ping\n" {
		t.Errorf("%q %v", line, err)
	}
	if who := a.last(path)["X-Remote-User"]; !slices.Equal(who, []string{"alice"}) {
		t.Errorf("the stream is %v's", who)
	}
}

func (a *aggregated) testDiscovery(t *testing.T) {
	ctx := limited(t)
	for name, client := range map[string]*discovery.DiscoveryClient{"all at once": discovery.NewDiscoveryClientForConfigOrDie(a.admin), "one by one": discovery.NewDiscoveryClientForConfigOrDie(a.admin).WithLegacy().(*discovery.DiscoveryClient)} {
		groups, resources, err := client.ServerGroupsAndResources()
		if err != nil {
			t.Fatal(err)
		}
		// After Kubernetes' own groups, and before those of custom resources.
		if last := groups[len(groups)-1]; last.Name != "wardle.example.com" || last.PreferredVersion.Version != "v1alpha1" {
			t.Errorf("%s: the last group is %v", name, last)
		}
		var found *metav1.APIResource
		for _, list := range resources {
			for _, r := range list.APIResources {
				if list.GroupVersion == "wardle.example.com/v1alpha1" && r.Name == "flunders" {
					found = &r
				}
			}
		}
		if found == nil || found.Kind != "Flunder" || found.SingularName != "flunder" || !found.Namespaced || !slices.Equal(found.ShortNames, []string{"fl"}) {
			t.Errorf("%s: %+v", name, found)
		}
	}
	body, err := a.client.Discovery().RESTClient().Get().AbsPath("/apis/wardle.example.com").DoRaw(ctx)
	if err != nil || !strings.Contains(string(body), `"preferredVersion":{"groupVersion":"wardle.example.com/v1alpha1"`) {
		t.Errorf("%s %v", body, err)
	}
	s, err := a.services.ApiregistrationV1().APIServices().Get(ctx, "v1.apps", metav1.GetOptions{})
	if err != nil || s.Labels["kube-aggregator.kubernetes.io/automanaged"] != "onstart" || s.Spec.GroupPriorityMinimum != 17800 || s.Status.Conditions[0].Reason != "Local" {
		t.Errorf("%+v %v", s, err)
	}
}

// testRegistration: custom resources have APIServices for as long as they are defined.
func (a *aggregated) testRegistration(t *testing.T) {
	c := &custom{instance: a.instance}
	var err error
	if c.crds, err = crdclient.NewForConfig(a.admin); err != nil {
		t.Fatal(err)
	}
	crd := c.define(t, simple("Barge", "{type: object}"))
	name := crd.Spec.Versions[0].Name + "." + crd.Spec.Group
	services := a.services.ApiregistrationV1().APIServices()
	eventually(t, func(ctx context.Context) (bool, error) {
		s, err := services.Get(ctx, name, metav1.GetOptions{})
		return err == nil && s.Labels["kube-aggregator.kubernetes.io/automanaged"] == "true" && s.Spec.GroupPriorityMinimum == 1000, nil
	})
	ctx := limited(t)
	// Somebody changes what is ours, and deletes what isn't wanted any more.
	patch := []byte(`{"spec":{"versionPriority":7}}`)
	if _, err := services.Patch(ctx, name, "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) (bool, error) {
		s, err := services.Get(ctx, name, metav1.GetOptions{})
		return err == nil && s.Spec.VersionPriority == 100, err
	})
	// APIServices themselves stay here, whatever one of them says.
	own := a.apiService()
	own.Name, own.Spec.Group, own.Spec.Version = "v1.apiregistration.k8s.io", "apiregistration.k8s.io", "v1"
	if _, err := services.Create(ctx, own, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := services.Delete(ctx, own.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(ctx, crd.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) (bool, error) {
		_, err := services.Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

func (a *aggregated) testDocuments(t *testing.T) {
	ctx := limited(t)
	paths, err := a.client.Discovery().OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	wardle := paths["apis/wardle.example.com/v1alpha1"]
	if wardle == nil || paths["apis/apps/v1"] == nil {
		t.Fatalf("%v", paths)
	}
	if text, err := wardle.Schema("application/json"); err != nil || !strings.Contains(string(text), `"title":"wardle"`) {
		t.Errorf("%s %v", text, err)
	}
	swagger, err := a.client.Discovery().RESTClient().Get().AbsPath("/openapi/v2").DoRaw(ctx)
	if err != nil || !strings.Contains(string(swagger), `"/apis/wardle.example.com/v1alpha1/flunders":{"get":{}}`) {
		t.Errorf("%.200s %v", swagger, err)
	}
	config, err := a.client.CoreV1().ConfigMaps("kube-system").Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if config.Data["client-ca-file"] != string(a.authority.Pair().Cert) || config.Data["requestheader-client-ca-file"] != string(a.front.Pair().Cert) ||
		config.Data["requestheader-allowed-names"] != `["front-proxy-client"]` || config.Data["requestheader-username-headers"] != `["X-Remote-User"]` {
		t.Errorf("%v", config.Data)
	}
}

func (a *aggregated) testAvailability(t *testing.T) {
	ctx := limited(t)
	client := dynamic.NewForConfigOrDie(a.admin).Resource(flunders).Namespace("default")
	gone := func(reason, message string) {
		t.Helper()
		if got := a.becomes(t, reason); !strings.Contains(got, message) {
			t.Errorf("%s: %s", reason, got)
		}
		if _, err := client.List(ctx, metav1.ListOptions{}); !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s: a list says %v", reason, err)
		}
		_, _, err := discovery.NewDiscoveryClientForConfigOrDie(a.admin).ServerGroupsAndResources()
		failed, ok := discovery.GroupDiscoveryFailedErrorGroups(err)
		if gv := flunders.GroupVersion(); !ok || len(failed) != 1 || failed[gv] == nil {
			t.Errorf("%s: discovery says %v", reason, err)
		}
	}
	back := func() {
		t.Helper()
		a.becomes(t, "Passed")
		if _, err := client.List(ctx, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
	}
	if err := a.client.DiscoveryV1().EndpointSlices("wardle").Delete(ctx, "api", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone("EndpointsNotFound", `cannot find endpointslices for service/api in "wardle"`)
	a.endpoints(t)
	back()

	answer := func(ready bool) {
		a.mu.Lock()
		a.ready = ready
		a.mu.Unlock()
		// Something that has it asked before its time.
		s, err := a.client.CoreV1().Services("wardle").Get(ctx, "api", metav1.GetOptions{})
		if err == nil {
			s.Labels = map[string]string{"ready": fmt.Sprint(ready)}
			_, err = a.client.CoreV1().Services("wardle").Update(ctx, s, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	answer(false)
	gone("FailedDiscoveryCheck", "/apis/wardle.example.com/v1alpha1: bad status from")
	answer(true)
	back()

	for _, want := range []string{`aggregator_unavailable_apiservice{name="v1alpha1.wardle.example.com"} 0`,
		`aggregator_unavailable_apiservice_total{name="v1alpha1.wardle.example.com",reason="FailedDiscoveryCheck"} 1`} {
		if text, err := a.client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("metrics lack %s (%v)", want, err)
		}
	}

	// Nothing tells of a server that is gone but a request that fails.
	a.server.Listener.Close()
	a.server.CloseClientConnections()
	if _, err := client.List(ctx, metav1.ListOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a list where nobody listens: %v", err)
	}
	gone("FailedDiscoveryCheck", "connection refused")
	a.serveWardle(t, a.listener.Addr().String())
	back()

	services := a.services.ApiregistrationV1().APIServices()
	other, err := pki.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	trust := func(ca []byte) {
		t.Helper()
		patch, _ := json.Marshal(map[string]any{"spec": map[string]any{"caBundle": ca}})
		if _, err := services.Patch(ctx, "v1alpha1.wardle.example.com", "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	trust(other.Pair().Cert)
	gone("FailedDiscoveryCheck", "certificate signed by unknown authority")
	trust(a.wardleCA.Pair().Cert)
	back()

	if err := services.Delete(ctx, "v1alpha1.wardle.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) (bool, error) {
		_, err := client.List(ctx, metav1.ListOptions{})
		groups, _, all := discovery.NewDiscoveryClientForConfigOrDie(a.admin).ServerGroupsAndResources()
		return apierrors.IsNotFound(err) && all == nil && groups[len(groups)-1].Name != "wardle.example.com", nil
	})
}
