package patch

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
)

// Managers holds the field managers of all kinds, made when first asked for.
type Managers struct {
	types func() managedfields.TypeConverter

	mu  sync.Mutex
	all map[managerKey]*Manager
}

type managerKey struct {
	kind        *api.Kind
	subresource string
}

// NewManagers makes a set of field managers. The schema that they need takes some tenths
// of a second to parse; [Managers.Warm] does it ahead of time.
func NewManagers() *Managers {
	return &Managers{
		types: sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(api.Scheme) }),
		all:   map[managerKey]*Manager{},
	}
}

// Warm parses the schema.
func (m *Managers) Warm() { m.types() }

// Types converts objects to their typed values, which carry the apply schema.
func (m *Managers) Types() managedfields.TypeConverter { return m.types() }

// Of returns the manager of a kind's main resource, or of one of its subresources.
func (m *Managers) Of(kind *api.Kind, subresource string) *Manager {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := managerKey{kind, subresource}
	manager := m.all[key]
	if manager == nil {
		manager = &Manager{make: sync.OnceValues(func() (*managedfields.FieldManager, error) { return m.fieldManager(key) })}
		m.all[key] = manager
	}
	return manager
}

// fieldManager makes a manager that doesn't record fields which its part of the object can't change.
// Fields of custom resources may be owned in any of a resource's versions.
func (m *Managers) fieldManager(key managerKey) (*managedfields.FieldManager, error) {
	gv, known := key.kind.GroupVersion(), kinds{key.kind}
	reset := map[fieldpath.APIVersion]fieldpath.Filter{}
	if kept := key.kept(); kept != nil {
		reset[fieldpath.APIVersion(gv.String())] = fieldpath.NewExcludeSetFilter(kept)
	}
	types := m.types()
	if key.kind.Types != nil {
		var err error
		if types, err = key.kind.Types(); err != nil {
			return nil, err
		}
	}
	if key.kind.Custom != nil {
		return managedfields.NewDefaultCRDFieldManager(types, known, known, known, key.kind.GroupVersionKind, gv, key.subresource, reset)
	}
	probe, _ := known.New(key.kind.GroupVersionKind)
	if _, err := types.ObjectToTyped(probe); err != nil {
		types = managedfields.NewDeducedTypeConverter() // a type without a schema of its own: Scale
	}
	return managedfields.NewDefaultFieldManager(types, known, known, known,
		key.kind.GroupVersionKind, gv, key.subresource, reset)
}

// kept are the fields that a part of an object can't change: status on the main resource, the spec, and often
// the metadata, on the status.
func (key managerKey) kept() *fieldpath.Set {
	status, own := key.kind.Subresources["status"], key.kind.Kept
	if sub := key.kind.Subresources[key.subresource]; sub != nil {
		own = sub.Kept
	}
	switch {
	case own != nil:
		kept := fieldpath.NewSet()
		for _, path := range own {
			var steps []any
			for step := range strings.SplitSeq(path, ".") {
				steps = append(steps, step)
			}
			kept.Insert(fieldpath.MakePathOrDie(steps...))
		}
		return kept
	case status == nil:
		return nil
	case key.subresource == "" || key.subresource == "finalize":
		return fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	case key.subresource != "status":
		return nil
	case status.KeepsMeta:
		return fieldpath.NewSet(fieldpath.MakePathOrDie("metadata"), fieldpath.MakePathOrDie("spec"))
	}
	return fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))
}

// Forget drops the managers of kinds that are not served any more.
func (m *Managers) Forget(kinds []*api.Kind) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.all, func(key managerKey, _ *Manager) bool { return slices.Contains(kinds, key.kind) })
}

// Manager tracks the fields of one kind.
type Manager struct {
	make func() (*managedfields.FieldManager, error)
}

// Update records in next's managedFields which fields owner changed from live (an empty object
// on create). next is changed and returned. Where fields can't be tracked, next goes on without
// managedFields.
func (m *Manager) Update(live, next api.Object, owner string) api.Object {
	manager, err := m.make()
	if err != nil {
		next.SetManagedFields(nil)
		return next
	}
	return manager.UpdateNoErrors(live, next, owner).(api.Object)
}

// Apply merges a configuration into live, as server-side apply; conflicts with other owners are
// an error unless force is set. The result is a new object.
func (m *Manager) Apply(live api.Object, configuration runtime.Object, owner string, force bool) (api.Object, error) {
	manager, err := m.make()
	if err != nil {
		return nil, err
	}
	result, err := manager.Apply(live, configuration, owner, force)
	if err != nil {
		return nil, request.Plain(err)
	}
	return result.(api.Object), nil
}

// Validate reports managedFields that can't be read.
func Validate(entries []metav1.ManagedFieldsEntry) error {
	return managedfields.ValidateManagedFields(entries)
}

// kinds is what apimachinery's managers ask of a scheme, for one kind whose objects need no
// conversion.
type kinds struct{ *api.Kind }

func (k kinds) Default(obj runtime.Object) {
	if o, ok := obj.(api.Object); ok && k.Kind.Default != nil {
		k.Kind.Default(o)
	}
}

func (k kinds) New(schema.GroupVersionKind) (runtime.Object, error) {
	obj := k.Kind.New()
	obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	return obj, nil
}

func (k kinds) Convert(in, _, _ interface{}) error {
	return fmt.Errorf("convert %T: there is one version only", in)
}

func (k kinds) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

func (k kinds) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	if k.Custom != nil {
		gvk, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{in.GetObjectKind().GroupVersionKind()})
		if !ok || gvk.Group != k.Group {
			return nil, runtime.NewNotRegisteredErrForTarget("catalogue", nil, target)
		}
		return k.Custom.Convert(in.(api.Object), gvk.Version)
	}
	gvk, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{k.GroupVersionKind})
	if !ok || gvk.GroupVersion() != k.GroupVersion() {
		return nil, runtime.NewNotRegisteredErrForTarget("catalogue", nil, target)
	}
	// The result of a merge comes without its Go type.
	if loose, ok := in.(runtime.Unstructured); ok {
		if typed := k.Kind.New(); reflect.TypeOf(typed) != reflect.TypeOf(in) {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(loose.UnstructuredContent(), typed); err != nil {
				return nil, err
			}
			in = typed
		}
	}
	in.GetObjectKind().SetGroupVersionKind(gvk)
	return in, nil
}
