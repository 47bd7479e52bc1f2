package component

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs a command until it returns, or until SIGTERM or SIGINT cancels its
// context; a second signal ends the process at once. It exits with 1 on an error.
func Main(command *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // the second signal has its default effect
	command.SilenceUsage = true
	command.SilenceErrors = true
	if err := command.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", command.Name(), err)
		os.Exit(1)
	}
}

// Group runs parts that live and die together: the first to return cancels the
// others, and Run returns when all have. A part that returns because its context
// ended is not a failure.
type Group struct {
	parts []part
}

type part struct {
	name string
	run  func(context.Context) error
}

// Add registers a part. It must be called before Run.
func (g *Group) Add(name string, run func(context.Context) error) {
	g.parts = append(g.parts, part{name, run})
}

// Run starts all parts and returns the error of the one that stopped first.
func (g *Group) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, p := range g.parts {
		wg.Go(func() {
			err := p.run(ctx)
			switch {
			case ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
				// stopped because it was told to
			case err == nil:
				cancel(fmt.Errorf("%s stopped", p.name))
			default:
				cancel(fmt.Errorf("%s: %w", p.name, err))
			}
		})
	}
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}
