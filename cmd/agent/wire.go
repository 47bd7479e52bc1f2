package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/agent"
	"skiff/pkg/agent/rotation"
	"skiff/pkg/agent/runtime"
	"skiff/pkg/component"
	"skiff/pkg/dns"
	"skiff/pkg/network"
	"skiff/pkg/proxy"
	"skiff/pkg/proxy/nft"
)

// wiring puts the parts together. Services, endpoint slices and nodes are
// watched once, for all roles.
type wiring struct {
	*options
	log     *slog.Logger
	group   component.Group
	health  *component.Health
	metrics *prometheus.Registry
	config  *rest.Config         // the node's identity
	client  kubernetes.Interface // the same
	shared  informers.SharedInformerFactory
	nodeIPs []netip.Addr
	dnsIPs  []netip.Addr
	pods    []netip.Prefix
	svc     []netip.Prefix
	proxy   *proxy.Proxy
}

func (o *options) wire(log *slog.Logger) (*wiring, error) {
	w := &wiring{options: o, log: log, health: &component.Health{}, metrics: component.Metrics()}
	if err := w.parse(); err != nil {
		return nil, err
	}
	if err := w.connect(); err != nil {
		return nil, err
	}
	for _, role := range []struct {
		name string
		add  func() error
	}{{"proxy", w.addProxy}, {"dns", w.addDNS}, {"pods", w.addPods}} {
		if slices.Contains(o.roles, role.name) {
			if err := role.add(); err != nil {
				return nil, fmt.Errorf("%s: %w", role.name, err)
			}
		}
	}
	if w.rotateClient {
		client, err := rotation.NewClient(w.rotation())
		if err != nil {
			return nil, err
		}
		w.group.Add("client certificate", w.whenServed(client.Run))
	}
	w.group.Add("watches", w.whenServed(func(ctx context.Context) error {
		w.shared.StartWithContext(ctx)
		<-ctx.Done()
		w.shared.Shutdown()
		return nil
	}))
	return w, nil
}

// whenServed runs a part as soon as there is an apiserver.
func (w *wiring) whenServed(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := component.WaitForServer(ctx, w.config); err != nil {
			return err
		}
		return run(ctx)
	}
}

func (w *wiring) rotation() rotation.Config {
	return rotation.Config{Client: w.client, NodeName: w.nodeName, Dir: w.certDir}
}

func (w *wiring) parse() (err error) {
	if w.nodeIPs, err = addresses("node-ip", w.options.nodeIPs); err != nil {
		return err
	}
	if w.dnsIPs, err = addresses("cluster-dns", w.clusterDNS); err != nil {
		return err
	}
	if w.pods, err = prefixes("cluster-cidr", w.clusterCIDRs); err != nil {
		return err
	}
	w.svc, err = prefixes("service-cluster-ip-range", w.serviceCIDRs)
	return err
}

func (w *wiring) connect() error {
	servers, err := component.LoadServers(filepath.Join(w.rootDir, "apiservers"))
	if err != nil {
		return err
	}
	w.options.client.Servers = servers
	config, err := w.options.client.Config("kubelet")
	if err != nil {
		return err
	}
	if config, err = component.Shared(config); err != nil {
		return err
	}
	w.config = config
	if w.client, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	if len(w.nodeIPs) == 0 {
		ip, err := ownAddress(config.Host)
		if err != nil {
			return fmt.Errorf("--node-ip is not given, and %w", err)
		}
		w.nodeIPs = []netip.Addr{ip}
	}
	watcher := w.options.client
	if w.proxyKubeconfig != "" {
		watcher.Kubeconfig, watcher.CertificateFile = w.proxyKubeconfig, ""
	}
	if config, err = watcher.Config("kube-proxy"); err != nil {
		return err
	}
	proxyClient, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	w.shared = informers.NewSharedInformerFactory(proxyClient, 0)
	return w.learnServers(servers)
}

// learnServers keeps in mind which apiservers there are, for when the one of the kubeconfig is gone.
func (w *wiring) learnServers(servers *component.Servers) error {
	if !slices.Contains(w.roles, "proxy") && !slices.Contains(w.roles, "dns") {
		return nil // nobody watches slices, and who runs pods alone may not
	}
	learn := func(object any) {
		slice, ok := object.(*discoveryv1.EndpointSlice)
		if !ok || slice.Namespace != metav1.NamespaceDefault || slice.Labels[discoveryv1.LabelServiceName] != "kubernetes" {
			return
		}
		var addresses []string
		for _, port := range slice.Ports {
			for _, endpoint := range slice.Endpoints {
				if port.Port != nil && len(endpoint.Addresses) > 0 {
					addresses = append(addresses, net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(int(*port.Port))))
				}
			}
		}
		if err := servers.Learn(addresses); err != nil {
			w.log.Warn("learn the apiservers", "err", err)
		}
	}
	_, err := w.shared.Discovery().V1().EndpointSlices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: learn, UpdateFunc: func(_, object any) { learn(object) }})
	return err
}

