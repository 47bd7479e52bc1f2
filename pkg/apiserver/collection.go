package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"
	"skiff/pkg/store"
)

// deletePage deletes the objects of a page, a few at a time.
func (s *server) deletePage(ctx context.Context, c *call, entries []*store.Entry, options *metav1.DeleteOptions) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(collectionAtOnce)
	for _, entry := range entries {
		group.Go(func() error {
			one := *c
			info := *c.Info
			one.Info = &info
			one.key = store.Key{Path: entry.Key.Path, Namespace: entry.Key.Namespace, Name: entry.Key.Name}
			info.Name, info.Namespace = entry.Key.Name, entry.Key.Namespace
			_, err := s.deletion(ctx, &one, options.DeepCopy())
			if apierrors.IsNotFound(err) {
				return nil // somebody else was faster
			}
			return err
		})
	}
	return group.Wait()
}
