package nodettl

import "testing"

func TestStep(t *testing.T) {
	current := 0
	for _, c := range []struct{ nodes, seconds int }{
		{1, 0}, {100, 0}, {101, 15}, {95, 15}, {89, 0}, {5000, 300}, {1900, 300}, {1799, 60}, {3, 0},
	} {
		current = step(current, c.nodes)
		if got := steps[current].seconds; got != c.seconds {
			t.Errorf("%d nodes: %d s, want %d", c.nodes, got, c.seconds)
		}
	}
}
