package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"skiff/pkg/pki/bootstrap"
)

// Progress is told what is going on: it is called when a step begins, and what
// it returns when the step has ended.
type Progress func(step string) (done func(error))

func silent(string) func(error) { return func(error) {} }

func (p Progress) do(step string, f func() error) error {
	if p == nil {
		p = silent
	}
	done := p(step)
	err := f()
	done(err)
	return err
}

// CreateOptions say how to create a cluster.
type CreateOptions struct {
	Options
	// Wait is how long to wait for all nodes to be Ready; 0 doesn't wait.
	Wait time.Duration
	// Retain keeps what is there when creation fails, to be looked at.
	Retain   bool
	Progress Progress
}

// Create makes a cluster and waits until its nodes are Ready. If it exists, it
// is started. Its context becomes the current one of the user's kubeconfig.
func Create(ctx context.Context, o CreateOptions) (*Spec, error) {
	if err := requirements(o.Options); err != nil {
		return nil, err
	}
	l := newLayout(o.Name)
	unlock, err := lock(l.lockFile())
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := load(l)
	switch {
	case err == nil:
		same, err := s.shapedLike(o.Options)
		if err != nil {
			return nil, err
		}
		if !same {
			return nil, fmt.Errorf("cluster %s exists, with %d masters, %d workers, isolated=%v, or other options than these: delete it first, or choose another name",
				o.Name, len(s.Masters()), len(s.Workers()), s.Isolated)
		}
	case errors.Is(err, os.ErrNotExist):
		if s, err = create(o, l); err != nil {
			return nil, errors.Join(err, abandon(o, l))
		}
	default:
		return nil, err
	}
	if err := start(ctx, s, l, s.Nodes, o.Wait, o.Progress); err != nil {
		return nil, errors.Join(err, abandon(o, l))
	}
	return s, mergeKubeconfig(l)
}

func abandon(o CreateOptions, l layout) error {
	if o.Retain {
		return nil
	}
	return destroy(l)
}

func create(o CreateOptions, l layout) (s *Spec, err error) {
	return s, o.Progress.do("Writing certificates and configuration", func() error {
		// Whatever an interrupted creation of this name has left.
		if err := destroy(l); err != nil {
			return err
		}
		taken, err := rangesInUse()
		if err != nil {
			return err
		}
		others, err := List()
		if err != nil {
			return err
		}
		for _, other := range others {
			taken = append(taken, other.NodeRange)
		}
		if s, err = NewSpec(o.Options, taken); err != nil {
			return err
		}
		a, err := writeAuthorities(s, l.root)
		if err != nil {
			return err
		}
		for _, n := range s.Nodes {
			if err := prepareNode(s, l, n, a); err != nil {
				return err
			}
		}
		return writeJSON(l.specFile(), s)
	})
}

// start brings nodes up, and waits for the API and for all of them to be Ready.
func start(ctx context.Context, s *Spec, l layout, nodes []Node, wait time.Duration, progress Progress) error {
	begin := time.Now()
	a, err := loadAuthorities(s, l.root)
	if err != nil {
		return err
	}
	if err := a.renewAdmin(l.root); err != nil {
		return err
	}
	err = progress.do("Starting "+counted(len(nodes), "node"), func() error {
		if err := weave(s, l); err != nil {
			return err
		}
		if err := openOutside(s, l); err != nil {
			return err
		}
		var group errgroup.Group
		for _, n := range nodes {
			group.Go(func() error { return startNode(s, l, n) })
		}
		return group.Wait()
	})
	if err != nil || wait == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	api, err := connectAPI(l)
	if err != nil {
		return err
	}
	if err := progress.do("Waiting for the API", func() error { return api.ready(ctx) }); err != nil {
		return diagnose(l, s.Masters()[0].Name, "apiserver", err)
	}
	if err := progress.do("Setting up the cluster's own objects", func() error {
		return persist(ctx, func(ctx context.Context) error { return api.furnish(ctx, s) })
	}); err != nil {
		return diagnose(l, s.Masters()[0].Name, "apiserver", err)
	}
	err = progress.do("Waiting for "+counted(len(nodes), "node")+" to be Ready", func() error {
		if err := api.heard(ctx, nodes, begin); err != nil {
			return err
		}
		return api.nodesReady(ctx, nodes)
	})
	var late *notReadyError
	if errors.As(err, &late) {
		return diagnose(l, late.node, "agent", err)
	}
	if err != nil {
		return err
	}
	known := bootstrap.Cluster{Server: s.Server(), CA: a.api.Pair().Cert, Settings: bootstrap.Settings{"cluster-cidr": s.PodRange.String()}}
	return persist(ctx, func(ctx context.Context) error { return bootstrap.Ensure(ctx, api, known) })
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// diagnose adds to an error what the component concerned said last.
func diagnose(l layout, node, component string, err error) error {
	data, readErr := os.ReadFile(l.nodeFile(node, "log", component+".log"))
	if readErr != nil {
		return fmt.Errorf("%w\n%s on %s has written no log: see %s", err, component, node, l.nodeFile(node, "log", "init.log"))
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	lines = lines[max(0, len(lines)-8):]
	return fmt.Errorf("%w\nthe last lines of %s on %s:\n  %s\nsee the rest with: ctl cluster logs %s %s %s",
		err, component, node, strings.Join(lines, "\n  "), l.name, node, component)
}

// Delete takes a cluster away, all of it. Deleting what isn't there succeeds.
func Delete(name string, progress Progress) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("cluster name %q is not one", name)
	}
	l := newLayout(name)
	unlock, err := lock(l.lockFile())
	if err != nil {
		return err
	}
	defer unlock()
	defer os.Remove(l.lockFile())
	return progress.do("Deleting cluster "+name, func() error {
		return errors.Join(destroy(l), removeFromKubeconfig(l))
	})
}

