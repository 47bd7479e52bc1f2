package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/util/cert"

	"skiff/pkg/pki"
)

const fullConfig = `
apiVersion: skiff/v1
kind: Cluster
name: lab
isolated: true
loadBalancer: nginx
extraArgs:
  apiserver: {v: "4", audit-log-path: /var/log/audit.log}
networking:
  podSubnet: 10.50.0.0/16
  serviceSubnet: 10.60.0.0/16
nodes:
- role: worker
  count: 2
  labels: {disk: ssd, topology.kubernetes.io/zone: a}
  taints: ["dedicated=x:NoSchedule"]
  resources: {cpu: 1500m, memory: 1Gi, pods: 20}
  extraMounts: [{hostPath: /etc, containerPath: /run/etc, readOnly: true}]
- role: master
  count: 3
- role: worker
  extraPortMappings:
  - {containerPort: 30080, hostPort: 8080}
  - {containerPort: 30081, hostPort: 8081, listenAddress: 127.0.0.2, protocol: UDP}
`

func TestConfig(t *testing.T) {
	o, err := parseConfig([]byte(fullConfig))
	if err != nil {
		t.Fatal(err)
	}
	o.Bin = "/bin"
	s, err := NewSpec(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range s.Nodes {
		names = append(names, n.Name)
	}
	if want := []string{"lab-master-1", "lab-master-2", "lab-master-3", "lab-worker-1", "lab-worker-2", "lab-worker-3"}; !slices.Equal(names, want) {
		t.Errorf("nodes are %v, want %v", names, want)
	}
	if s.PodRange.String() != "10.50.0.0/16" || s.ServiceRange.String() != "10.60.0.0/16" || s.LoadBalancer != Nginx || !s.Isolated {
		t.Errorf("cluster is %+v", s)
	}
	if got := s.Server(); got != "https://10.89.0.2:8443" {
		t.Errorf("the API is at %s", got)
	}
	ports, _ := json.Marshal(s.Nodes[5].Ports)
	if want := `[{"containerPort":30080,"hostPort":8080,"listenAddress":"127.0.0.1","protocol":"TCP"},{"containerPort":30081,"hostPort":8081,"listenAddress":"127.0.0.2","protocol":"UDP"}]`; string(ports) != want {
		t.Errorf("ports are %s", ports)
	}

	for _, p := range processes(s, s.Nodes[0], site{}) {
		if last := p.Args[max(0, len(p.Args)-2):]; (p.Name == "apiserver") != slices.Equal(last, []string{"--audit-log-path=/var/log/audit.log", "--v=4"}) {
			t.Errorf("%s ends with %v", p.Name, last)
		}
	}

	var agentArgs []string
	for _, p := range processes(s, s.Nodes[3], site{bin: "/bin", etc: "/etc/skiff"}) {
		if p.Name == "agent" {
			agentArgs = p.Args
		}
	}
	for _, want := range []string{"--node-labels=disk=ssd", "--register-with-taints=dedicated=x:NoSchedule", "--max-pods=20"} {
		if !slices.Contains(agentArgs, want) {
			t.Errorf("the agent is called without %s: %v", want, agentArgs)
		}
	}

	// The same description is the same cluster, wherever it was put.
	same := func(change func(*Options)) bool {
		again, err := parseConfig([]byte(fullConfig))
		if err != nil {
			t.Fatal(err)
		}
		change(&again)
		same, err := s.shapedLike(again)
		if err != nil {
			t.Fatal(err)
		}
		return same
	}
	s.NodeRange, s.Nodes[0].Etcd, s.Nodes[1].Bin = prefixes("10.89.7.0/24")[0], Joiner, "/new"
	if !same(func(*Options) {}) {
		t.Error("a cluster isn't shaped like its own description")
	}
	for what, change := range map[string]func(*Options){
		"one more worker":      func(o *Options) { o.Workers = 1 },
		"another balancer":     func(o *Options) { o.LoadBalancer = HAProxy },
		"another pod range":    func(o *Options) { o.PodRange = prefixes("10.51.0.0/16")[0] },
		"another label":        func(o *Options) { o.Nodes[0].Labels = nil },
		"a way to the outside": func(o *Options) { o.Isolated = false },
		"another flag":         func(o *Options) { o.ExtraArgs["apiserver"]["v"] = "5" },
	} {
		if same(change) {
			t.Errorf("%s makes no difference", what)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	const head = "apiVersion: skiff/v1\nkind: Cluster\n"
	for text, want := range map[string]string{
		"kind: Cluster":                                                      `apiVersion "" and kind "Cluster"`,
		head + "extraArgs: {apiserver: [x]}":                                 "cannot unmarshal array",
		head + "nodez: []":                                                   `unknown field "nodez"`,
		head + "nodes: [{role: control-plane}]":                              `nodes[0].role "control-plane" is neither master nor worker`,
		head + "nodes: [{role: worker, taints: [x]}]":                        `nodes[0].taints[0]: "x" is not key=value:effect`,
		head + "nodes: [{role: worker, labels: {'a b': c}}]":                 "nodes[0].labels[a b]",
		head + "nodes: [{role: worker, resources: {gpu: 1}}]":                "nodes[0].resources[gpu]: 1: only cpu, memory and pods",
		head + "nodes: [{role: worker, extraPortMappings: [{hostPort: 1}]}]": "nodes[0].extraPortMappings[0]",
		head + "nodes: [{role: worker, extraPortMappings: [{hostPort: 1, containerPort: 2, protocol: SCTP}]}]": "TCP or UDP",
		head + "nodes: [{role: worker, extraMounts: [{hostPath: /nowhere, containerPath: /run/x}]}]":           "nodes[0].extraMounts[0].hostPath: stat /nowhere",
	} {
		if _, err := parseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n  gives %v, want %s", text, err, want)
		}
	}
	for name, change := range map[string]func(*Options){
		"8080/TCP of this machine": func(o *Options) { o.Nodes[2].Count = 2 },
		"8 masters":                func(o *Options) { o.Masters = 5 },
		"load balancer \"x\"":      func(o *Options) { o.LoadBalancer = "x" },
		"pod range 10.50.0.0/30":   func(o *Options) { o.PodRange = prefixes("10.50.0.0/30")[0] },
		"overlaps":                 func(o *Options) { o.ServiceRange = prefixes("10.50.0.0/24")[0] },
		"-1 workers":               func(o *Options) { o.Workers = -1 },
		`"kubelet" is none of`:     func(o *Options) { o.ExtraArgs["kubelet"] = nil },
		`"--v" is no name`:         func(o *Options) { o.ExtraArgs["agent"] = map[string]string{"--v": "4"} },
		"extraArgs.agent.v":        func(o *Options) { o.ExtraArgs["agent"] = map[string]string{"v": "4 5"} },
	} {
		o, err := parseConfig([]byte(fullConfig))
		if err != nil {
			t.Fatal(err)
		}
		change(&o)
		if _, err := NewSpec(o, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want an error with %q, got %v", name, err)
		}
	}
	if _, err := ReadConfig(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestMachinesRefuse(t *testing.T) {
	const head = "apiVersion: skiff/v1\nkind: Machines\nname: prod\n"
	for text, want := range map[string]string{
		head + "nodes: []": "there is no master",
		head + "nodes: [{name: w1, role: worker, address: 10.0.0.21}]":                                                                 "nodes[0]: workers are not described; they join",
		head + "nodes: [{name: M1, role: master, address: 10.0.0.11}]":                                                                 `nodes[0].name "M1"`,
		head + "nodes: [{name: m1, role: master, address: 10.0.0.11}, {name: m2, role: master, address: 10.0.0.12}]":                   "several masters need a virtual address",
		head + "vip: 10.0.1.1/24\nnodes: [{name: m1, role: master, address: 10.0.0.11}, {name: m2, role: master, address: 10.0.0.12}]": "10.0.0.11 of m1 is not on the link",
	} {
		if _, _, err := parseMachines([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n  gives %v, want %s", text, err, want)
		}
	}
}

// What masters run depends on how many there are and on what became of them.
func TestProcesses(t *testing.T) {
	names := func(masters int, change func(*Spec)) string {
		s, err := NewSpec(Options{Name: "a", Masters: masters}, nil)
		if err != nil {
			t.Fatal(err)
		}
		change(s)
		var names []string
		for _, p := range processes(s, s.Nodes[0], site{}) {
			name := p.Name
			for _, arg := range p.Args {
				if p.Name == "etcd" && (strings.HasPrefix(arg, "--join") || strings.HasPrefix(arg, "--initial-cluster=")) {
					name += "(" + arg + ")"
				}
			}
			names = append(names, name)
		}
		return strings.Join(names, " ")
	}
	rest := " apiserver scheduler controller haproxy keepalived containerd agent"
	for _, c := range []struct {
		masters int
		change  func(*Spec)
		want    string
	}{
		{1, func(*Spec) {}, "apiserver scheduler controller containerd agent"},
		{2, func(*Spec) {}, "etcd(--initial-cluster=a-master-1=https://10.89.0.10:2380,a-master-2=https://10.89.0.11:2380)" + rest},
		{3, func(s *Spec) { s.Nodes[0].Etcd = Joiner }, "etcd(--join=https://10.89.0.11:2379,https://10.89.0.12:2379)" + rest},
		{3, func(s *Spec) { s.Nodes[0].Etcd = Outside }, "haproxy keepalived containerd agent"},
	} {
		if got := names(c.masters, c.change); got != c.want {
			t.Errorf("%d masters:\n got %s\nwant %s", c.masters, got, c.want)
		}
	}
}

// Nodes share the host's disk: a share of it that is used by others is no pressure on them.
func TestNodesStandAFullDisk(t *testing.T) {
	s, err := NewSpec(Options{Name: "a", Masters: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, arg := range agent(s, s.Nodes[0], site{}).Args {
		if thresholds, ok := strings.CutPrefix(arg, "--eviction-hard="); ok && !strings.Contains(thresholds, "%") {
			return
		}
	}
	t.Error("the agent has the default thresholds, or shares of the disk")
}

// A master of a cluster from before there was a front proxy gets what it lacks, and keeps what it has.
func TestCertificatesAreCompleted(t *testing.T) {
	o, err := parseConfig([]byte(fullConfig))
	if err != nil {
		t.Fatal(err)
	}
	o.Bin = "/bin"
	s, err := NewSpec(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, etc := t.TempDir(), t.TempDir()
	if _, err := writeAuthorities(s, dir); err != nil {
		t.Fatal(err)
	}
	complete := func() map[string]string {
		t.Helper()
		a, err := loadAuthorities(s, dir)
		if err == nil {
			err = writeNodeCertificates(s, s.Masters()[0], a, dir, etc)
		}
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		err = filepath.WalkDir(etc, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				data, read := os.ReadFile(path)
				files[filepath.Base(path)], err = string(data), read
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	before := complete()
	for _, at := range []string{dir, etc} {
		old, err := filepath.Glob(filepath.Join(at, "pki/front-proxy-*"))
		if err != nil || len(old) < 2 {
			t.Fatalf("%v %v", old, err)
		}
		for _, file := range old {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	after := complete()
	for name, text := range before {
		if changed := after[name] != text; changed != strings.HasPrefix(name, "front-proxy-") || after[name] == "" {
			t.Errorf("%s: changed=%v", name, changed)
		}
	}
	pair := pki.Pair{Cert: []byte(after["front-proxy-ca.crt"]), Key: []byte(after["front-proxy-ca.key"])}
	authority, err := pki.ParseAuthority(pair)
	if err != nil {
		t.Fatal(err)
	}
	client, err := cert.ParseCertsPEM([]byte(after["front-proxy-client.crt"]))
	if err != nil || client[0].CheckSignatureFrom(authority.Certificate) != nil {
		t.Errorf("%v %v", client, err)
	}
}
