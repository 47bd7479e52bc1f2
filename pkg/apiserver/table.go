package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/pkg/api"
)

// tableOptions reads the parameters of a table; a watch leaves headers out after its first.
func tableOptions(r *http.Request) (*metav1.TableOptions, error) {
	o := &metav1.TableOptions{}
	if err := parameters(r.URL.Query(), o); err != nil {
		return nil, err
	}
	switch errs := validation.ValidateTableOptions(o); len(errs) {
	case 0:
		return o, nil
	case 1:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Unable to convert to Table as requested: %v", errs[0].Error()))
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Unable to convert to Table as requested: %v", errs))
	}
}

// writeTable answers with rows.
func (s *server) writeTable(w http.ResponseWriter, r *http.Request, code int, c *call, entries []item, listMeta metav1.ListMeta) error {
	options, err := tableOptions(r)
	if err != nil {
		return err
	}
	table := newTable(c, options, listMeta)
	for _, e := range entries {
		if err := table.add(c, options, e); err != nil {
			return err
		}
	}
	document, err := json.Marshal(&table.Table)
	if err != nil {
		return err
	}
	return s.writeJSON(w, r, code, c.accept, document)
}

type table struct{ metav1.Table }

func newTable(c *call, options *metav1.TableOptions, listMeta metav1.ListMeta) *table {
	t := &table{metav1.Table{
		TypeMeta: metav1.TypeMeta{APIVersion: c.accept.as.GroupVersion().String(), Kind: "Table"},
		ListMeta: listMeta,
		Rows:     []metav1.TableRow{},
	}}
	if !options.NoHeaders {
		t.ColumnDefinitions = c.kind.TableColumns()
	}
	return t
}

func (t *table) add(c *call, options *metav1.TableOptions, e item) error {
	obj, err := e.As(c.kind)
	if err != nil {
		return err
	}
	row := c.kind.TableRow(obj)
	switch options.IncludeObject {
	case metav1.IncludeNone:
	case metav1.IncludeObject:
		full, err := encoded(c.kind, e, shapeJSON)
		if err != nil {
			return err
		}
		row.Object = runtime.RawExtension{Raw: withKind(c.kind.GroupVersionKind, full)}
	default:
		partial, err := encoded(c.kind, e, shapePartialJSON)
		if err != nil {
			return err
		}
		row.Object = runtime.RawExtension{Raw: withKind(partialKind(c.accept.as), partial)}
	}
	t.Rows = append(t.Rows, row)
	return nil
}

// addObject adds the row of an object that isn't stored (a bookmark).
func (t *table) addObject(c *call, obj api.Object) error {
	partial, err := encodeShape(obj, shapePartialJSON)
	if err != nil {
		return err
	}
	row := c.kind.TableRow(obj)
	row.Object = runtime.RawExtension{Raw: withKind(partialKind(c.accept.as), partial)}
	t.Rows = append(t.Rows, row)
	return nil
}
