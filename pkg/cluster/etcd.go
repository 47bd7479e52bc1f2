package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/pkg/cluster/supervise"
	"skiff/pkg/etcd"
)

// quiet: what etcd logs while it works on files says nothing that an error doesn't.
var quiet = slog.New(slog.DiscardHandler)

// dialEtcd connects to the members of some masters, as the apiservers do.
func dialEtcd(l layout, masters ...Node) (*clientv3.Client, error) {
	access, err := etcdAccess(l)
	if err != nil {
		return nil, err
	}
	config := etcd.DialConfig{TLS: access}
	for _, n := range masters {
		config.Endpoints = append(config.Endpoints, urlOf(n.IP, clientPort))
	}
	return etcd.Dial(config)
}

// etcdAccess is how the apiservers prove to etcd who they are, and etcd to them.
func etcdAccess(l layout) (*tls.Config, error) {
	file := func(name string) string { return filepath.Join(l.root, "pki", name) }
	pair, err := tls.LoadX509KeyPair(file("apiserver-etcd-client.crt"), file("apiserver-etcd-client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(file("etcd/ca.crt"))
	if err != nil {
		return nil, err
	}
	access := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, RootCAs: x509.NewCertPool()}
	access.RootCAs.AppendCertsFromPEM(ca)
	return access, nil
}

// EtcdCommand is a command line, to be run inside the node that is returned, of `apiserver etcd`
// with the way to the cluster's members.
func EtcdCommand(name string, args []string) (Node, []string, error) {
	s, err := Get(name)
	if err != nil {
		return Node{}, nil, err
	}
	l := newLayout(name)
	for _, n := range s.voters() {
		if runningInit(l, n.Name) == 0 {
			continue
		}
		at := localSite(l, n)
		command := append([]string{at.program("apiserver"), "etcd"}, args...)
		if s.VIP.IsValid() {
			command = append(command, "--endpoints="+etcdURLs(s, ""), "--cacert="+at.pki("etcd/ca.crt"),
				"--cert="+at.pki("apiserver-etcd-client.crt"), "--key="+at.pki("apiserver-etcd-client.key"))
		} else {
			command = append(command, "--endpoints="+embeddedSocket)
		}
		return n, command, nil
	}
	return Node{}, nil, fmt.Errorf("cluster %s: no master is running", name)
}

// Snapshot saves what a cluster's etcd holds into a file.
func Snapshot(ctx context.Context, name, file string, progress Progress) error {
	const inside = supervise.NodeDir + "/snapshot.db"
	node, command, err := EtcdCommand(name, []string{"snapshot", inside})
	if err != nil {
		return err
	}
	written, err := NodeFile(name, node.Name, inside)
	if err != nil {
		return err
	}
	defer os.Remove(written)
	return progress.do("Writing a snapshot to "+file, func() error {
		enter := []string{"--target", strconv.Itoa(InitPid(name, node.Name)), "--mount", "--net", "--pid", "--"}
		if out, err := exec.CommandContext(ctx, "nsenter", append(enter, command...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return copyFile(written, file)
	})
}

// dataDir is a master's etcd directory, as the machine sees it.
func (l layout) dataDir(n Node) string { return l.nodeFile(n.Name, "var/lib/etcd") }

// Leave takes a master's etcd member out of the cluster, with the control plane on top of it. The
// cluster then needs one vote less.
func Leave(ctx context.Context, name, node string, progress Progress) error {
	return withMaster(name, node, func(s *Spec, l layout, n *Node) error {
		return progress.do("Removing the etcd member of "+n.Name, func() error { return leave(ctx, s, l, n) })
	})
}

func leave(ctx context.Context, s *Spec, l layout, n *Node) error {
	var others []Node
	for _, m := range s.voters() {
		if m.Name != n.Name {
			others = append(others, m)
		}
	}
	if len(others) == 0 {
		return fmt.Errorf("%s has the last etcd member: without it there is no cluster", n.Name)
	}
	client, err := dialEtcd(l, others...)
	if err != nil {
		return err
	}
	defer client.Close()
	// etcd calls members well only when they have been in touch for five seconds.
	err = wait(ctx, 15*time.Second, func(ctx context.Context) error {
		members, err := etcd.Members(ctx, client)
		if err != nil {
			return err
		}
		for _, m := range members {
			if m.Name == n.Name {
				return etcd.Leave(ctx, client, m.ID)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	n.Etcd = Outside
	return s.apply(ctx, l, *n)
}

// Join gives a master that left a new etcd member, and waits until it has a vote.
func Join(ctx context.Context, name, node string, progress Progress) error {
	return withMaster(name, node, func(s *Spec, l layout, n *Node) error {
		if n.Etcd != Outside {
			return fmt.Errorf("%s has an etcd member; `ctl cluster replace %s %s` gives it a new one", n.Name, s.Name, n.Name)
		}
		return join(ctx, s, l, n, progress)
	})
}

// Replace gives a master a new etcd member in place of one that is dead or has lost its disk. The
// node is started if it isn't running.
func Replace(ctx context.Context, name, node string, progress Progress) error {
	return withMaster(name, node, func(s *Spec, l layout, n *Node) error {
		if n.Etcd != Outside {
			err := progress.do("Removing the etcd member of "+n.Name, func() error { return leave(ctx, s, l, n) })
			if err != nil {
				return err
			}
		}
		return join(ctx, s, l, n, progress)
	})
}

func join(ctx context.Context, s *Spec, l layout, n *Node, progress Progress) error {
	err := progress.do("Joining with an etcd member on "+n.Name, func() error {
		if err := os.RemoveAll(l.dataDir(*n)); err != nil {
			return err
		}
		n.Etcd = Joiner
		if err := s.apply(ctx, l, *n); err != nil {
			return err
		}
		return startNode(s, l, *n)
	})
	if err != nil {
		return err
	}
	return progress.do("Waiting for its vote", func() error {
		return wait(ctx, time.Minute, func(ctx context.Context) error { return hasVote(ctx, l, *n) })
	})
}

func hasVote(ctx context.Context, l layout, n Node) error {
	client, err := dialEtcd(l, n)
	if err != nil {
		return err
	}
	defer client.Close()
	members, err := etcd.Members(ctx, client)
	if err != nil {
		return err
	}
	own, err := etcd.Find(members, n.Name)
	switch {
	case err != nil:
		return err
	case own.Err != nil:
		return own.Err
	case own.Learner:
		return fmt.Errorf("%s has not caught up yet", n.Name)
	}
	return nil
}

// Restore makes all masters begin anew with the data of a snapshot. What was there is kept beside it.
func Restore(ctx context.Context, name, snapshot string, progress Progress) error {
	return withNodes(name, "", func(s *Spec, l layout, _ []Node) error {
		if err := s.pause(ctx, l, progress); err != nil {
			return err
		}
		err := progress.do("Restoring from "+snapshot, func() error {
			cluster := map[string][]string{}
			for _, n := range s.Masters() {
				cluster[n.Name] = []string{urlOf(n.IP, peerPort)}
			}
			for i := range s.Nodes {
				if n := &s.Nodes[i]; n.Role == Master {
					if err := restoreMember(s, l, n, snapshot, cluster); err != nil {
						return err
					}
				}
			}
			return writeJSON(l.specFile(), s)
		})
		if err != nil {
			return fmt.Errorf("%w\nthe control plane is stopped; a directory etcd-before-… beside each master's var/lib/etcd has what was there", err)
		}
		return s.resume(ctx, l, progress)
	})
}

func restoreMember(s *Spec, l layout, n *Node, snapshot string, cluster map[string][]string) error {
	dir := l.dataDir(*n)
	if err := setAside(dir); err != nil {
		return err
	}
	n.Etcd = Founder
	config := etcd.Config{DataDir: dir, Log: quiet}
	if s.VIP.IsValid() {
		config.Name, config.InitialCluster, config.Peers = n.Name, cluster, etcd.Endpoint{Advertise: cluster[n.Name]}
	}
	return etcd.Restore(etcd.RestoreConfig{Snapshot: snapshot, Config: config})
}

// setAside renames a directory that nobody uses any more.
func setAside(dir string) error {
	err := os.Rename(dir, dir+"-before-"+time.Now().UTC().Format("20060102T150405"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Recover makes a cluster that has lost its quorum for good go on from one master's data; the others
// begin anew and join it.
func Recover(ctx context.Context, name, node string, progress Progress) error {
	return withMaster(name, node, func(s *Spec, l layout, n *Node) error {
		if err := s.pause(ctx, l, progress); err != nil {
			return err
		}
		err := progress.do("Recovering from the data of "+n.Name, func() error {
			_, err := etcd.Recover(ctx, etcd.RecoverConfig{DataDir: l.dataDir(*n), Log: quiet})
			return err
		})
		if err != nil {
			return err
		}
		n.Etcd = Founder
		for i := range s.Nodes {
			// Their members belong to a cluster that is no more, and must not start again.
			if m := &s.Nodes[i]; m.Role == Master && m.Name != n.Name {
				m.Etcd = Outside
				if err := setAside(l.dataDir(*m)); err != nil {
					return err
				}
			}
		}
		if err := writeJSON(l.specFile(), s); err != nil {
			return err
		}
		if err := s.resume(ctx, l, progress); err != nil {
			return err
		}
		for i := range s.Nodes {
			if m := &s.Nodes[i]; m.Role == Master && m.Name != n.Name {
				if err := join(ctx, s, l, m, progress); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// pause stops the control plane of all masters; what they are stays as it is on disk.
func (s *Spec) pause(ctx context.Context, l layout, progress Progress) error {
	return progress.do("Stopping the control plane", func() error {
		return s.eachMaster(func(n Node) error {
			n.Etcd = Outside
			return s.reload(ctx, l, n)
		})
	})
}

// resume starts it again, with the masters that aren't running, and waits for the API.
func (s *Spec) resume(ctx context.Context, l layout, progress Progress) error {
	err := progress.do("Starting the control plane", func() error {
		return s.eachMaster(func(n Node) error {
			if err := s.reload(ctx, l, n); err != nil {
				return err
			}
			return startNode(s, l, n)
		})
	})
	if err != nil {
		return err
	}
	api, err := connectAPI(l)
	if err != nil {
		return err
	}
	return progress.do("Waiting for the API", func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return api.ready(ctx)
	})
}
