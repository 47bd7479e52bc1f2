package apiserver

import (
	"context"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"
	"skiff/pkg/store"
)

// collectionAtOnce is how many objects of a collection are deleted at the same time, and
// how many are listed in one page.
const (
	collectionAtOnce = 8
	collectionPage   = 500
)

// deleteCollection deletes what a list would return, and answers with it.
func (s *server) deleteCollection(w http.ResponseWriter, r *http.Request, c *call) error {
	listing, err := listOptions(r, c.kind)
	if err != nil {
		return err
	}
	query, err := c.query(listing)
	if err != nil {
		return err
	}
	options, err := deleteOptions(r)
	if err != nil {
		return err
	}
	warnOfDeletion(r.Context(), c.kind, options)
	query.Limit = collectionPage
	if listing.Limit > 0 {
		query.Limit, query.Continue = listing.Limit, listing.Continue
	}
	var all []*store.Entry
	var listMeta metav1.ListMeta
	for {
		page, err := s.store.List(r.Context(), c.kind, query)
		if err != nil {
			return err
		}
		if err := s.deletePage(r.Context(), c, page.Entries, options); err != nil {
			return err
		}
		all = append(all, page.Entries...)
		listMeta.ResourceVersion = fmt.Sprint(page.Revision)
		if query.Continue = page.Continue; page.Continue == "" || listing.Limit > 0 {
			listMeta.Continue = page.Continue
			break
		}
	}
	if c.accept.as != nil && c.accept.as.Kind == "Table" {
		return s.writeTable(w, r, http.StatusOK, c, items(all), listMeta)
	}
	return s.writeList(w, r, c, all, listMeta)
}

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
