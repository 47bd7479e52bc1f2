package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A program of a user's leads in one of its pods, and in another when that one is gone; manifests/leader-election.
func TestLeaderElection(t *testing.T) {
	must(t, "cluster", "load", clusterName, filepath.Join(root, "bin/images/leader.tar"))
	manifest, err := os.ReadFile(filepath.Join(root, "manifests/leader-election/leader.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string]string{"a Lease": "args: []", "Skiff's lock": "args: [--fenced]"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			if !strings.Contains(string(manifest), "args: []") {
				t.Fatal("the manifest has no arguments")
			}
			apply(t, ns, strings.Replace(string(manifest), "args: []", args, 1))
			count, leader := 0, ""
			counts := func(not string) func() error {
				return func() error {
					m, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "leader", metav1.GetOptions{})
					if err != nil {
						return err
					}
					now, err := strconv.Atoi(m.Data["count"])
					if err != nil || now <= count || m.Data["leader"] == not {
						return fmt.Errorf("%s has counted to %d, it was %d (%v)", m.Data["leader"], now, count, err)
					}
					count, leader = now, m.Data["leader"]
					return nil
				}
			}
			eventually(t, time.Minute, "somebody counts", counts(""))
			eventually(t, time.Minute, "and counts on", counts(""))
			first := leader
			pod, _, _ := strings.Cut(first, "_") // Skiff's identities have more to them
			lease, err := client.CoordinationV1().Leases(ns).Get(t.Context(), "leader", metav1.GetOptions{})
			if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != first {
				t.Errorf("the lease is %v (%v), and %s leads", lease, err, first)
			}
			must(t, "delete", "pod", pod, "-n", ns, "--force", "--grace-period=0")
			eventually(t, time.Minute, "another one counts", counts(first))
		})
	}
}
