package etcd

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain runs a member in a process of its own when asked to, so that a test can kill it.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SKIFF_TEST_MEMBER"); dir != "" {
		member, err := Start(context.Background(), Config{DataDir: dir})
		if err != nil {
			panic(err)
		}
		for i := 0; ; i++ {
			if _, err := member.Client().Put(context.Background(), "n", strings.Repeat("x", i+1)); err != nil {
				panic(err)
			}
			os.Stdout.WriteString(".") // one more acknowledged
		}
	}
	os.Exit(m.Run())
}

func start(t *testing.T, config Config) *Member {
	t.Helper()
	m, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestAloneListensNowhereAndIsQuiet(t *testing.T) {
	var out bytes.Buffer
	m := start(t, Config{DataDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&out, nil))})
	if _, err := m.Client().Put(t.Context(), "a", "1"); err != nil {
		t.Fatal(err)
	}
	if n := len(m.server.Peers) + len(m.server.Clients); n != 0 {
		t.Errorf("%d listeners, want none", n)
	}
	m.Close()
	if out.Len() > 0 {
		t.Errorf("a quiet life logged:\n%s", out.String())
	}
}

// An acknowledged write is there after kill -9.
func TestKilledMemberKeepsAcknowledgedWrites(t *testing.T) {
	dir := t.TempDir()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "SKIFF_TEST_MEMBER="+dir)
	var out syncBuffer
	command.Stdout, command.Stderr = &out, os.Stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); out.Len() < 20; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the member takes no writes")
		}
	}
	command.Process.Kill()
	command.Wait()
	m := start(t, Config{DataDir: dir})
	answer, err := m.Client().Get(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	if got, acknowledged := len(answer.Kvs[0].Value), out.Len(); got < acknowledged {
		t.Errorf("%d writes survived of %d acknowledged", got, acknowledged)
	}
}

func TestUnixSocketForOthers(t *testing.T) {
	socket := "unix://" + t.TempDir() + "/etcd.sock"
	m := start(t, Config{DataDir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Clients: Endpoint{Listen: []string{socket}}})
	client, err := Dial(DialConfig{Endpoints: []string{socket}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := m.Client().Put(t.Context(), "a", "1"); err != nil {
		t.Fatal(err)
	}
	answer, err := client.Get(t.Context(), "a")
	if err != nil || len(answer.Kvs) != 1 {
		t.Fatalf("over the socket: %v, %v", answer, err)
	}
}

func TestStartRefuses(t *testing.T) {
	if _, err := Start(t.Context(), Config{}); err == nil {
		t.Error("started without a data directory")
	}
	if _, err := Start(t.Context(), Config{DataDir: t.TempDir(), Peers: Endpoint{Listen: []string{"://"}}}); err == nil {
		t.Error("started with a bad URL")
	}
}
