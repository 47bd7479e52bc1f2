package network

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestAddressesRunOut(t *testing.T) {
	a := &addresses{dir: t.TempDir()}
	prefix := netip.MustParsePrefix("10.244.1.0/29")
	must(t, a.open(prefix))
	seen := map[netip.Addr]bool{}
	for i := range 5 {
		address, fresh, err := a.take(Pod{ID: fmt.Sprint(i)})
		must(t, err)
		if !fresh || seen[address] || !prefix.Contains(address) || address == prefix.Addr() || address == prefix.Addr().Next() || address.String() == "10.244.1.7" {
			t.Errorf("pod %d got %s", i, address)
		}
		seen[address] = true
	}
	if _, _, err := a.take(Pod{ID: "more"}); err == nil || err.Error() != "network: no address left: all 5 of 10.244.1.0/29 are in use" {
		t.Errorf("one too many: %v", err)
	}
	must(t, a.release("3"))
	if _, fresh, err := a.take(Pod{ID: "more"}); err != nil || !fresh {
		t.Errorf("after one was given back: %v %v", fresh, err)
	}
}

func TestAddressesSurvive(t *testing.T) {
	dir := t.TempDir()
	a := &addresses{dir: dir}
	prefix := netip.MustParsePrefix("10.244.1.0/24")
	must(t, a.open(prefix))
	first, _, err := a.take(Pod{ID: "one", HostPorts: []HostPort{{Port: 80, PodPort: 80, Protocol: corev1.ProtocolTCP}}})
	must(t, err)
	// What a power failure leaves, what isn't ours, and what is of another range.
	must(t, os.WriteFile(filepath.Join(dir, "10.244.1.77"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "notes"), []byte("keep"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "10.245.1.77"), []byte(`{"pod":"stranger"}`), 0o644))

	b := &addresses{dir: dir}
	must(t, b.open(prefix))
	again, fresh, err := b.take(Pod{ID: "one"})
	if err != nil || fresh || again != first {
		t.Errorf("after a restart: %s %v %v, was %s", again, fresh, err, first)
	}
	if pods := fmt.Sprint(b.pods()); pods != "[one]" {
		t.Errorf("pods %s", pods)
	}
	if _, _, err := b.take(Pod{ID: "two", HostPorts: []HostPort{{HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80, PodPort: 1, Protocol: corev1.ProtocolTCP}}}); err == nil ||
		!strings.Contains(err.Error(), "host port 80/TCP is held by pod /") {
		t.Errorf("a host port twice: %v", err)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("files %v", entries)
	}
}

func TestLinkNames(t *testing.T) {
	names := map[string]string{}
	for i := range 10000 {
		id := fmt.Sprint("pod-", i)
		name := linkName(id)
		if len(name) > 15 || names[name] != "" {
			t.Fatalf("%s: %q (also %q)", id, name, names[name])
		}
		names[name] = id
	}
}
