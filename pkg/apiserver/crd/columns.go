package crd

import (
	"bytes"
	"fmt"
	"reflect"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/jsonpath"

	"skiff/pkg/api"
)

var (
	metaTexts  = metav1.ObjectMeta{}.SwaggerDoc()
	ageColumns = []crdv1.CustomResourceColumnDefinition{
		{Name: "Age", Type: "date", Description: metaTexts["creationTimestamp"], JSONPath: ".metadata.creationTimestamp"},
	}
)

// table makes a version's columns, and the function that fills them. Without columns of its own a
// table has the object's age. A path that can't be read ends the columns before it.
func table(own []crdv1.CustomResourceColumnDefinition) ([]metav1.TableColumnDefinition, func(api.Object) []any) {
	if len(own) == 0 {
		own = ageColumns
	}
	headers := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: metaTexts["name"]}}
	var paths []*jsonpath.JSONPath
	for _, c := range own {
		path := jsonpath.New(c.Name)
		if path.Parse("{"+c.JSONPath+"}") != nil {
			break
		}
		paths = append(paths, path.AllowMissingKeys(true))
		text := c.Description
		if text == "" {
			text = fmt.Sprintf("Custom resource definition column (in JSONPath format): %s", c.JSONPath)
		}
		headers = append(headers, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: text, Priority: c.Priority})
	}
	return headers, func(obj api.Object) []any {
		cells := []any{obj.GetName()}
		for i, path := range paths {
			cells = append(cells, cell(path, headers[i+1].Type, obj.(*unstructured.Unstructured).Object))
		}
		return cells
	}
}

// cell is the value at a path as its column's type shows it; nil where there is none.
func cell(path *jsonpath.JSONPath, columnType string, u map[string]any) any {
	results, err := path.FindResults(u)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil
	}
	value := results[0][0].Interface() // a simple path has one result
	switch columnType {
	case "string":
		var text bytes.Buffer
		if path.PrintResults(&text, []reflect.Value{reflect.ValueOf(value)}) != nil {
			return nil
		}
		return text.String()
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if text, ok := value.(string); ok {
			var stamp metav1.Time
			if stamp.UnmarshalQueryParameter(text) != nil {
				return "<invalid>"
			}
			return metatable.ConvertToHumanReadableDateType(stamp)
		}
	}
	return nil
}
