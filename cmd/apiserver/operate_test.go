package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// execute runs a command to its end and returns what it prints.
func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := command()
	var out bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// A member is looked after, saved, and brought back twice: from the snapshot and from its own directory.
func TestOperateEtcd(t *testing.T) {
	dir := t.TempDir()
	socket := "unix://" + filepath.Join(dir, "etcd.sock")
	data, file := filepath.Join(dir, "data"), filepath.Join(dir, "snapshot")
	want := func(part string, args ...string) {
		t.Helper()
		out, err := execute(t, append([]string{"etcd"}, args...)...)
		if err != nil || !strings.Contains(out, part) {
			t.Fatalf("%v: %v\n%swant %q", args, err, out, part)
		}
	}
	run := func(data string) (stop func()) {
		t.Helper()
		stop = start(t, "etcd", "--etcd-name=one", "--data-dir="+data, "--listen-client-urls="+socket)
		for deadline := time.Now().Add(30 * time.Second); ; {
			out, err := execute(t, "etcd", "members", "--endpoints="+socket)
			if err == nil && strings.Contains(out, "leader") {
				return stop
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	}
	stop := run(data)
	want("one", "members", "--endpoints="+socket)
	want("saved "+file, "snapshot", file, "--endpoints="+socket)
	want("compacted at revision", "compact", "--endpoints="+socket)
	want("leader", "defrag", "--endpoints="+socket)
	want("", "alarms", "--disarm", "--endpoints="+socket)
	if _, err := execute(t, "etcd", "remove", "two", "--endpoints="+socket); err == nil || !strings.Contains(err.Error(), `no etcd member "two"`) {
		t.Errorf("removing a stranger: %v", err)
	}
	stop()

	want("one (http://localhost:2380) is a cluster of its own", "recover", "--data-dir="+data)
	run(data)()
	restored := filepath.Join(dir, "restored")
	want("restored "+file, "restore", file, "--data-dir="+restored, "--etcd-name=one")
	run(restored)()
	if _, err := execute(t, "etcd", "--join="+socket, "--initial-cluster=a=b", "--data-dir="+dir); err == nil {
		t.Error("joins one cluster and begins another")
	}
}
