package apiserver

import (
	"context"
	"errors"
	"time"

	"skiff/pkg/component"
)

// readyTime is how long a check may take: load balancers ask twice a second, and should hear a cause.
const readyTime = 1500 * time.Millisecond

// addChecks adds what this server needs to be ready: an etcd that serves consistent reads, and a cache that is up to
// them. Neither counts for /livez, since a restart helps neither.
func (s *server) addChecks(health *component.Health) {
	health.Ready("shutdown", func() error {
		if s.leaving != nil && s.leaving.Err() != nil {
			return errors.New("process is shutting down")
		}
		return nil
	})
	health.Ready("poststarthook/crd-informer-synced", func() error {
		if !s.customReady.Load() {
			return errors.New("the custom resource definitions have not been read yet")
		}
		return nil
	})
	health.Ready("poststarthook/apiservice-registration-controller", func() error {
		if !s.servicesReady.Load() {
			return errors.New("the APIServices have not been read yet")
		}
		return nil
	})
	health.Ready("etcd", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), readyTime)
		defer cancel()
		if err := s.store.Ready(ctx); err != nil {
			return err
		}
		if s.store.NoSpace() {
			return component.Notice("alarm NOSPACE: writes are refused, deletions are not")
		}
		return nil
	})
}