// ownAddress is the address from which this machine talks to the apiserver. No
// packet is sent to find out.
func ownAddress(server string) (netip.Addr, error) {
	u, err := url.Parse(server)
	if err != nil {
		return netip.Addr{}, err
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	conn, err := net.Dial("udp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no address leads to %s: %w", server, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

func (w *wiring) addProxy() error {
	programmer, err := nft.New(nft.Config{PodCIDRs: w.pods, ServiceCIDRs: w.svc})
	if err != nil {
		return err
	}
	config := proxy.Config{
		NodeName: w.nodeName, Programmer: programmer, Logger: w.log, Registerer: w.metrics,
		Services:       w.shared.Core().V1().Services().Informer(),
		EndpointSlices: w.shared.Discovery().V1().EndpointSlices().Informer(),
		Nodes:          w.shared.Core().V1().Nodes().Informer(),
	}
	if slices.Contains(w.roles, "dns") {
		config.OwnAddresses = w.dnsIPs
	}
	w.proxy = proxy.New(config)
	w.health.Ready("proxy", w.proxy.Ready)
	w.group.Add("proxy", w.proxy.Run)
	return nil
}

func (w *wiring) addDNS() error {
	if len(w.dnsIPs) == 0 {
		w.log.Info("no --cluster-dns: names are not served")
		return nil
	}
	packets, listeners, err := dns.Inherited("dns-udp", "dns-tcp")
	if err != nil {
		return err
	}
	var upstreams []netip.AddrPort
	for _, text := range w.dnsUpstreams {
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			return fmt.Errorf("--dns-upstreams: %w", err)
		}
		upstreams = append(upstreams, a)
	}
	config := dns.Config{
		Domain: w.clusterDomain, PacketConns: packets, Listeners: listeners, Upstreams: upstreams, ResolvConf: w.resolvConf,
		Services:       w.shared.Core().V1().Services().Informer(),
		EndpointSlices: w.shared.Discovery().V1().EndpointSlices().Informer(),
		Registerer:     w.metrics,
		Logger:         w.log,
	}
	if len(packets) == 0 {
		for _, ip := range w.dnsIPs {
			config.Addresses = append(config.Addresses, netip.AddrPortFrom(ip, 53))
		}
	}
	server := dns.New(config)
	w.health.Ready("dns", server.Ready)
	w.group.Add("dns", server.Run)
	return nil
}

func (w *wiring) addPods() error {
	networking := network.Config{
		NodeName: w.nodeName, StateDir: filepath.Join(w.rootDir, "network"), ClusterCIDRs: w.pods, ServiceCIDRs: w.svc,
		Nodes: w.shared.Core().V1().Nodes().Informer(), Logger: w.log,
	}
	if slices.Contains(w.roles, "dns") {
		networking.LocalAddresses = w.dnsIPs
	}
	pods := network.New(networking)
	w.group.Add("network", pods.Run)
	w.health.Ready("network", pods.Ready)
	taints, err := parseTaints(w.taints)
	if err != nil {
		return err
	}
	reserved, err := quantities(w.reserved)
	if err != nil {
		return err
	}
	thresholds, err := agent.ParseThresholds(w.thresholds)
	if err != nil {
		return fmt.Errorf("--eviction-hard: %w", err)
	}
	config := agent.Config{
		Client: w.client, NodeName: w.nodeName, NodeIPs: w.nodeIPs, Network: pods,
		Services: w.shared.Core().V1().Services().Informer(),
		Nodes:    w.shared.Core().V1().Nodes().Informer(),
		Runtime:  runtime.Config{Address: w.containerd, RunDir: w.runDir, InitPath: w.initPath, CgroupParent: w.cgroupRoot, PoolSize: w.poolSize},
		RootDir:  w.rootDir, LogDir: w.logDir, HostsDir: w.hostsDir, ResolvConf: w.resolvConf,
		ClusterDNS: w.clusterDNS, ClusterDomain: w.clusterDomain, PodPidsLimit: w.podPids,
		Node: agent.NodeConfig{Labels: w.labels, Taints: taints, MaxPods: w.maxPods, Reserved: reserved, ProviderID: w.providerID, Thresholds: thresholds},
		Server: agent.ServerConfig{Address: w.address, Port: w.port, CertFile: w.certFile, KeyFile: w.keyFile, ClientCAFile: w.clientCA,
			Health: w.health, Metrics: w.metrics},
		Log: w.log,
	}
	if w.proxy != nil {
		config.Release = w.release
	}
	if w.rotateServing {
		serving, err := rotation.NewServing(w.rotation(), w.nodeIPs, w.certFile, w.keyFile)
		if err != nil {
			return err
		}
		w.group.Add("serving certificate", w.whenServed(serving.Run))
		config.Server.Certificate = serving.Certificate
	}
	a, err := agent.New(config)
	if err != nil {
		return err
	}
	w.group.Add("pods", w.whenServed(a.Run))
	return nil
}

// othersFloor is the least that the other nodes get to stop sending to a pod. On a
// busy machine 200 ms were too short for one request in a few hundred.
const othersFloor = 500 * time.Millisecond

// release waits until no node should send new connections to a pod: this one
// by its own proxy's word. The others hear of it when this one does, and get as
// long again as it took here. Only pods of services are waited for.
func (w *wiring) release(ctx context.Context, pod *corev1.Pod) {
	begun := time.Now()
	var ips []netip.Addr
	for _, p := range pod.Status.PodIPs {
		if ip, err := netip.ParseAddr(p.IP); err == nil {
			ips = append(ips, ip)
		}
	}
	if err := w.proxy.Drained(ctx, pod.UID, ips...); err != nil {
		w.log.Debug("pod goes undrained", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	if !w.selected(pod) {
		return
	}
	select {
	case <-time.After(max(time.Since(begun), othersFloor)):
	case <-ctx.Done():
	}
}

// selected says whether some service sends to a pod.
func (w *wiring) selected(pod *corev1.Pod) bool {
	services, _ := w.shared.Core().V1().Services().Lister().Services(pod.Namespace).List(labels.Everything())
	return slices.ContainsFunc(services, func(s *corev1.Service) bool {
		return len(s.Spec.Selector) > 0 && labels.SelectorFromValidatedSet(s.Spec.Selector).Matches(labels.Set(pod.Labels))
	})
}
