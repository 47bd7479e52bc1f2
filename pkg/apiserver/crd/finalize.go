package crd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

const (
	// patience is how long the objects of a definition may take to go before its status says so.
	patience = time.Minute
	// deletedAtOnce bounds how many of them are deleted at the same time.
	deletedAtOnce = 8
)

// finalizeSoon sees to it that a definition which is being deleted gets rid of its objects, and then goes.
// It is called by one goroutine.
func (c *Controller) finalizeSoon(ctx context.Context, crd *crdv1.CustomResourceDefinition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending[crd.UID] || !apihelpers.CRDHasFinalizer(crd, crdv1.CustomResourceCleanupFinalizer) {
		return
	}
	c.ending[crd.UID] = true
	c.endings.Go(func() {
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.ending, crd.UID)
		}()
		for try := 1; ctx.Err() == nil; try++ {
			done, err := c.finalize(ctx, crd)
			if done {
				return
			}
			if err != nil && ctx.Err() == nil {
				c.cfg.Logger.Warn("deleting the objects of a custom resource definition; trying again", "name", crd.Name, "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(min(time.Duration(try)*20*time.Millisecond, 5*time.Second)):
			}
		}
	})
}

// finalize is one turn; done when nothing is left to do. Without an error and not done, somebody else has
// written meanwhile: often another apiserver that does the same.
func (c *Controller) finalize(ctx context.Context, was *crdv1.CustomResourceDefinition) (done bool, err error) {
	crd, err := c.current(ctx, was)
	if err != nil || crd == nil {
		return err == nil, err
	}
	switch {
	case !apihelpers.IsCRDConditionTrue(crd, crdv1.Established):
		return c.release(ctx, crd, "NeverEstablished", "resource was never established")
	case builtIn[crd.Spec.Group+"/"+crd.Spec.Names.Plural]:
		return c.release(ctx, crd, "OverlappingBuiltInResource", "instances overlap with built-in resources in storage")
	}
	if now := apihelpers.FindCRDCondition(crd, crdv1.Terminating); now == nil || now.Reason == "InstanceDeletionPending" {
		return false, c.tell(ctx, crd, "InstanceDeletionInProgress", "CustomResource deletion is in progress")
	}
	reason, err := c.empty(ctx, crd)
	if err != nil {
		return false, errors.Join(err, c.tell(ctx, crd, reason, err.Error()))
	}
	return c.release(ctx, crd, "InstanceDeletionCompleted", "removed all instances")
}

// builtIn are resources whose storage a definition of the same name would share.
var builtIn = map[string]bool{
	"apiregistration.k8s.io/apiservices":             true,
	"apiextensions.k8s.io/customresourcedefinitions": true,
}

// current is the definition as it is now; nil when it is gone or not held by its objects any more.
func (c *Controller) current(ctx context.Context, was *crdv1.CustomResourceDefinition) (*crdv1.CustomResourceDefinition, error) {
	entry, err := c.cfg.Store.Get(ctx, c.kind, c.key(was), 0)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	obj, err := entry.Object()
	if err != nil {
		return nil, err
	}
	crd := obj.(*crdv1.CustomResourceDefinition)
	if crd.UID != was.UID || !apihelpers.CRDHasFinalizer(crd, crdv1.CustomResourceCleanupFinalizer) {
		return nil, nil
	}
	return crd, nil
}

func terminating(status crdv1.ConditionStatus, reason, message string) crdv1.CustomResourceDefinitionCondition {
	return crdv1.CustomResourceDefinitionCondition{Type: crdv1.Terminating, Status: status, Reason: reason, Message: message}
}

// tell writes how the deletion goes.
func (c *Controller) tell(ctx context.Context, crd *crdv1.CustomResourceDefinition, reason, message string) error {
	next := crd.DeepCopy()
	set(next, terminating(crdv1.ConditionTrue, reason, message))
	if err := c.update(ctx, crd, next, store.Write{}); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// release lets a definition go whose objects are gone.
func (c *Controller) release(ctx context.Context, crd *crdv1.CustomResourceDefinition, reason, message string) (bool, error) {
	next := crd.DeepCopy()
	set(next, terminating(crdv1.ConditionFalse, reason, message))
	apihelpers.CRDRemoveFinalizer(next, crdv1.CustomResourceCleanupFinalizer)
	var err error
	if len(next.Finalizers) > 0 {
		err = c.update(ctx, crd, next, store.Write{})
	} else {
		_, err = c.cfg.Store.Delete(ctx, c.kind, c.key(crd), store.Write{UID: &crd.UID, ResourceVersion: crd.ResourceVersion}, nil)
	}
	if apierrors.IsConflict(err) {
		return false, nil
	}
	return err == nil || apierrors.IsNotFound(err), err
}

// empty deletes all objects of a definition and waits until they are gone. With an error comes the
// reason to be told.
func (c *Controller) empty(ctx context.Context, crd *crdv1.CustomResourceDefinition) (reason string, err error) {
	kind, err := c.storedKind(crd)
	if err != nil {
		return "InstanceDeletionFailed", fmt.Errorf("could not list instances: %w", err)
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		page, err := c.cfg.Store.List(ctx, kind, store.Query{})
		if err != nil {
			return "InstanceDeletionFailed", fmt.Errorf("could not list instances: %w", err)
		}
		if len(page.Entries) == 0 {
			return "", nil
		}
		deleted, err := c.deleteAll(ctx, kind, page.Entries)
		if err != nil {
			return "InstanceDeletionFailed", fmt.Errorf("could not issue all deletes: %w", err)
		}
		if deleted {
			continue
		}
		// What is left is held by finalizers.
		if err := c.next(waiting, kind, page.Revision); err != nil && waiting.Err() != nil {
			return "InstanceDeletionCheck", errors.New("could not confirm zero CustomResources remaining: timed out waiting for the condition")
		}
	}
}

// storedKind is the row by which a definition's objects are found, in whatever version they are.
func (c *Controller) storedKind(crd *crdv1.CustomResourceDefinition) (*api.Kind, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.installed[crd.Name]; now != nil && now.definition != nil {
		return now.definition.stored, nil
	}
	d, err := newDefinition(crd, c.cfg.Services)
	if err != nil {
		return nil, err
	}
	return d.stored, nil
}

// deleteAll deletes what isn't being deleted yet, and reports whether there was anything.
func (c *Controller) deleteAll(ctx context.Context, kind *api.Kind, entries []*store.Entry) (bool, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deletedAtOnce)
	found := false
	for _, entry := range entries {
		obj, err := entry.Shared()
		if err != nil {
			return false, err
		}
		if obj.GetDeletionTimestamp() != nil {
			continue
		}
		found = true
		group.Go(func() error { return c.cfg.Delete(ctx, kind, entry.Key) })
	}
	return found, group.Wait()
}

// next waits for a change of a resource after a revision.
func (c *Controller) next(ctx context.Context, kind *api.Kind, after int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch, err := c.cfg.Store.Watch(ctx, kind, store.WatchQuery{ResourceVersion: strconv.FormatInt(after, 10)})
	if err != nil {
		return err
	}
	_, err = watch.Next(nil)
	return err
}
