package machines

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"skiff/pkg/pki"
)

// The names and addresses of the machines are the document's.
var addresses = map[string]string{"m1": "10.0.0.11", "m2": "10.0.0.12", "m3": "10.0.0.13", "w1": "10.0.0.21"}

const operations = "../../docs/operations.md"

// TestOperations sets up a cluster, lets a worker join, and goes through what may happen to it.
func TestOperations(t *testing.T) {
	o := &operator{t: t, doc: readDocument(t, operations), room: newRoom(t)}
	defer func() {
		if t.Failed() {
			o.tell()
		}
	}()
	for name := range addresses {
		o.install(name)
	}
	o.setUp()
	o.joinWorker()
	o.runPod()
	o.lookAfterEtcd()
	o.replaceMaster()
	o.restore()
	o.loseMajority()
	o.upgrade()
	for _, text := range o.doc.unused("Real machines", "Replacing a master", "Restoring", "A lost majority", "Looking after etcd", "Upgrading") {
		if !strings.Contains(text, "ctl cluster upgrade NAME") { // of a local one
			t.Errorf("nobody has tried what the document says here:\n%s", text)
		}
	}
}

// operator does what the document says.
type operator struct {
	*room
	t   *testing.T
	doc *document
}

// here is a block for m1 as it is for another machine: its own name and address instead, but not
// where all are listed.
func here(text, from, to string) string {
	var out strings.Builder
	replace := strings.NewReplacer(from, to, addresses[from], addresses[to])
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "--initial-cluster=") {
			line = replace.Replace(line)
		}
		out.WriteString(line)
	}
	return out.String()
}

func (o *operator) install(name string) *machine {
	o.t.Helper()
	m := o.boot(name, addresses[name])
	m.run("cd skiff\n" + on(name, o.doc.block(o.t, "Real machines", "apt-get install")))
	return m
}

// on leaves out of a block what is for masters only, if this isn't one.
func on(name, text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if name[0] == 'm' || !strings.Contains(line, "# masters only") {
			out.WriteString(line)
		}
	}
	return out.String()
}

func (o *operator) setUp() {
	o.t.Helper()
	file := filepath.Join(o.desk, "prod.yaml")
	if err := os.WriteFile(file, []byte(o.doc.block(o.t, "Real machines", "kind: Machines")), 0o644); err != nil {
		o.t.Fatal(err)
	}
	o.atDesk(o.doc.block(o.t, "Real machines", "ctl cluster prepare"))
	start := o.doc.block(o.t, "Real machines", "scp -r")
	for _, name := range []string{"m1", "m2", "m3"} {
		o.atDesk(here(start, "m1", name))
	}
	o.atDesk(o.doc.block(o.t, "Real machines", "cluster.yaml"))
	o.nodesAreReady("m1", "m2", "m3")
}

// nodesAreReady waits until they are, and have been heard of since: one that has just gone is called Ready as well.
func (o *operator) nodesAreReady(names ...string) {
	o.t.Helper()
	since := time.Now()
	o.until("Ready: "+strings.Join(names, ", "), "ctl get nodes --no-headers; ctl get leases -n kube-node-lease --no-headers "+
		"-o custom-columns=LEASE:.metadata.name,AT:.spec.renewTime", func(out string) bool {
		for _, name := range names {
			renewed := regexp.MustCompile(`(?m)^` + name + ` +(\d.*)$`).FindStringSubmatch(out)
			if renewed == nil || !regexp.MustCompile(`(?m)^`+name+` +Ready `).MatchString(out) {
				return false
			}
			if at, err := time.Parse(time.RFC3339Nano, renewed[1]); err != nil || !at.After(since) {
				return false
			}
		}
		return true
	})
}

func (o *operator) joinWorker() {
	o.t.Helper()
	command := o.atDesk(o.doc.block(o.t, "Real machines", "ctl token create"))
	o.machines["w1"].run(command)
	o.nodesAreReady("w1")
	o.atDesk(o.doc.block(o.t, "Real machines", "ctl taint"))
}

