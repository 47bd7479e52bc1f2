package apiserver_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	remotecommandserver "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"skiff/pkg/apiserver"
)

func TestBinding(t *testing.T) {
	i := start(t)
	client := typed(t, i, "application/vnd.kubernetes.protobuf")
	ctx := limited(t)
	pods := client.CoreV1().Pods("default")
	pod := makePod(t, client, "p")
	bind := func(node string, change ...func(*corev1.Binding)) error {
		b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{"why": "because"}}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
		for _, c := range change {
			c(b)
		}
		return pods.Bind(ctx, b, metav1.CreateOptions{})
	}
	if err := bind("n", func(b *corev1.Binding) { b.UID = "another" }); !apierrors.IsConflict(err) {
		t.Errorf("bound another pod: %v", err)
	}
	if err := bind("n", func(b *corev1.Binding) { b.UID = pod.UID }); err != nil {
		t.Fatal(err)
	}
	got, err := pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil || got.Spec.NodeName != "n" || got.Annotations["why"] != "because" || got.Generation != 1 {
		t.Fatalf("%v %+v", err, got)
	}
	scheduled := false
	for _, c := range got.Status.Conditions {
		scheduled = scheduled || c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue
	}
	if !scheduled {
		t.Errorf("%+v", got.Status)
	}
	err = bind("m")
	if want := `Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n"`; err == nil || err.Error() != want || !apierrors.IsConflict(err) {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestEviction(t *testing.T) {
	i := start(t)
	client := typed(t, i, "application/vnd.kubernetes.protobuf")
	ctx := limited(t)
	pods := client.CoreV1().Pods("default")
	for n := range 2 {
		p := makePod(t, client, fmt.Sprint("p", n), func(p *corev1.Pod) { p.Spec.NodeName, p.Labels = "n", map[string]string{"a": "b"} })
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if _, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	budgets := client.PolicyV1().PodDisruptionBudgets("default")
	one := intstr.FromInt32(1)
	budget, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	evict := func(name string) (int, string) { // client-go would wait and try again
		code, _, body := raw(t, i, "POST", "/api/v1/namespaces/default/pods/"+name+"/eviction", asJSON,
			fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q}}`, name))
		return code, string(body)
	}
	if code, body := evict("p0"); code != http.StatusTooManyRequests || !strings.Contains(body, "The disruption budget b is still being processed by the server.") {
		t.Errorf("the budget was not counted yet: %d %s", code, body)
	}
	budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2}
	if _, err = budgets.UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if code, body := evict("p0"); code != http.StatusCreated {
		t.Fatalf("%d %s", code, body)
	}
	gone, err := pods.Get(ctx, "p0", metav1.GetOptions{})
	if err != nil || gone.DeletionTimestamp == nil {
		t.Fatalf("%v %+v", err, gone)
	}
	if budget, err = budgets.Get(ctx, "b", metav1.GetOptions{}); err != nil || budget.Status.DisruptionsAllowed != 0 || len(budget.Status.DisruptedPods) != 1 {
		t.Errorf("%v %+v", err, budget.Status)
	}
	if code, body := evict("p1"); code != http.StatusTooManyRequests || !strings.Contains(body, "The disruption budget b does not allow evicting pods currently") {
		t.Errorf("%d %s", code, body)
	}
}

func TestToken(t *testing.T) {
	i := start(t)
	client := typed(t, i, "application/json")
	ctx := limited(t)
	answer, err := client.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil || answer.Status.Token != "token-of-default/default" {
		t.Errorf("%v %+v", err, answer)
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || review == nil {
		t.Error(err)
	}
}

// agentRuntime answers exec as a kubelet's runtime would.
type agentRuntime struct{}

func (agentRuntime) Exec(_ context.Context, container string, cmd []string, in io.Reader, out, errs io.WriteCloser, _ bool, _ <-chan remotecommandserver.TerminalSize) error {
	if cmd[0] == "fail" {
		return utilexec.CodeExitError{Err: errors.New("failed"), Code: 7}
	}
	if in != nil {
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "%s:%v", container, cmd)
	fmt.Fprint(errs, "complaint")
	return nil
}

func (agentRuntime) Attach(context.Context, string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommandserver.TerminalSize) error {
	return nil
}

func (agentRuntime) PortForward(_ context.Context, _ string, _ int32, stream io.ReadWriteCloser) error {
	_, err := io.Copy(stream, stream)
	return err
}

// newAgent is a kubelet's API as far as these tests go.
func newAgent(t *testing.T) *url.URL {
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Scheme: "http", Host: "unused"}
	streams, err := streaming.NewServer(config, agentRuntime{})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/containerLogs/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/broken") {
			http.Error(w, "no such log", http.StatusNotFound)
			return
		}
		fmt.Fprintf(w, "%s?%s", r.URL.Path, r.URL.RawQuery)
	})
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		answer, err := streams.GetExec(&runtimeapi.ExecRequest{
			ContainerId: r.PathValue("container"), Cmd: q["command"],
			Stdin: q.Get("input") == "1", Stdout: q.Get("output") == "1", Stderr: q.Get("error") == "1", Tty: q.Get("tty") == "1",
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		to, _ := url.Parse(answer.Url)
		r.URL.Path, r.RequestURI = to.Path, to.Path
		streams.ServeHTTP(w, r)
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	to, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// podOnAgent makes a pod on a node whose agent is at the URL.
func podOnAgent(t *testing.T, client kubernetes.Interface, agent *url.URL) {
	t.Helper()
	ctx := limited(t)
	node := makeNode(t, client, "n")
	port, err := strconv.Atoi(agent.Port())
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: agent.Hostname()}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
	if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	makePod(t, client, "p", func(p *corev1.Pod) {
		p.Spec.NodeName = "n"
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "broken", Image: "i"})
	})
}

func TestLogs(t *testing.T) {
	i := start(t)
	client := typed(t, i, "application/json")
	podOnAgent(t, client, newAgent(t))
	log := func(o *corev1.PodLogOptions) (string, error) {
		data, err := client.CoreV1().Pods("default").GetLogs("p", o).DoRaw(limited(t))
		return string(data), err
	}
	tail := int64(3)
	got, err := log(&corev1.PodLogOptions{Container: "c", TailLines: &tail, Follow: true})
	if err != nil || got != "/containerLogs/default/p/c?follow=true&stream=All&tailLines=3" {
		t.Errorf("%v %s", err, got)
	}
	for protocol, kind := range map[string]int{"": websocket.BinaryMessage, "binary.k8s.io": websocket.BinaryMessage, "base64.binary.k8s.io": websocket.TextMessage} {
		got, text := logOverWebSocket(t, i, "/api/v1/namespaces/default/pods/p/log?container=c", protocol)
		if protocol == "base64.binary.k8s.io" {
			plain, err := base64.StdEncoding.DecodeString(got)
			if err != nil {
				t.Errorf("%s: %v", protocol, err)
			}
			got = string(plain)
		}
		if text != kind || got != "/containerLogs/default/p/c?stream=All" {
			t.Errorf("%s: messages of type %d, want %d: %s", protocol, text, kind, got)
		}
	}
	for _, c := range []struct {
		query string
		code  int
		want  string
	}{
		{"", 400, "a container name must be specified for pod p, choose one of: [c broken]"},
		{"container=x", 400, "container x is not valid for pod p"},
		{"container=broken", 404, "the server could not find the requested resource ( pods/log p)"},
		{"container=c&limitBytes=0", 422, `PodLogOptions \"p\" is invalid: limitBytes: Invalid value: 0: must be greater than 0`},
		{"container=c&limitBytes=x", 400, `limitBytes`},
	} {
		code, _, body := raw(t, i, "GET", "/api/v1/namespaces/default/pods/p/log?"+c.query, "", "")
		if code != c.code || !strings.Contains(string(body), c.want) {
			t.Errorf("%d %s\nwant %d %s", code, body, c.code, c.want)
		}
	}
}

// logOverWebSocket is all that comes, and in messages of which type.
func logOverWebSocket(t *testing.T, i *instance, path, protocol string) (string, int) {
	t.Helper()
	tlsConfig, err := rest.TLSConfigFor(i.config)
	if err != nil {
		t.Fatal(err)
	}
	dialer := websocket.Dialer{TLSClientConfig: tlsConfig}
	if protocol != "" {
		dialer.Subprotocols = []string{protocol}
	}
	conn, answer, err := dialer.DialContext(limited(t), "wss"+strings.TrimPrefix(i.address, "https")+path, nil)
	if err != nil {
		t.Fatalf("%v %+v", err, answer)
	}
	defer conn.Close()
	if conn.Subprotocol() != protocol {
		t.Errorf("protocol %q, want %q", conn.Subprotocol(), protocol)
	}
	var all []byte
	kind := 0
	for {
		k, message, err := conn.ReadMessage()
		if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			return string(all), kind
		}
		if err != nil {
			t.Fatal(err)
		}
		all, kind = append(all, message...), k
	}
}

