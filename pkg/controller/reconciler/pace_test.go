package reconciler

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Pace[string]{Every: 20 * time.Millisecond}
		if p.Wait("a") != 0 {
			t.Error("the first waits")
		}
		p.Wrote("a")
		time.Sleep(15 * time.Millisecond)
		if got := p.Wait("a"); got != 5*time.Millisecond {
			t.Errorf("waits %v", got)
		}
		if p.Wait("b") != 0 {
			t.Error("another key waits")
		}
		time.Sleep(5 * time.Millisecond)
		if p.Wait("a") != 0 || len(p.last) != 0 {
			t.Error("it waits on, or is remembered")
		}
	})
}
