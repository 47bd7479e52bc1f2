package supervise

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestChanges(t *testing.T) {
	base := func(edit func(c *Config)) *Config {
		c := &Config{
			Sockets: []Socket{{Name: "dns", Network: "udp4", Address: "10.0.0.1:53"}, {Name: "web", Inherited: true}},
			Processes: []Process{
				{Name: "api", Args: []string{"api", "--x"}},
				{Name: "runtime", Args: []string{"runtime"}},
				{Name: "agent", Args: []string{"agent"}, Env: []string{"A=1"}, Sockets: []string{"dns"}},
			},
		}
		if edit != nil {
			edit(c)
		}
		return c
	}
	for name, test := range map[string]struct {
		from, to *Config
		want     string // a line per step
	}{
		"at first, all are started in order": {&Config{}, base(nil),
			"start api: it is new\nstart runtime: it is new\nstart agent: it is new"},
		"at last, all are stopped, the last one first": {base(nil), &Config{},
			"stop agent: it is not part of the node any more\nstop runtime: it is not part of the node any more\nstop api: it is not part of the node any more"},
		"nothing differs": {base(nil), base(nil), ""},
		"what needs no restart": {base(nil), base(func(c *Config) {
			c.Generation, c.Bin, c.Mounts = "2", "/new", []Mount{{Source: "/a", Target: "/b"}}
			c.Processes[0].StopAfter = time.Hour
			c.Processes[1], c.Processes[0] = c.Processes[0], c.Processes[1]
			c.Sockets[1] = Socket{Name: "unused", Inherited: true}
		}), ""},
		"an argument":  {base(nil), base(func(c *Config) { c.Processes[0].Args[1] = "--y" }), "restart api: its arguments have changed"},
		"a variable":   {base(nil), base(func(c *Config) { c.Processes[2].Env = nil }), "restart agent: its environment has changed"},
		"a socket":     {base(nil), base(func(c *Config) { c.Processes[0].Sockets = []string{"web"} }), "restart api: its sockets have changed"},
		"an address":   {base(nil), base(func(c *Config) { c.Sockets[0].Address = "10.0.0.2:53" }), "restart agent: its socket dns has changed"},
		"a generation": {base(nil), base(func(c *Config) { c.Processes[1].Generation = "2" }), "restart runtime: its generation is 2, was "},
		"stops come first, then the rest in the new order": {base(nil), base(func(c *Config) {
			c.Processes = []Process{{Name: "agent", Args: []string{"agent", "-v"}}, {Name: "first", Args: []string{"first"}}, {Name: "api", Args: []string{"api"}}}
		}), "stop runtime: it is not part of the node any more\nrestart agent: its arguments have changed\nstart first: it is new\nrestart api: its arguments have changed"},
	} {
		var lines []string
		for _, s := range changes(test.from, test.to) {
			lines = append(lines, fmt.Sprintf("%s %s: %s", s.Do, s.Process.Name, s.Why))
		}
		if got := strings.Join(lines, "\n"); got != test.want {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, test.want)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	good := Process{Name: "a", Args: []string{"a"}}
	for want, c := range map[string]Config{
		`socket ""`:                    {Sockets: []Socket{{}}},
		`socket "a:b"`:                 {Sockets: []Socket{{Name: "a:b"}}},
		`socket "a"`:                   {Sockets: []Socket{{Name: "a"}, {Name: "a"}}},
		"socket b: an inherited one":   {Sockets: []Socket{{Name: "b", Inherited: true, Network: "tcp4"}}},
		`process ""`:                   {Processes: []Process{{Args: []string{"a"}}}},
		`process "../a"`:               {Processes: []Process{{Name: "../a", Args: []string{"a"}}}},
		`process "a"`:                  {Processes: []Process{good, good}},
		"process b has no command":     {Processes: []Process{{Name: "b"}}},
		`there is no socket "missing"`: {Processes: []Process{{Name: "a", Args: []string{"a"}, Sockets: []string{"missing"}}}},
	} {
		if err := c.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	if err := (&Config{Processes: []Process{good}}).check(); err != nil {
		t.Error(err)
	}
}

func TestNextDelay(t *testing.T) {
	var delay time.Duration
	var got []string
	for range 10 {
		delay = nextDelay(delay, time.Second)
		got = append(got, delay.String())
	}
	if s := strings.Join(got, " "); s != "50ms 100ms 200ms 400ms 800ms 1.6s 3.2s 6.4s 10s 10s" {
		t.Errorf("delays of a process that keeps dying: %s", s)
	}
	if delay = nextDelay(delay, 10*time.Second); delay != 50*time.Millisecond {
		t.Errorf("after it has lived for a while: %v", delay)
	}
}
