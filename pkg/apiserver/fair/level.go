package fair

import (
	"slices"
	"time"
)

// Level is one priority level's part of the server, in seats.
type Level struct {
	Name string
	// Exempt levels never wait.
	Exempt bool
	// Nominal is the level's share, Reserved what it never lends of it, Limit what it may have with what others lend.
	Nominal, Reserved, Limit int
	// Queues of at most QueueLength requests; a flow may use HandSize of them. Without queues nothing waits.
	Queues, QueueLength, HandSize int
}

// width is how many seats one request may take at most.
func (l *Level) width() int { return max(1, (l.Nominal*15+99)/100) }

// level is a Level at work. The scheduler's lock guards it.
type level struct {
	Level
	queues  []*queue
	used    int // seats
	running int // requests
	waiting int // requests
	removed bool

	// virtual is the start tag of what was dispatched last, high the highest tag of all queues.
	virtual, high float64
}

// queue is a line of requests. tag is when, in seat-seconds of service had, its next one may start.
type queue struct {
	line []*Ticket
	used int // seats
	tag  float64
}

// assumed is how long a request takes, until it has ended and one knows.
const assumed = 3 * time.Millisecond

func newLevel(config Level) *level {
	l := &level{}
	l.configure(config)
	return l
}

// configure changes what a level has; what waits is dealt out anew if the queues are others.
func (l *level) configure(config Level) {
	same := l.queues != nil && l.Queues == config.Queues && l.HandSize == config.HandSize
	l.Level = config
	if same {
		return
	}
	var line []*Ticket
	for _, q := range l.queues {
		line = append(line, q.line...)
	}
	slices.SortStableFunc(line, func(a, b *Ticket) int { return a.arrived.Compare(b.arrived) })
	l.queues = make([]*queue, max(1, config.Queues))
	for i := range l.queues {
		l.queues[i] = &queue{tag: l.virtual}
	}
	for _, t := range line {
		t.queue = l.choose(t.flow)
		t.queue.line = append(t.queue.line, t)
	}
}

// choose is the queue of a flow's hand where least lies ahead.
func (l *level) choose(flow uint64) *queue {
	if len(l.queues) == 1 {
		return l.queues[0]
	}
	var best *queue
	least := 0
	deal(flow, len(l.queues), min(l.HandSize, len(l.queues)), func(card int) {
		q := l.queues[card]
		ahead := q.used
		for _, t := range q.line {
			ahead += t.width
		}
		if best == nil || ahead < least {
			best, least = q, ahead
		}
	})
	return best
}

// maxHand bounds the hands that are dealt; Kubernetes' validation does so with more, but 60 bits of hash deal no more.
const maxHand = 16

// deal visits a hand of different cards of a deck, always the same ones for a hash: shuffle sharding, which makes it
// unlikely that two flows share all of their queues.
func deal(hash uint64, deck, hand int, visit func(card int)) {
	var dealt [maxHand]int // in order
	for i := range min(max(hand, 1), maxHand) {
		left := uint64(deck - i)
		card := int(hash % left)
		hash /= left
		at := 0
		for ; at < i && dealt[at] <= card; at++ {
			card++ // those that are gone don't count
		}
		copy(dealt[at+1:i+1], dealt[at:i])
		dealt[at] = card
		visit(card)
	}
}

// next is the request to start next; nil when none waits.
func (l *level) next() *Ticket {
	if l.waiting == 0 {
		return nil
	}
	var best *queue
	for _, q := range l.queues {
		if len(q.line) > 0 && (best == nil || max(q.tag, l.virtual) < max(best.tag, l.virtual)) {
			best = q
		}
	}
	return best.line[0]
}

func (l *level) enqueue(t *Ticket) {
	t.queue.line = append(t.queue.line, t)
	l.waiting++
}

func (l *level) withdraw(t *Ticket) {
	t.queue.line = slices.DeleteFunc(t.queue.line, func(other *Ticket) bool { return other == t })
	l.waiting--
}

// start charges a request's queue for what it is assumed to take.
func (l *level) start(t *Ticket, now time.Time) {
	q := t.queue
	l.virtual = max(l.virtual, q.tag)
	q.tag = l.virtual + assumed.Seconds()*float64(t.width)
	l.high = max(l.high, q.tag)
	q.used += t.width
	l.running++
	t.began = now
}

// finish charges it for what it took.
func (l *level) finish(t *Ticket, now time.Time) {
	q := t.queue
	q.tag += (now.Sub(t.began) - assumed).Seconds() * float64(t.width)
	l.high = max(l.high, q.tag)
	q.used -= t.width
	l.running--
	if l.running == 0 && l.waiting == 0 {
		l.virtual = l.high // nobody had to wait for anybody: all begin anew
	}
}
