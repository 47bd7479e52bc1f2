package runtime

import (
	"context"
	"fmt"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"
)

// Event is something that happened in containerd.
type Event struct {
	// Resync says that events may have been missed (a new connection): what runs
	// has to be listed again. Nothing else is set then.
	Resync bool
	// Exited is the id of a container whose first process has ended.
	Exited string
	Code   int
	At     time.Time
	// Images says that an image came, went or changed.
	Images bool
}

// Run keeps the pool of namespaces filled and hands every event to handle, one
// after the other, until ctx ends. It reconnects by itself.
func (r *Runtime) Run(ctx context.Context, handle func(Event)) error {
	poolDone := make(chan error, 1)
	go func() { poolDone <- r.fillPool(ctx) }()
	for ctx.Err() == nil {
		err := r.watch(ctx, handle)
		if ctx.Err() != nil {
			break
		}
		r.log.Warn("containerd's events ended; subscribing again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return <-poolDone
}

func (r *Runtime) watch(ctx context.Context, handle func(Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, errs := r.client.EventService().Subscribe(ctx,
		"namespace=="+Namespace+`,topic=="/tasks/exit"`,
		"namespace=="+Namespace+`,topic~="/images/"`,
		"namespace=="+Namespace+`,topic=="`+subscribedTopic+`"`)
	// A subscription is made some time after the call. Our own event, when it comes
	// back, says that from here on none is missed.
	subscribed := make(chan error, 1)
	seen, stop := context.WithCancel(ctx)
	defer stop()
	go func() { subscribed <- r.announce(seen) }()
	first := true
	for {
		select {
		case err := <-subscribed:
			if err != nil && first {
				return err
			}
		case e := <-events:
			if e == nil {
				return fmt.Errorf("stream closed")
			}
			if first {
				stop()
				first = false
				handle(Event{Resync: true})
			}
			switch e.Topic {
			case subscribedTopic:
			case "/tasks/exit":
				v, err := typeurl.UnmarshalAny(e.Event)
				if err != nil {
					return err
				}
				if exit, ok := v.(*eventtypes.TaskExit); ok && exit.ID == exit.ContainerID {
					handle(Event{Exited: exit.ContainerID, Code: int(exit.ExitStatus), At: exit.ExitedAt.AsTime()})
				}
			default:
				handle(Event{Images: true})
			}
		case err := <-errs:
			return err
		}
	}
}

const subscribedTopic = "/skiff/subscribed"

// announce publishes our own event until ctx says that it has been seen.
func (r *Runtime) announce(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.client.EventService().Publish(ctx, subscribedTopic, &eventtypes.TaskStart{}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