// destroy removes everything that belongs to a cluster's name, whatever state it is in.
func destroy(l layout) error {
	if err := killCgroup(l.cgroup("")); err != nil {
		return err
	}
	if err := unravel(l); err != nil {
		return err
	}
	if err := closeOutside(l); err != nil {
		return err
	}
	return os.RemoveAll(l.root)
}

// Start starts the nodes of a stopped cluster, or one of them.
func Start(ctx context.Context, name, node string, wait time.Duration, progress Progress) error {
	return withNodes(name, node, func(s *Spec, l layout, nodes []Node) error {
		return start(ctx, s, l, nodes, wait, progress)
	})
}

// Stop stops all nodes of a cluster, or one of them. What they hold on disk stays.
func Stop(name, node string, progress Progress) error {
	return withNodes(name, node, func(s *Spec, l layout, nodes []Node) error {
		return progress.do("Stopping "+counted(len(nodes), "node"), func() error {
			var group errgroup.Group
			for _, n := range nodes {
				group.Go(func() error { return stopNode(l, n.Name, 15*time.Second) })
			}
			return group.Wait()
		})
	})
}

func withNodes(name, node string, f func(*Spec, layout, []Node) error) error {
	l := newLayout(name)
	unlock, err := lock(l.lockFile())
	if err != nil {
		return err
	}
	defer unlock()
	s, err := Get(name)
	if err != nil {
		return err
	}
	nodes := s.Nodes
	if node != "" {
		n, err := s.Node(node)
		if err != nil {
			return err
		}
		nodes = []Node{n}
	}
	return f(s, l, nodes)
}

// Get reads a cluster's Spec.
func Get(name string) (*Spec, error) {
	s, err := load(newLayout(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no cluster %q: see `ctl cluster list`", name)
	}
	return s, err
}

func load(l layout) (*Spec, error) {
	data, err := os.ReadFile(l.specFile())
	if err != nil {
		return nil, err
	}
	var s Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", l.specFile(), err)
	}
	return &s, nil
}

// List returns the clusters on this machine, by name.
func List() ([]*Spec, error) {
	files, err := filepath.Glob(filepath.Join(Home(), "clusters", "*", "cluster.json"))
	if err != nil {
		return nil, err
	}
	sort.Strings(files)
	var out []*Spec
	for _, file := range files {
		s, err := load(newLayout(filepath.Base(filepath.Dir(file))))
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// InitPid returns the pid of a node's PID 1, or 0 when the node isn't running.
func InitPid(cluster, node string) int { return runningInit(newLayout(cluster), node) }

// ProcessPid returns the pid, as the machine sees it, of one of a node's
// processes ("apiserver", "agent", "containerd" …), or 0.
func ProcessPid(cluster, node, component string) int {
	l := newLayout(cluster)
	if runningInit(l, node) == 0 {
		return 0
	}
	return readPid(l.nodeFile(node, "pid", component+".pid"))
}

// NodeFile is the path of a file that a node has at path, as the machine sees it;
// path lies below one of the node's own directories: /var/lib, /var/log, /run/skiff.
func NodeFile(cluster, node, path string) (string, error) {
	l := newLayout(cluster)
	for _, prefix := range []string{"/var/lib", "/var/log"} {
		if strings.HasPrefix(path, prefix+"/") {
			return l.nodeFile(node, path), nil
		}
	}
	if rest, ok := strings.CutPrefix(path, "/run/skiff/"); ok {
		return l.nodeFile(node, rest), nil
	}
	return "", fmt.Errorf("%s is not on the node's own disk", path)
}

// AdminKubeconfig is the path of the administrator's kubeconfig.
func AdminKubeconfig(cluster string) string { return newLayout(cluster).adminConfig() }

// LogFile is the path of a component's log.
func LogFile(cluster, node, component string) string {
	return newLayout(cluster).nodeFile(node, "log", component+".log")
}

// binaries are Skiff's own that a node runs.
var binaries = []string{"init", "apiserver", "scheduler", "controller", "agent"}

// requirements says what is missing on this machine.
func requirements(o Options) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("a local cluster needs root: it makes namespaces, links and mounts")
	}
	var missing []string
	for _, name := range binaries {
		if _, err := os.Stat(filepath.Join(o.Bin, name)); err != nil {
			missing = append(missing, filepath.Join(o.Bin, name))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing %s: build them with `make build`", strings.Join(missing, ", "))
	}
	programs := []string{"/usr/bin/containerd", "runc"}
	if o.masters() > 1 {
		programs = append(programs, "/usr/sbin/keepalived", "curl", "/usr/sbin/"+cmp.Or(o.LoadBalancer, HAProxy))
		if o.LoadBalancer == Nginx {
			programs = append(programs, "/usr/lib/nginx/modules/ngx_stream_module.so")
		}
	}
	if o.Registry != 0 {
		programs = append(programs, registryProgram)
	}
	for _, program := range programs {
		if !found(program) {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing %s: install them with `make deps`", strings.Join(missing, ", "))
	}
	return nil
}

func found(program string) bool {
	if filepath.IsAbs(program) {
		_, err := os.Stat(program)
		return err == nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err == nil {
			return true
		}
	}
	return false
}
