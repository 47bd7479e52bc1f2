package apiserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"skiff/pkg/apiserver/request"
	"skiff/pkg/apiserver/stream"
	"skiff/pkg/store"
)

// connect serves the subresources that are streams: log, exec, attach, portforward, proxy.
func (s *server) connect(w http.ResponseWriter, r *http.Request, c *call) error {
	query := r.URL.Query()
	if query.Has("dryRun") {
		return apierrors.NewBadRequest("dryRun is not supported")
	}
	switch c.Subresource {
	case "log":
		return s.log(w, r, c)
	case "exec":
		o := stream.ExecOptions(query)
		return s.exec(w, r, c, "exec", o.Container, o, stream.ExecQuery(o.Stdin, o.Stdout, o.Stderr, o.TTY, o.Command))
	case "attach":
		o := stream.AttachOptions(query)
		return s.exec(w, r, c, "attach", o.Container, o, stream.ExecQuery(o.Stdin, o.Stdout, o.Stderr, o.TTY, nil))
	case "portforward":
		o, err := stream.PortForwardOptions(query)
		if err != nil {
			return err
		}
		return s.exec(w, r, c, "portForward", "", o, stream.PortForwardQuery(o))
	}
	return s.proxy(w, r, c)
}

// admitConnect lets admission see a connection's options.
func (s *server) admitConnect(ctx context.Context, c *call, options runtime.Object) error {
	a := c.attributes(ctx, request.Connect, options, nil, nil, false)
	if err := s.mutate(ctx, a); err != nil {
		return err
	}
	return s.validate(ctx, a)
}

// pod returns the pod that a call names.
func (s *server) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	kind := s.kind(corev1.SchemeGroupVersion.WithKind("Pod"))
	entry, err := s.store.Get(ctx, kind, store.Key{Path: kind.StoragePath, Namespace: namespace, Name: name}, 0)
	if err != nil {
		return nil, err
	}
	obj, err := entry.As(kind)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

func (s *server) node(ctx context.Context, name string) (*corev1.Node, error) {
	kind := s.kind(corev1.SchemeGroupVersion.WithKind("Node"))
	entry, err := s.store.Get(ctx, kind, store.Key{Path: kind.StoragePath, Name: name}, 0)
	if err != nil {
		return nil, err
	}
	obj, err := entry.As(kind)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Node), nil
}

// agent is where a pod's node has its agent.
func (s *server) agent(ctx context.Context, node string, trusting bool) (*url.URL, http.RoundTripper, error) {
	n, err := s.node(ctx, node)
	if err != nil {
		return nil, nil, err
	}
	location, transport, err := s.nodes.Location(n, trusting)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	return location, transport, nil
}

func (s *server) log(w http.ResponseWriter, r *http.Request, c *call) error {
	options, err := stream.LogOptions(r.URL.Query(), c.key.Name)
	if err != nil {
		return err
	}
	pod, err := s.pod(r.Context(), c.key.Namespace, c.key.Name)
	if err != nil {
		return err
	}
	container, err := chooseContainer(pod, options.Container)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		w.WriteHeader(http.StatusNoContent) // it runs nowhere yet, so it has said nothing
		return nil
	}
	location, transport, err := s.agent(r.Context(), pod.Spec.NodeName, options.InsecureSkipTLSVerifyBackend)
	if err != nil {
		return err
	}
	location.Path = "/containerLogs/" + pod.Namespace + "/" + pod.Name + "/" + container
	location.RawQuery = stream.LogQuery(options).Encode()
	request.Started(r.Context())
	return stream.Copy(w, r, stream.Target{Location: location, Transport: transport}, options.Follow, corev1.Resource("pods/log"), c.key.Name)
}

// chooseContainer checks the container asked for, or takes the only one.
func chooseContainer(pod *corev1.Pod, wanted string) (string, error) {
	var names []string
	for i := range pod.Spec.InitContainers {
		names = append(names, pod.Spec.InitContainers[i].Name)
	}
	for i := range pod.Spec.Containers {
		names = append(names, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.EphemeralContainers {
		names = append(names, pod.Spec.EphemeralContainers[i].Name)
	}
	if wanted != "" {
		for _, name := range names {
			if name == wanted {
				return name, nil
			}
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", wanted, pod.Name))
	}
	switch len(pod.Spec.Containers) {
	case 1:
		return pod.Spec.Containers[0].Name, nil
	case 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names))
}

// exec passes a stream on to the pod's node. A WebSocket begins with a GET, but what it does is
// what a POST does, so that it needs the right to create.
func (s *server) exec(w http.ResponseWriter, r *http.Request, c *call, path, container string, options runtime.Object, query url.Values) error {
	if c.Verb != "create" {
		info := *c.Info
		info.Verb = "create"
		if err := s.may(r.Context(), c.user, &info); err != nil {
			return err
		}
	}
	if err := s.admitConnect(r.Context(), c, options); err != nil {
		return err
	}
	pod, err := s.pod(r.Context(), c.key.Namespace, c.key.Name)
	if err != nil {
		return err
	}
	full := "/" + path + "/" + pod.Namespace + "/" + pod.Name
	if path != "portForward" {
		if container, err = chooseContainer(pod, container); err != nil {
			return err
		}
		full += "/" + container
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	location, transport, err := s.agent(r.Context(), pod.Spec.NodeName, false)
	if err != nil {
		return err
	}
	location.Path, location.RawQuery = full, query.Encode()
	s.pass(w, r, stream.Target{Location: location, Transport: transport, Upgrade: true})
	return nil
}

func (s *server) pass(w http.ResponseWriter, r *http.Request, t stream.Target) {
	request.Started(r.Context())
	stream.Proxy(w, r, t, func(err error) { s.writeError(w, r, err) })
}

// proxy passes any request on to a pod, a service or a node.
func (s *server) proxy(w http.ResponseWriter, r *http.Request, c *call) error {
	path, err := url.PathUnescape(c.Rest)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	var options runtime.Object
	find := s.podTarget
	switch c.Resource {
	case "pods":
		options = &corev1.PodProxyOptions{Path: path}
	case "services":
		options, find = &corev1.ServiceProxyOptions{Path: path}, s.serviceTarget
	case "nodes":
		options, find = &corev1.NodeProxyOptions{Path: path}, s.nodeTarget
	default:
		return notFoundPath()
	}
	if err := s.admitConnect(r.Context(), c, options); err != nil {
		return err
	}
	target, err := find(r.Context(), c)
	if err != nil {
		return err
	}
	target.Location.Path, target.Location.RawPath = path, c.Rest
	target.Rewrite = true
	s.pass(w, r, *target)
	return nil
}

// podTarget resolves "name", "name:port" or "scheme:name:port".
func (s *server) podTarget(ctx context.Context, c *call) (*stream.Target, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.key.Name)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", c.key.Name))
	}
	pod, err := s.pod(ctx, c.key.Namespace, name)
	if err != nil {
		return nil, err
	}
	for i := 0; port == "" && i < len(pod.Spec.Containers); i++ {
		if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
			port = strconv.Itoa(int(ports[0].ContainerPort))
		}
	}
	ip := pod.Status.PodIP
	if !reachable(ip) {
		return nil, apierrors.NewBadRequest("address not allowed")
	}
	host := ip
	if port != "" {
		host = net.JoinHostPort(ip, port)
	} else if strings.Contains(ip, ":") {
		host = "[" + ip + "]"
	}
	return &stream.Target{Location: &url.URL{Scheme: orHTTP(scheme), Host: host}, Transport: stream.Plain}, nil
}

