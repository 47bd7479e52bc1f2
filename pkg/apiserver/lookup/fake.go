package lookup

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"

	"skiff/pkg/api"
)

// Fake is a [Reader], [Feed] and [Writer] in memory. It guesses an object's
// resource from its type.
type Fake struct {
	mu       sync.Mutex
	objects  map[fakeKey]api.Object
	changed  chan struct{} // closed and replaced at each change
	log      []fakeChange
	revision int
}

type fakeKey struct {
	resource        schema.GroupResource
	namespace, name string
}

type fakeChange struct {
	resource schema.GroupResource
	Change
}

// NewFake returns a fake that holds these objects.
func NewFake(objects ...api.Object) *Fake {
	f := &Fake{objects: map[fakeKey]api.Object{}, changed: make(chan struct{})}
	for _, obj := range objects {
		f.Put(obj)
	}
	return f
}

// ResourceOf guesses the resource that objects of this type belong to.
func ResourceOf(obj runtime.Object) schema.GroupResource {
	kinds, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil || len(kinds) == 0 {
		return schema.GroupResource{Resource: reflect.TypeOf(obj).String()}
	}
	plural, _ := meta.UnsafeGuessKindToResource(kinds[0])
	return plural.GroupResource()
}

// Put adds or replaces an object.
func (f *Fake) Put(obj api.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(ResourceOf(obj), obj)
}

func (f *Fake) put(resource schema.GroupResource, obj api.Object) {
	f.revision++
	obj.SetResourceVersion(strconv.Itoa(f.revision))
	f.objects[fakeKey{resource, obj.GetNamespace(), obj.GetName()}] = obj
	f.record(fakeChange{resource, Change{Object: obj}})
}

// Remove takes an object away.
func (f *Fake) Remove(obj api.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resource := ResourceOf(obj)
	delete(f.objects, fakeKey{resource, obj.GetNamespace(), obj.GetName()})
	f.record(fakeChange{resource, Change{Object: obj, Deleted: true}})
}

func (f *Fake) record(change fakeChange) {
	f.log = append(f.log, change)
	close(f.changed)
	f.changed = make(chan struct{})
}

// Get implements [Reader].
func (f *Fake) Get(_ context.Context, resource schema.GroupResource, namespace, name string) (api.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if obj, ok := f.objects[fakeKey{resource, namespace, name}]; ok {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(resource, name)
}

// Live implements [Reader].
func (f *Fake) Live(ctx context.Context, resource schema.GroupResource, namespace, name string) (api.Object, error) {
	return f.Get(ctx, resource, namespace, name)
}

// List implements [Reader].
func (f *Fake) List(_ context.Context, resource schema.GroupResource, namespace string) ([]api.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []api.Object
	for key, obj := range f.objects {
		if key.resource == resource && (namespace == "" || key.namespace == namespace) {
			out = append(out, obj)
		}
	}
	slices.SortFunc(out, func(a, b api.Object) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return out, nil
}

// Follow implements [Feed].
func (f *Fake) Follow(ctx context.Context, resource schema.GroupResource, synced func(), handle func([]Change)) error {
	position := 0
	for {
		f.mu.Lock()
		var batch []Change
		for _, change := range f.log[position:] {
			if change.resource == resource {
				batch = append(batch, change.Change)
			}
		}
		first := position == 0
		position = len(f.log)
		changed := f.changed
		f.mu.Unlock()
		if len(batch) > 0 {
			handle(batch)
		}
		if first && synced != nil {
			synced()
			synced = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Update implements [Writer].
func (f *Fake) Update(_ context.Context, resource schema.GroupResource, namespace, name string, change func(api.Object) (api.Object, error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	current := f.objects[fakeKey{resource, namespace, name}]
	var mutable api.Object
	if current != nil {
		mutable = current.DeepCopyObject().(api.Object)
	}
	next, err := change(mutable)
	if err != nil || current != nil && reflect.DeepEqual(next, current) {
		return err
	}
	f.put(resource, next)
	return nil
}
