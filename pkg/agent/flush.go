package agent

import (
	"net/http"
	"sync"
	"time"
)

// flusher passes on what is written, and sees to it that a reader that follows
// gets it soon: at most flushDelay after it was written, without a system call a line.
type flusher struct {
	w       http.ResponseWriter
	control *http.ResponseController

	mu     sync.Mutex
	follow bool
	timer  *time.Timer
}

const flushDelay = 5 * time.Millisecond

func (f *flusher) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.w.Write(p)
	if f.follow && f.timer == nil {
		f.timer = time.AfterFunc(flushDelay, f.flush)
	}
	return n, err
}

func (f *flusher) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timer = nil
	if f.follow {
		_ = f.control.Flush()
	}
}

// flushRegularly begins, with the headers; the function it returns ends it.
func (f *flusher) flushRegularly() (stop func()) {
	f.follow = true
	_ = f.control.Flush()
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.follow = false
	}
}
