package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// encoding is what an entry became in one of its encodings.
type encoding struct {
	once sync.Once
	data []byte
	err  error
	size atomic.Int64 // of data, for the sweep
}

// budget bounds what all encodings of a store may hold. Those that nobody asked for between
// two sweeps are dropped; above the limit no further ones are kept.
type budget struct{ bytes atomic.Int64 }

var errEncoding = errors.New("encoding the object failed")

const (
	encodingLimit = 128 << 20
	sweepEvery    = time.Minute
)

// Encoding returns what encode made for this key. It is called once per entry, however many ask at the same
// time, and the result is kept for those who come later, as long as somebody does. An error is for those
// who asked at that time (a custom resource could not be converted, say). The result is shared and must not be changed. Keys name a media type, a
// version and whatever else decides the bytes.
func (e *Entry) Encoding(key string, encode func() ([]byte, error)) ([]byte, error) {
	if e.budget != nil && e.budget.bytes.Load() > encodingLimit {
		return encode()
	}
	e.mu.Lock()
	enc := e.encodings[key]
	if enc == nil {
		if e.encodings == nil {
			e.encodings = map[string]*encoding{}
		}
		enc = &encoding{}
		e.encodings[key] = enc
	}
	e.used = true
	e.mu.Unlock()
	enc.once.Do(func() {
		enc.err = errEncoding // should encode panic: nobody may take that for an empty result
		enc.data, enc.err = encode()
		enc.size.Store(int64(len(enc.data)))
		if e.budget != nil {
			e.budget.bytes.Add(int64(len(enc.data)))
		}
	})
	if enc.err != nil {
		e.dropEncoding(key, enc)
	}
	return enc.data, enc.err
}

// dropEncoding forgets an encoding that failed: the next who asks may have more luck.
func (e *Entry) dropEncoding(key string, enc *encoding) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.encodings[key] == enc {
		delete(e.encodings, key)
	}
}

// sweep drops the encodings if they were not used since the last sweep, and returns the size of those that stay.
func (e *Entry) sweep() (size int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.used {
		e.encodings = nil
	}
	e.used = false
	for _, enc := range e.encodings {
		size += enc.size.Load()
	}
	return size
}

// sweepLoop keeps the encodings of old objects from staying forever because somebody listed them once.
func (s *Store) sweepLoop(ctx context.Context) {
	for {
		if sleep(ctx, sweepEvery); ctx.Err() != nil {
			return
		}
		s.sweep()
	}
}

func (s *Store) sweep() {
	var size int64
	for _, r := range s.all() {
		size += r.sweep()
	}
	s.encodings.bytes.Store(size) // what fell out of the logs meanwhile is gone without having been counted
}

// sweep visits every entry once: those of the tree, and those that only the log still holds.
func (r *resource) sweep() (size int64) {
	tree, _ := r.snapshot()
	tree.Scan(func(_ string, e *Entry) bool {
		size += e.sweep()
		return true
	})
	r.mu.RLock()
	changes := r.log.changes
	r.mu.RUnlock()
	for _, c := range changes {
		if c.prev != nil {
			size += c.prev.sweep()
		}
		if last := c.gone.Load(); last != nil {
			size += last.sweep()
		}
	}
	return size
}
