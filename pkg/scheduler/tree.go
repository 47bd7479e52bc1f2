package scheduler

// tree is a tournament: each leaf is a node's slot, each inner place holds the
// better one of the two below it, and the root the best of all. Changing a
// leaf replays its matches only: O(log n).
type tree struct {
	better   func(a, b int32) bool // of two slots
	capacity int                   // leaves, a power of two
	used     int
	winners  []int32 // 1 is the root; the leaves start at capacity; empty places are none
}

// add appends a leaf and returns its number. Call update, or build after the last one.
func (t *tree) add(slot int32) int32 {
	if t.used == t.capacity {
		t.grow()
	}
	leaf := t.used
	t.winners[t.capacity+leaf] = slot
	t.used++
	return int32(leaf)
}

func (t *tree) grow() {
	capacity := max(1, 2*t.capacity)
	winners := make([]int32, 2*capacity)
	for i := range winners {
		winners[i] = none
	}
	copy(winners[capacity:], t.winners[t.capacity:])
	t.capacity, t.winners = capacity, winners
	t.build()
}

// build plays all matches.
func (t *tree) build() {
	for i := t.capacity - 1; i >= 1; i-- {
		t.play(i)
	}
}

// update replays the matches of a leaf whose slot got better or worse.
func (t *tree) update(leaf int32) {
	for i := (t.capacity + int(leaf)) / 2; i >= 1; i /= 2 {
		t.play(i)
	}
}

func (t *tree) play(i int) {
	a, b := t.winners[2*i], t.winners[2*i+1]
	if a == none || b != none && t.better(b, a) {
		a = b
	}
	t.winners[i] = a
}

// best returns the slot that wins, none in an empty tree.
func (t *tree) best() int32 {
	if t.used == 0 {
		return none
	}
	return t.winners[1]
}
