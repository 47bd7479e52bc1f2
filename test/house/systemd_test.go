package house

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const unitDir = "../../manifests/systemd"

// unit is a systemd unit: "Section.Key" to its values, in order.
type unit map[string][]string

func (u unit) one(key string) string { return strings.Join(u[key], "\n") }

func units(t *testing.T, pattern string) map[string]unit {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(unitDir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s in %s (%v)", pattern, unitDir, err)
	}
	all := map[string]unit{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		u, section := unit{}, ""
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			key, value, ok := strings.Cut(line, "=")
			switch {
			case line == "" || line[0] == '#':
			case line[0] == '[':
				section = strings.Trim(line, "[]")
			case ok:
				u[section+"."+key] = append(u[section+"."+key], value)
			default:
				t.Errorf("%s: %q is neither a section nor a setting", file, line)
			}
		}
		all[filepath.Base(file)] = u
	}
	return all
}

func TestUnitsStartWhatThereIs(t *testing.T) {
	services := units(t, "*.service")
	for _, name := range []string{"etcd", "apiserver", "scheduler", "controller", "agent"} {
		u := services["skiff-"+name+".service"]
		if u == nil {
			t.Errorf("%s has no unit", name)
			continue
		}
		binary, ok := strings.CutPrefix(strings.Fields(u.one("Service.ExecStart"))[0], "/usr/local/bin/")
		if _, err := os.Stat("../../cmd/" + binary); !ok || err != nil {
			t.Errorf("%s starts %q, which is no binary of ours", name, u.one("Service.ExecStart"))
		}
		for key, want := range map[string]string{
			"Service.EnvironmentFile": "-/etc/skiff/" + name + ".env",
			// What dies is started again, however often it does.
			"Service.Restart": "always", "Unit.StartLimitIntervalSec": "0",
			"Install.WantedBy": "multi-user.target",
		} {
			if got := u.one(key); got != want {
				t.Errorf("%s: %s is %q, want %q", name, key, got, want)
			}
		}
		if !strings.HasSuffix(u.one("Service.ExecStart"), " $FLAGS") {
			t.Errorf("%s: %q does not take the flags of its environment", name, u.one("Service.ExecStart"))
		}
		for _, other := range strings.Fields(u.one("Unit.After") + " " + u.one("Unit.Wants") + " " + u.one("Service.Sockets")) {
			if _, err := os.Stat(filepath.Join(unitDir, other)); err != nil && strings.HasPrefix(other, "skiff") {
				t.Errorf("%s names %s, which there is not", name, other)
			}
		}
	}
}

// Containers go on while the agent is away, and see what it mounts; queries wait.
func TestUnitOfTheAgent(t *testing.T) {
	agent := units(t, "skiff-agent.service")["skiff-agent.service"]
	if agent.one("Service.KillMode") != "process" || agent.one("Service.Delegate") != "yes" {
		t.Error("a restart of the agent kills what it has started")
	}
	for key := range agent { // systemd.exec(5): each of these gives it mounts of its own
		for _, private := range []string{"Service.Private", "Service.Protect", "Service.ReadOnly", "Service.Inaccessible", "Service.RuntimeDirectory"} {
			if strings.HasPrefix(key, private) {
				t.Errorf("%s hides the agent's mounts, or takes them away", key)
			}
		}
	}
	wire, err := os.ReadFile("../../cmd/agent/wire.go")
	if err != nil {
		t.Fatal(err)
	}
	for name, socket := range units(t, "*.socket") {
		if !strings.Contains(agent.one("Service.Sockets"), name) || socket.one("Socket.Service") != "skiff-agent.service" {
			t.Errorf("%s and the agent do not know each other", name)
		}
		if descriptor := socket.one("Socket.FileDescriptorName"); descriptor == "" || !bytes.Contains(wire, []byte(`"`+descriptor+`"`)) {
			t.Errorf("%s: the agent does not ask for a socket named %q", name, descriptor)
		}
		if socket.one("Socket.FreeBind") != "yes" {
			t.Errorf("%s can't be bound before the agent runs", name)
		}
	}
}

func TestUnitsAreSystemds(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze here")
	}
	dir := t.TempDir()
	files, err := filepath.Glob(filepath.Join(unitDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var copies []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// Our binaries need not be installed where the test runs, nor Debian's containerd.
		text := strings.ReplaceAll(string(data), "/usr/local/bin/", "/bin/true ")
		copies = append(copies, filepath.Join(dir, filepath.Base(file)))
		if err := os.WriteFile(copies[len(copies)-1], []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no", "--recursive-errors=no"}, copies...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) || strings.Contains(line, "skiff") {
			t.Error(strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
