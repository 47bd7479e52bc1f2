package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// withMaster works on one of several masters, under the cluster's lock.
func withMaster(name, node string, f func(*Spec, layout, *Node) error) error {
	return withNodes(name, node, func(s *Spec, l layout, nodes []Node) error {
		if !s.VIP.IsValid() {
			return fmt.Errorf("cluster %s has one master, whose etcd is a part of its apiserver", s.Name)
		}
		for i := range s.Nodes {
			if n := &s.Nodes[i]; n.Name == nodes[0].Name && n.Role == Master {
				return f(s, l, n)
			}
		}
		return fmt.Errorf("node %s is no master", nodes[0].Name)
	})
}

// apply saves what a cluster has become, and has a node take its part of it.
func (s *Spec) apply(ctx context.Context, l layout, n Node) error {
	if err := writeJSON(l.specFile(), s); err != nil {
		return err
	}
	return s.reload(ctx, l, n)
}

// reload writes what a node is told, and waits until it does so if it is running.
func (s *Spec) reload(ctx context.Context, l layout, n Node) error {
	a, err := loadAuthorities(s, l.root)
	if err != nil {
		return err
	}
	if err := writeNodeCertificates(s, n, a, l.root, l.nodeFile(n.Name, "etc")); err != nil {
		return fmt.Errorf("certificates of %s: %w", n.Name, err)
	}
	config := nodeConfig(s, l, n)
	if err := writeJSON(l.nodeFile(n.Name, "init.json"), config); err != nil {
		return err
	}
	if runningInit(l, n.Name) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return reloadNode(ctx, l, n, config.Generation)
}

// eachMaster works on all masters at the same time.
func (s *Spec) eachMaster(f func(Node) error) error {
	var group errgroup.Group
	for _, n := range s.Masters() {
		group.Go(func() error { return f(n) })
	}
	return group.Wait()
}

// wait tries until it succeeds, for what tells nobody when it has happened.
func wait(ctx context.Context, atMost time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Upgrade replaces the binaries of a running cluster, node by node and masters first, by those in bin.
// The next node's turn comes when the one before is well again. Containers are not touched. Interrupted, it
// may be repeated.
func Upgrade(ctx context.Context, name, bin string, progress Progress) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	return withNodes(name, "", func(s *Spec, l layout, _ []Node) error {
		o := Options{Bin: bin, LoadBalancer: s.LoadBalancer}
		if err := requirements(o); err != nil {
			return err
		}
		build, err := buildOf(bin)
		if err != nil {
			return err
		}
		api, err := connectAPI(l)
		if err != nil {
			return err
		}
		for i := range s.Nodes {
			n := &s.Nodes[i]
			if n.Bin == bin && n.Build == build {
				continue
			}
			err := progress.do("Upgrading "+n.Name, func() error {
				begin := time.Now()
				n.Bin, n.Build = bin, build
				if err := s.apply(ctx, l, *n); err != nil {
					return err
				}
				return s.well(ctx, l, api, *n, begin)
			})
			if err != nil {
				return err
			}
		}
		s.Bin = bin
		return writeJSON(l.specFile(), s)
	})
}

// buildOf tells one set of binaries from another.
func buildOf(bin string) (string, error) {
	var newest time.Time
	for _, name := range binaries {
		info, err := os.Stat(filepath.Join(bin, name))
		if err != nil {
			return "", err
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest.UTC().Format(time.RFC3339Nano), nil
}

// well waits until a node that runs is Ready, and what it has of the control plane works.
func (s *Spec) well(ctx context.Context, l layout, api *api, n Node, since time.Time) error {
	if runningInit(l, n.Name) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if n.Role == Master && n.Etcd != Outside {
		config, err := adminConfig(l)
		if err != nil {
			return err
		}
		err = wait(ctx, time.Minute, func(ctx context.Context) error {
			if why := askReady(ctx, config, n); why != "" {
				return fmt.Errorf("the apiserver of %s is not ready: %s", n.Name, why)
			}
			if !s.VIP.IsValid() {
				return nil
			}
			return hasVote(ctx, l, n)
		})
		if err != nil {
			return err
		}
	}
	if err := api.heard(ctx, []Node{n}, since); err != nil {
		return err
	}
	return api.nodesReady(ctx, []Node{n})
}