func orHTTP(scheme string) string {
	if scheme == "" {
		return "http"
	}
	return scheme
}

// reachable keeps proxies from this host's own addresses, and link-local ones.
func reachable(ip string) bool {
	address, err := netip.ParseAddr(ip)
	return err == nil && address.IsGlobalUnicast()
}

// nodeTarget resolves like podTarget; without a port, or with the agent's, it is the agent.
func (s *server) nodeTarget(ctx context.Context, c *call) (*stream.Target, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.key.Name)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", c.key.Name))
	}
	node, err := s.node(ctx, name)
	if err != nil {
		return nil, err
	}
	location, transport, err := s.nodes.Location(node, false)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	host := location.Hostname()
	addresses := []string{host}
	if _, err := netip.ParseAddr(host); err != nil {
		if addresses, err = net.DefaultResolver.LookupHost(ctx, host); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	for _, a := range addresses {
		if !reachable(a) {
			return nil, apierrors.NewBadRequest("address not allowed")
		}
	}
	if port == "" || port == location.Port() {
		return &stream.Target{Location: location, Transport: transport}, nil
	}
	return &stream.Target{Location: &url.URL{Scheme: orHTTP(scheme), Host: net.JoinHostPort(host, port)}, Transport: stream.Plain}, nil
}

// serviceTarget resolves "name", "name:port" or "scheme:name:port", where port is a name or a number,
// to one of the service's ready pods.
func (s *server) serviceTarget(ctx context.Context, c *call) (*stream.Target, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.key.Name)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", c.key.Name))
	}
	if number, err := strconv.Atoi(port); err == nil {
		if port, err = s.portName(ctx, c, name, number); err != nil {
			return nil, err
		}
	}
	kind := s.kind(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"))
	page, err := s.store.List(ctx, kind, store.Query{
		Namespace: c.key.Namespace, Labels: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}),
	})
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, entry := range page.Entries {
		obj, err := entry.As(kind)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, s.backends(ctx, obj.(*discoveryv1.EndpointSlice), port)...)
	}
	if len(hosts) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", c.key.Name))
	}
	return &stream.Target{Location: &url.URL{Scheme: orHTTP(scheme), Host: hosts[rand.IntN(len(hosts))]}, Transport: stream.Plain}, nil
}

// portName is the name of a service's port with that number.
func (s *server) portName(ctx context.Context, c *call, name string, number int) (string, error) {
	key := c.key
	key.Name = name
	entry, err := s.store.Get(ctx, c.kind, key, 0)
	if err != nil {
		return "", err
	}
	obj, err := entry.As(c.kind)
	if err != nil {
		return "", err
	}
	for _, p := range obj.(*corev1.Service).Spec.Ports {
		if int(p.Port) == number {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
}

// backends are host and port of a slice's ready endpoints that really are pods: who may write
// endpoints must not reach whatever this server reaches.
func (s *server) backends(ctx context.Context, slice *discoveryv1.EndpointSlice, port string) []string {
	var hosts []string
	for _, p := range slice.Ports {
		if p.Name == nil || *p.Name != port || p.Port == nil {
			continue
		}
		for _, e := range slice.Endpoints {
			if len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready || e.TargetRef == nil ||
				e.TargetRef.Kind != "Pod" || e.TargetRef.Namespace != slice.Namespace {
				continue
			}
			pod, err := s.pod(ctx, slice.Namespace, e.TargetRef.Name)
			if err != nil || !hasIP(pod, e.Addresses[0]) {
				continue
			}
			hosts = append(hosts, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
		}
	}
	return hosts
}

func hasIP(pod *corev1.Pod, ip string) bool {
	for _, p := range pod.Status.PodIPs {
		if p.IP == ip {
			return true
		}
	}
	return false
}
