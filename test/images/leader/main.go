// Command leader is one of several processes of which one works: it counts up in the config map
// "leader". Who that is they settle by a Lease, with client-go's leaderelection and nothing of
// Skiff's; with --fenced by Skiff's lock, whose holder's writes are refused once another one leads.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"skiff/pkg/election"
)

const name = "leader" // of the lock and of the config map

func main() {
	fenced := flag.Bool("fenced", false, "use Skiff's lock instead of a Lease alone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *fenced); err != nil {
		fmt.Fprintln(os.Stderr, "leader:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, fenced bool) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	namespace := os.Getenv("NAMESPACE")
	if fenced {
		c := election.Defaults(name)
		c.Namespace, c.Client, c.Logger = namespace, config, slog.Default()
		candidate, err := election.New(c)
		if err != nil {
			return err
		}
		return candidate.Run(ctx, func(ctx context.Context, won election.Won) error {
			return count(ctx, won.Config, namespace, won.Identity)
		})
	}
	pod, err := os.Hostname()
	if err != nil {
		return err
	}
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, namespace, name, resourcelock.ResourceLockConfig{Identity: pod}, config, 2*time.Second)
	if err != nil {
		return err
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 500 * time.Millisecond, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { _ = count(ctx, config, namespace, pod) },
			OnStoppedLeading: func() {},
			OnNewLeader:      func(id string) { slog.Info("leader", "is", id) },
		}})
	if err != nil {
		return err
	}
	elector.Run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("no longer leading")
}

// count is the work.
func count(ctx context.Context, config *rest.Config, namespace, who string) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	maps := client.CoreV1().ConfigMaps(namespace)
	for {
		if err := once(ctx, maps, who); err != nil && ctx.Err() == nil {
			slog.Warn("count", "error", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

func once(ctx context.Context, maps coreclient.ConfigMapInterface, who string) error {
	current, err := maps.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		current, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	n, _ := strconv.Atoi(current.Data["count"]) // nothing there: 0
	current.Data = map[string]string{"leader": who, "count": strconv.Itoa(n + 1)}
	_, err = maps.Update(ctx, current, metav1.UpdateOptions{})
	return err
}