const pod = `
apiVersion: v1
kind: Pod
metadata: {name: hello}
spec:
  containers:
  - {name: hello, image: "skiff.local/hello:1"}
`

// runPod runs a pod on the worker, and asks the cluster's name server in it.
func (o *operator) runPod() {
	o.t.Helper()
	o.machines["w1"].run("ctr -n k8s.io images import skiff/images/hello.tar")
	o.atDesk("ctl apply -f - <<'EOF'" + pod + "EOF")
	o.podRuns()
	o.until("the cluster's names resolve", "ctl exec hello -- nslookup kubernetes.default.svc.cluster.local", func(out string) bool {
		return strings.Contains(out, "10.96.0.1")
	})
}

// podRuns says which container it is.
func (o *operator) podRuns() string {
	o.t.Helper()
	return o.until("the pod runs", `ctl get pod hello -o jsonpath='{.status.phase} {.spec.nodeName} {.status.containerStatuses[0].containerID}'`, func(out string) bool {
		return strings.HasPrefix(out, "Running w1 containerd://")
	})
}

// members waits until etcd has three that vote.
func (o *operator) members(on string) {
	o.t.Helper()
	members := o.doc.command(o.t, "members")
	o.until("three members", "ssh root@"+addresses[on]+" '. ~/.session; "+members+"'", func(out string) bool {
		return strings.Count(out, "follower") == 2 && strings.Count(out, "leader") == 1 && !strings.Contains(out, "unreachable")
	})
}

var masters = []string{"m1", "m2", "m3"}

func (o *operator) lookAfterEtcd() {
	o.t.Helper()
	for _, name := range masters {
		o.machines[name].run(o.doc.block(o.t, "Looking after etcd", "E="))
	}
	o.members("m1")
	for _, what := range []string{"forget old revisions", "give free space", "alarms"} {
		o.machines["m1"].run(o.doc.command(o.t, what))
	}
	o.atDesk("ctl create configmap before")
	o.machines["m1"].run(o.doc.command(o.t, "save everything"))
	o.atDesk("ctl create configmap after")
}

// restore goes back to the snapshot; containers don't notice.
func (o *operator) restore() {
	o.t.Helper()
	container := o.podRuns()
	for _, other := range masters[1:] {
		o.host("cp " + o.machines["m1"].file("/root/FILE") + " " + o.machines[other].file("/root/FILE"))
	}
	for _, step := range []string{"systemctl stop", "apiserver etcd restore", "systemctl start"} {
		text := o.doc.block(o.t, "Restoring", step)
		for _, name := range masters {
			o.machines[name].run(here(text, "m1", name))
		}
	}
	o.until("the API is back", "ctl get --raw=/readyz", func(string) bool { return true })
	if out := o.atDesk("ctl get configmaps"); !strings.Contains(out, "before ") || strings.Contains(out, "after ") {
		o.t.Errorf("after the restoration there are\n%s", out)
	}
	o.members("m1")
	o.nodesAreReady("m1", "m2", "m3", "w1")
	if now := o.podRuns(); now != container {
		o.t.Errorf("the pod was %s and is %s", container, now)
	}
}

// replaceMaster is about m2: once its machine is a new one, once its data are damaged.
func (o *operator) replaceMaster() {
	o.t.Helper()
	o.machines["m2"].end()
	o.replace("m2")

	stop, forget, _ := strings.Cut(strings.TrimSpace(o.doc.block(o.t, "Replacing a master", "rm -rf")), "\n")
	prepare, scp, start := o.replacement("m2")
	for _, line := range []string{stop, prepare, scp, forget, start} {
		o.atDesk(line)
	}
	o.members("m1")
}

// replace puts a new machine in a master's place.
func (o *operator) replace(name string) {
	o.t.Helper()
	o.install(name)
	prepare, scp, start := o.replacement(name)
	o.atDesk(prepare + "\n" + scp + "\n" + start)
	o.machines[name].run(o.doc.block(o.t, "Looking after etcd", "E="))
}

