package agent

import (
	"maps"
	"strings"
	"testing"
)

func TestParseThresholds(t *testing.T) {
	for text, want := range map[string]Thresholds{
		"": {},
		DefaultThresholds: {
			"memory.available": {Amount: 100 << 20}, "nodefs.available": {Share: 0.1}, "nodefs.inodesFree": {Share: 0.05},
		},
		"nodefs.available<0%,nodefs.inodesFree<100%": {"nodefs.available": {}, "nodefs.inodesFree": {}},
		"pid.available<2k":                           {"pid.available": {Amount: 2000}},
	} {
		if got, err := ParseThresholds(text); err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"imagefs.available<15%":                     "not SIGNAL<VALUE",
		"memory.available":                          "memory.available",
		"memory.available<-1":                       "negative",
		"memory.available<much":                     "quantities",
		"nodefs.available<101%":                     "no percentage",
		"nodefs.available<NaN%":                     "no percentage",
		"pid.available<1,pid.available<2":           "twice",
		"memory.available<1Gi;nodefs.available<10%": "no percentage",
	} {
		if _, err := ParseThresholds(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestMissed(t *testing.T) {
	for _, c := range []struct {
		t         Threshold
		left, all uint64
		want      bool
	}{
		{Threshold{Amount: 100}, 99, 1000, true},
		{Threshold{Amount: 100}, 100, 1000, false},
		{Threshold{Share: 0.1}, 99, 1000, true},
		{Threshold{Share: 0.1}, 100, 1000, false},
		{Threshold{}, 0, 1000, false},
		{Threshold{Amount: 100}, 0, 0, false},
	} {
		if got := c.t.missed(c.left, c.all); got != c.want {
			t.Errorf("%+v with %d of %d: %v", c.t, c.left, c.all, got)
		}
	}
}

// TestPressure asks for more than any machine has, and for nothing.
func TestPressure(t *testing.T) {
	for signal, want := range map[string]pressures{
		"memory.available<1Ei": {memory: true}, "nodefs.available<7Ei": {disk: true}, "pid.available<1Ei": {pids: true},
		"memory.available<0%": {},
	} {
		thresholds, err := ParseThresholds(signal)
		if err != nil {
			t.Fatal(err)
		}
		if got := thresholds.pressure(t.TempDir()); got != want {
			t.Errorf("%s: %+v", signal, got)
		}
	}
}
