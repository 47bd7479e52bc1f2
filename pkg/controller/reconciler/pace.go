package reconciler

import (
	"sync"
	"time"
)

// Pace keeps keys from being written too often, where one write may cover many changes: the first
// change of a key is written at once, those that follow within Every together.
type Pace[K comparable] struct {
	Every time.Duration

	mu   sync.Mutex
	last map[K]time.Time
}

// Wait is how long a turn of key should be put off; 0 when it may go on.
func (p *Pace[K]) Wait(key K) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, known := p.last[key]
	if !known {
		return 0
	}
	if wait := p.Every - time.Since(last); wait > 0 {
		return wait
	}
	delete(p.last, key)
	return 0
}

// Wrote notes a write.
func (p *Pace[K]) Wrote(key K) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[K]time.Time{}
	}
	p.last[key] = time.Now()
}
