package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// addresses hands out a pod range. The truth is a directory: a file named by
// an address, made exclusively, says who holds it. What is in memory is an
// index of it.
type addresses struct {
	dir string

	mu     sync.Mutex
	prefix netip.Prefix
	last   netip.Addr // handed out last: the search goes on behind it, so that addresses rest before they come again
	byPod  map[string]lease
	byAddr map[netip.Addr]string
}

// lease is one address file.
type lease struct {
	Pod     string     `json:"pod"`
	Name    string     `json:"name"` // namespace/name, for people
	Ports   []HostPort `json:"hostPorts,omitempty"`
	address netip.Addr
}

// open reads the directory. Files that make no sense (cut short by a power
// failure, or of another pod range) are removed: their pods' namespaces died
// with the machine, or their range is no longer the node's.
func (a *addresses) open(prefix netip.Prefix) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return fmt.Errorf("network: address directory: %w", err)
	}
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return fmt.Errorf("network: address directory: %w", err)
	}
	a.prefix, a.byPod, a.byAddr = prefix, map[string]lease{}, map[netip.Addr]string{}
	a.last = nth(prefix, rand.IntN(size(prefix)))
	for _, entry := range entries {
		address, err := netip.ParseAddr(entry.Name())
		if err != nil {
			continue // not ours
		}
		path := filepath.Join(a.dir, entry.Name())
		var found lease
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("network: address file: %w", err)
		}
		err = json.Unmarshal(data, &found)
		if _, twice := a.byPod[found.Pod]; err != nil || found.Pod == "" || !prefix.Contains(address) || twice {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("network: address file: %w", err)
			}
			continue
		}
		found.address = address
		a.byPod[found.Pod], a.byAddr[address] = found, found.Pod
	}
	return nil
}

// take returns the pod's address, which is new unless fresh is false.
func (a *addresses) take(pod Pod) (_ netip.Addr, fresh bool, _ error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if held, ok := a.byPod[pod.ID]; ok {
		return held.address, false, nil
	}
	if err := a.portsFree(pod); err != nil {
		return netip.Addr{}, false, err
	}
	address := a.last
	for range size(a.prefix) {
		if address = address.Next(); !a.prefix.Contains(address) || address == nth(a.prefix, size(a.prefix)) {
			address = nth(a.prefix, 0)
		}
		if _, used := a.byAddr[address]; used {
			continue
		}
		held := lease{Pod: pod.ID, Name: pod.Namespace + "/" + pod.Name, Ports: pod.HostPorts, address: address}
		if err := a.write(held); err != nil {
			return netip.Addr{}, false, err
		}
		a.last = address
		a.byPod[pod.ID], a.byAddr[address] = held, pod.ID
		return address, true, nil
	}
	return netip.Addr{}, false, fmt.Errorf("network: no address left: all %d of %s are in use", size(a.prefix), a.prefix)
}

func (a *addresses) write(held lease) error {
	data, err := json.Marshal(held)
	if err != nil {
		return fmt.Errorf("network: address file: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(a.dir, held.address.String()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("network: address file: %w", err)
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err != nil {
		os.Remove(file.Name())
		return fmt.Errorf("network: address file: %w", err)
	}
	return nil
}

// portsFree refuses a host port that another pod holds.
func (a *addresses) portsFree(pod Pod) error {
	for _, other := range a.byPod {
		for _, held := range other.Ports {
			if slices.ContainsFunc(pod.HostPorts, held.clashes) {
				return fmt.Errorf("network: host port %s is held by pod %s", held, other.Name)
			}
		}
	}
	return nil
}

func (a *addresses) of(pod string) (lease, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	held, ok := a.byPod[pod]
	return held, ok
}

// release gives a pod's address back.
func (a *addresses) release(pod string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	held, ok := a.byPod[pod]
	if !ok {
		return nil
	}
	if err := os.Remove(filepath.Join(a.dir, held.address.String())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network: address file: %w", err)
	}
	delete(a.byPod, pod)
	delete(a.byAddr, held.address)
	return nil
}

// pods lists who holds an address.
func (a *addresses) pods() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]string, 0, len(a.byPod))
	for pod := range a.byPod {
		all = append(all, pod)
	}
	slices.Sort(all)
	return all
}

func (a *addresses) hostPorts() []lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []lease
	for _, held := range a.byPod {
		if len(held.Ports) > 0 {
			all = append(all, held)
		}
	}
	return all
}

// size counts the addresses for pods: all but the network's own, the gateway
// and the last one, which is a broadcast address to some.
func size(prefix netip.Prefix) int { return 1<<(32-prefix.Bits()) - 3 }

// nth is the address of pod i; nth(prefix, size(prefix)) is the broadcast address.
func nth(prefix netip.Prefix, i int) netip.Addr {
	b := prefix.Masked().Addr().As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += uint32(i) + 2
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