// TestProxyMethods: whatever the method is, it is for what is behind the proxy. Here that is a pod that
// has no address, which is the last that is looked at before the request is passed on.
func TestProxyMethods(t *testing.T) {
	i := start(t)
	makePod(t, typed(t, i, "application/json"), "p")
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/proxy/path", 400}, {"HEAD", "/proxy/path", 400}, {"POST", "/proxy", 400}, {"PUT", "/proxy/", 400}, {"PATCH", "/proxy", 400},
		{"DELETE", "/proxy", 400}, {"OPTIONS", "/proxy", 400}, {"OPTIONS", "/proxy/path", 400}, {"TRACE", "/proxy", 405},
		{"OPTIONS", "", 405}, {"OPTIONS", "/log", 405},
	} {
		code, _, body := raw(t, i, c.method, "/api/v1/namespaces/default/pods/p"+c.path, "", "")
		if code != c.code || code == 400 && c.method != "HEAD" && !strings.Contains(string(body), "address not allowed") {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, code, body, c.code)
		}
	}
}

func TestExec(t *testing.T) {
	i := start(t, func(c *apiserver.Config) {})
	client := typed(t, i, "application/json")
	podOnAgent(t, client, newAgent(t))
	location := func(command ...string) *url.URL {
		q := url.Values{"container": {"c"}, "command": command, "stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}}
		u, err := url.Parse(i.address + "/api/v1/namespaces/default/pods/p/exec?" + q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	spdy := func(u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(i.config, "POST", u)
	}
	for name, open := range map[string]func(*url.URL) (remotecommand.Executor, error){
		"SPDY": spdy,
		// A kubelet has no v5; kubectl falls back.
		"WebSocket or SPDY": func(u *url.URL) (remotecommand.Executor, error) {
			first, err := remotecommand.NewWebSocketExecutor(i.config, "GET", u.String())
			if err != nil {
				return nil, err
			}
			second, err := spdy(u)
			if err != nil {
				return nil, err
			}
			return remotecommand.NewFallbackExecutor(first, second, func(error) bool { return true })
		},
		"WebSocket v4": func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutorForProtocols(i.config, "GET", u.String(), "v4.channel.k8s.io")
		},
	} {
		t.Run(name, func(t *testing.T) {
			executor, err := open(location("say", "hello"))
			if err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			o := remotecommand.StreamOptions{Stdout: &out, Stderr: &errs}
			if name != "WebSocket v4" { // which can't say that its input has ended
				o.Stdin = strings.NewReader("input ")
			} else if executor, err = open(withoutInput(location("say", "hello"))); err != nil {
				t.Fatal(err)
			}
			if err := executor.StreamWithContext(limited(t), o); err != nil {
				t.Fatal(err)
			}
			if want := "c:[say hello]"; !strings.HasSuffix(out.String(), want) || errs.String() != "complaint" {
				t.Errorf("%q %q", out.String(), errs.String())
			}
			if executor, err = open(withoutInput(location("fail"))); err != nil {
				t.Fatal(err)
			}
			err = executor.StreamWithContext(limited(t), remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard})
			var exit utilexec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 7 {
				t.Errorf("exit: %v", err)
			}
		})
	}
	t.Run("no upgrade", func(t *testing.T) {
		code, _, body := raw(t, i, "POST", "/api/v1/namespaces/default/pods/p/exec?container=c&command=x&stdout=1", "", "")
		if code != http.StatusBadRequest || !bytes.Contains(body, []byte("Upgrade request required")) {
			t.Errorf("%d %s", code, body)
		}
	})
}

func withoutInput(u *url.URL) *url.URL {
	q := u.Query()
	q.Del("stdin")
	u.RawQuery = q.Encode()
	return u
}
