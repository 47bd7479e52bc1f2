// Package fault breaks a highly available cluster of three masters and two
// workers, one fault after the other, while clients write, read and watch through
// its one address, and then compares what they were told with what is there.
//
// `make fault` inflicts every fault once. `make soak` goes on in random order for
// as long as SOAK says. Package record holds the clients and the checks, package
// inject the faults. How long something was away is logged; only not coming
// back at all fails a test.
//
// The tests use the binaries in bin/, which `make fault` builds first.
package fault

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/cluster"
	"skiff/test/fault/record"
)

const helloImage = "skiff.local/hello:1"

var (
	// name of the cluster, which can be chosen, so that several people can run tests on one machine.
	name       = cmp.Or(os.Getenv("SKIFF_FAULT_CLUSTER"), "test-fault")
	soak       = os.Getenv("SOAK")
	root       string // of the source tree
	spec       *cluster.Spec
	restConfig *rest.Config // the administrator's, through the VIP
	client     kubernetes.Interface
)

// faults are all that is done to the cluster, the cheap ones first.
var faults = []struct {
	name    string
	inflict func(*scenario)
}{
	{"killed apiserver", killedAPIServer},
	{"frozen apiserver", frozenAPIServer},
	{"killed load balancer", killedBalancer},
	{"killed keepalived", killedKeepalived},
	{"killed scheduler", func(s *scenario) { killedLeader(s, "scheduler") }},
	{"killed controller", func(s *scenario) { killedLeader(s, "controller") }},
	{"frozen scheduler", func(s *scenario) { frozenLeader(s, "scheduler") }},
	{"frozen controller", func(s *scenario) { frozenLeader(s, "controller") }},
	{"killed etcd member", killedMember},
	{"full disk of an etcd member", fullDisk},
	{"slow disk of an etcd member", slowDisk},
	{"full database", fullDatabase},
	{"wiped etcd member", wipedMember},
	{"upgrade", upgraded},
	{"master cut off", cutMaster},
	{"master hears nothing", deafMaster},
	{"master says nothing", muteMaster},
	{"master without etcd", masterWithoutEtcd},
	{"lost master with the VIP", lostMaster},
	{"two of three masters lost", lostQuorum},
	{"every process killed", everythingKilled},
	{"lost worker", lostWorker},
	{"worker cut off", cutWorker},
	{"most nodes unheard of", mostNodesSilent},
	{"power cut", powerCut},
}

func TestFaults(t *testing.T) {
	if soak != "" {
		t.Skip("TestSoak inflicts them")
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) { run(t, f.inflict) })
	}
}

// TestSoak inflicts faults in random order for as long as SOAK says.
func TestSoak(t *testing.T) {
	if soak == "" {
		t.Skip("SOAK says how long")
	}
	length, err := time.ParseDuration(soak)
	if err != nil {
		t.Fatalf("SOAK: %v", err)
	}
	for begin := time.Now(); time.Since(begin) < length && !t.Failed(); {
		f := faults[rand.IntN(len(faults))]
		t.Run(f.name, func(t *testing.T) { run(t, f.inflict) })
	}
}

func run(t *testing.T, inflict func(*scenario)) {
	s := begin(t)
	inflict(s)
	s.end()
}

func TestMain(m *testing.M) { os.Exit(main(m)) }

func main(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("these tests need root")
		return 1
	}
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	root = filepath.Dir(filepath.Dir(dir))
	home, err := os.MkdirTemp("", "skiff-test-fault-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(home)
	os.Setenv("KUBECONFIG", filepath.Join(home, "kubeconfig"))

	// What a killed run of these tests has left.
	ctl("cluster", "delete", name)
	defer func() {
		if os.Getenv("SKIFF_KEEP") == "" {
			ctl("cluster", "delete", name)
		}
	}()
	if err := setUp(); err != nil {
		fmt.Println(err)
		return 1
	}
	code := m.Run()
	if text := complaints.String(); text != "" {
		fmt.Printf("\nWhat failed:\n%s\n", text)
	}
	return code
}

// complaints are what has failed, said again after everything else that is printed.
var complaints strings.Builder

func setUp() error {
	for _, args := range [][]string{
		{"cluster", "create", name, "--masters=3", "--workers=2", "--isolated"},
		{"cluster", "load", name, filepath.Join(root, "bin/images/hello.tar")},
	} {
		if out, err := ctl(args...); err != nil {
			return fmt.Errorf("ctl %v: %w\n%s", args, err, out)
		}
	}
	var err error
	if spec, err = cluster.Get(name); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", cluster.AdminKubeconfig(name))
	if err != nil {
		return err
	}
	restConfig = record.Foreign(config)
	if client, err = unconnected(config); err != nil {
		return err
	}
	return deploySteady()
}

// unconnected is a client that makes a connection for each request: none is left from before a fault.
func unconnected(config *rest.Config) (kubernetes.Interface, error) {
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: time.Second}
	return kubernetes.NewForConfig(&rest.Config{Host: config.Host, QPS: -1, Timeout: 5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true, DialContext: dialer.DialContext}})
}

// ctl runs Skiff's own ctl and returns everything it printed.
func ctl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(root, "bin/ctl"), args...)
	c.Dir = root
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.String(), err
}
