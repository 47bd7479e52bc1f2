package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"skiff/pkg/cluster"
)

// newProgress prints one line a step, with its time: on a terminal with
// something that moves while the step lasts, elsewhere when it has ended.
func newProgress(out *os.File) cluster.Progress {
	if !term.IsTerminal(int(out.Fd())) {
		return func(step string) func(error) {
			begin := time.Now()
			return func(err error) { fmt.Fprintln(out, ended(step, begin, err)) }
		}
	}
	return func(step string) func(error) {
		begin := time.Now()
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			spin(out, step, stop)
		}()
		return func(err error) {
			close(stop)
			<-stopped
			fmt.Fprintf(out, "\r\033[K%s\n", ended(step, begin, err))
		}
	}
}

func spin(out *os.File, step string, stop <-chan struct{}) {
	tick := time.NewTicker(80 * time.Millisecond)
	defer tick.Stop()
	frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	for i := 0; ; i++ {
		fmt.Fprintf(out, "\r\033[K %c %s", frames[i%len(frames)], step)
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

func ended(step string, begin time.Time, err error) string {
	mark := "✓"
	if err != nil {
		mark = "✗"
	}
	return fmt.Sprintf(" %s %s (%s)", mark, step, seconds(time.Since(begin)))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }
