package api

import (
	"cmp"
	_ "embed"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Columns reads a row's columns from one line: "Name, Ready, Desired#, Suspend?, +Node". A # makes an
// integer and a ? a boolean of a column, which otherwise is a string; those with a + are only
// printed wide (priority 1). Called with constants.
func Columns(line string) []metav1.TableColumnDefinition {
	names := strings.Split(line, ", ")
	columns := make([]metav1.TableColumnDefinition, len(names))
	for i, name := range names {
		c := metav1.TableColumnDefinition{Type: "string"}
		if name[0] == '+' {
			name, c.Priority = name[1:], 1
		}
		switch name[len(name)-1] {
		case '#':
			name, c.Type = name[:len(name)-1], "integer"
		case '?':
			name, c.Type = name[:len(name)-1], "boolean"
		}
		c.Name = name
		if name == "Name" {
			c.Format = "name"
		}
		columns[i] = c
	}
	return columns
}

var defaultColumns = []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name"}, {Name: "Created At", Type: "date"}}

// TableColumns are the columns of k's table.
func (k *Kind) TableColumns() []metav1.TableColumnDefinition {
	columns := slices.Clone(k.Columns)
	if columns == nil {
		columns = slices.Clone(defaultColumns)
	}
	all := columnTexts()
	own := all[schema.GroupResource{Group: k.StoredKind().Group, Resource: k.Resource}.String()]
	for i := range columns {
		c := &columns[i]
		if c.Description != "" {
			continue // a custom resource's
		}
		if c.Description = cmp.Or(own[c.Name], all["*"][c.Name]); strings.HasPrefix(c.Description, ".") {
			c.Description = fieldDescription(k, strings.Split(c.Description[1:], "."))
		}
	}
	return columns
}

//go:embed columns.txt
var columnsText string

// columnTexts reads columns.txt: resource, column, text.
var columnTexts = sync.OnceValue(func() map[string]map[string]string {
	all, at := map[string]map[string]string{}, map[string]string{}
	for line := range strings.Lines(columnsText) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if strings.HasPrefix(line, " ") {
			at[name] = strings.ReplaceAll(strings.TrimSpace(text), `\n`, "\n")
		} else if !strings.HasPrefix(line, "#") {
			at = map[string]string{}
			all[name] = at
		}
	}
	return all
})

// fieldDescription is what the Go type that is stored says of a field.
func fieldDescription(k *Kind, path []string) string {
	object, err := Scheme.New(k.StoredKind())
	if err != nil {
		object = k.New()
	}
	text := ""
	for t := reflect.TypeOf(object); len(path) > 0; path = path[1:] {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		texts, _ := reflect.Zero(t).Interface().(interface{ SwaggerDoc() map[string]string })
		field, ok := t.FieldByNameFunc(func(name string) bool {
			f, _ := t.FieldByName(name)
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return tag == path[0]
		})
		if !ok {
			return ""
		}
		if text = ""; texts != nil {
			text = texts.SwaggerDoc()[path[0]]
		}
		t = field.Type
	}
	return text
}

// TableRow is obj's row, without the object. A cell that tells an age is right at the time of the call.
func (k *Kind) TableRow(obj Object) metav1.TableRow {
	var row metav1.TableRow
	if k.Cells == nil {
		row.Cells = []any{obj.GetName(), obj.GetCreationTimestamp().UTC().Format(time.RFC3339)}
	} else {
		row.Cells = k.Cells(obj)
	}
	if k.RowConditions != nil {
		row.Conditions = k.RowConditions(obj)
	}
	return row
}

// MakeTable makes the table of objects, each with what include says: nothing, its
// metadata (the default) or all of it.
func MakeTable(k *Kind, include metav1.IncludeObjectPolicy, objs ...Object) (*metav1.Table, error) {
	table := &metav1.Table{
		TypeMeta:          metav1.TypeMeta{APIVersion: metav1.SchemeGroupVersion.String(), Kind: "Table"},
		ColumnDefinitions: k.TableColumns(),
		Rows:              make([]metav1.TableRow, len(objs)),
	}
	for i, obj := range objs {
		row := k.TableRow(obj)
		switch include {
		case metav1.IncludeNone:
		case metav1.IncludeObject:
			row.Object = runtime.RawExtension{Object: obj}
		case metav1.IncludeMetadata, "":
			partial := meta.AsPartialObjectMetadata(obj)
			partial.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
			row.Object = runtime.RawExtension{Object: partial}
		default:
			return nil, fmt.Errorf("unrecognized includeObject value: %q", include)
		}
		table.Rows[i] = row
	}
	return table, nil
}

// Age is how long an object has existed, as kubectl writes it.
func Age(obj metav1.Object) string { return Since(obj.GetCreationTimestamp().Time) }

// Since is how long ago t was, as kubectl writes it.
func Since(t time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t))
}

// Or is text, or instead when there is none.
func Or(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}

// OrNone is text, or <none>.
func OrNone(text string) string { return Or(text, "<none>") }

// Some joins the first few items, and says how many more there are; of none it is instead.
func Some(items []string, most int, separator, instead string) string {
	if len(items) <= most {
		return Or(strings.Join(items, separator), instead)
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(items[:most], separator), len(items)-most)
}