// replacement are the three commands of the document, which are about m2.
func (o *operator) replacement(name string) (prepare, scp, start string) {
	o.t.Helper()
	lines := strings.Split(strings.TrimSpace(here(o.doc.block(o.t, "Replacing a master", "--replace m2"), "m2", name)), "\n")
	if len(lines) != 3 {
		o.t.Fatalf("want three commands: %q", lines)
	}
	return lines[0], lines[1], lines[2]
}

// loseMajority leaves m2 alone in the world, and goes on from there.
func (o *operator) loseMajority() {
	o.t.Helper()
	o.atDesk("ctl create configmap kept")
	container := o.podRuns()
	o.machines["m1"].end()
	o.machines["m3"].end()
	if out, err := o.try("", "ctl create configmap lost ", 5*time.Second); err == nil {
		o.t.Errorf("without a majority something was written: %s", out)
	}
	o.machines["m2"].run(o.doc.block(o.t, "A lost majority", "apiserver etcd recover"))
	o.until("the API is back", "ctl get configmap kept", func(string) bool { return true })
	for _, name := range []string{"m1", "m3"} {
		o.replace(name)
		o.until(name+" has a vote", "ssh root@"+addresses["m2"]+" '. ~/.session; "+o.doc.command(o.t, "members")+"'", func(out string) bool {
			return regexp.MustCompile(`(?m)^` + name + ` .*follower`).MatchString(out)
		})
	}
	o.members("m2")
	o.nodesAreReady("m1", "m2", "m3", "w1")
	if now := o.podRuns(); now != container {
		o.t.Errorf("the pod was %s and is %s", container, now)
	}
}

func (o *operator) upgrade() {
	o.t.Helper()
	container := o.podRuns()
	expiring := o.expire("m1")
	for _, name := range []string{"m1", "m2", "m3", "w1"} {
		o.machines[name].run("cd skiff\n" + on(name, o.doc.block(o.t, "Upgrading", "install -m")))
		o.members("m2")
		o.atDesk(o.doc.block(o.t, "Upgrading", "ctl get nodes"))
		o.nodesAreReady("m1", "m2", "m3", "w1")
	}
	if now := o.podRuns(); now != container {
		o.t.Errorf("the pod was %s and is %s", container, now)
	}
	file := o.machines["m1"].file("/etc/skiff/pki/agent.crt")
	o.until("a certificate is renewed", "cat "+file, func(out string) bool { return out != expiring })
}

// expire gives a machine's agent a certificate that is to be renewed soon: the controller's unit must let it.
func (o *operator) expire(name string) string {
	o.t.Helper()
	authority, err := pki.LoadAuthority(filepath.Join(o.desk, "prod/pki/ca"))
	if err != nil {
		o.t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{CommonName: "system:node:" + name, Organizations: []string{"system:nodes"},
		Hosts: []string{name, addresses[name]}, Server: true, Validity: 30 * time.Second})
	if err == nil {
		err = pair.Write(o.machines[name].file("/etc/skiff/pki/agent"))
	}
	if err != nil {
		o.t.Fatal(err)
	}
	return string(pair.Cert)
}

// TestPackages: what the document has installed, is what the tests run with.
func TestPackages(t *testing.T) {
	script, err := os.ReadFile("../../hack/deps")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`apt-get install ([^&#\n]*)`).FindAllStringSubmatch(readDocument(t, operations).block(t, "Real machines", "apt-get install"), -1)
	if len(lines) == 0 {
		t.Fatal("nothing is installed")
	}
	for _, line := range lines {
		for name := range strings.FieldsSeq(line[1]) {
			if !regexp.MustCompile(`(?m)^need \S+ ` + name + `$`).Match(script) {
				t.Errorf("hack/deps doesn't install %s", name)
			}
		}
	}
}
