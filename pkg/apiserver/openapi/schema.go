package openapi

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	aggregator "k8s.io/kube-aggregator/pkg/generated/openapi"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"

	"skiff/pkg/api"
	"skiff/pkg/api/generated"
)

// object is a JSON object of a document.
type object = map[string]any

// dialect is what v2 and v3 write differently.
type dialect struct {
	v3     bool
	prefix string // of references to definitions
}

var (
	v2 = dialect{prefix: "#/definitions/"}
	v3 = dialect{v3: true, prefix: "#/components/schemas/"}
)

func (d dialect) ref(name string) object { return object{"$ref": d.prefix + name} }

// definitions collects the schemas of Go types, and of the types of their fields.
type definitions struct {
	dialect
	apply *smd.Schema
	all   object
}

// Methods that Kubernetes' types have for this purpose.
type (
	named      interface{ OpenAPIModelName() string }
	documented interface{ SwaggerDoc() map[string]string }
	shaped     interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}
	oneOf interface{ OpenAPIV3OneOfTypes() []string }
)

// zero is an empty value of t behind a pointer, whose method set is the fullest.
func zero(t reflect.Type) any { return reflect.New(t).Interface() }

// modelName is the definition's name of a struct: what Kubernetes calls it, or something
// made from its package's path.
func modelName(t reflect.Type) string {
	if n, ok := zero(t).(named); ok {
		return n.OpenAPIModelName()
	}
	host, rest, _ := strings.Cut(t.PkgPath(), "/")
	parts := strings.Split(host, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + strings.ReplaceAll(rest, "/", ".") + "." + t.Name()
}

// model is a reference to a model, which is defined if need be.
func (d *definitions) model(m model) object {
	if m.goType == nil {
		return d.ref(m.name)
	}
	return d.ref(d.add(m.goType))
}

// adopt takes the definitions that a kind brings along. Those of metadata are made here like for all kinds.
func (d *definitions) adopt(own *api.Definitions) {
	d.add(reflect.TypeFor[metav1.ObjectMeta]())
	d.add(reflect.TypeFor[metav1.ListMeta]())
	for name, schema := range own.All {
		if _, ok := d.all[name]; !ok {
			d.all[name] = schema
		}
	}
}

// add defines a struct type, once, and returns its name.
func (d *definitions) add(t reflect.Type) string {
	name := modelName(t)
	if _, ok := d.all[name]; ok {
		return name
	}
	schema := object{}
	d.all[name] = schema // before its fields: types may contain themselves
	docs := texts(t, name)
	describe(schema, docs[""])
	if s, ok := zero(t).(shaped); ok {
		d.special(schema, t, s)
		return name
	}
	schema["type"] = "object"
	properties := object{}
	var required []string
	atom := d.atom(name)
	d.fields(t, docs, atom, properties, &required)
	if len(properties) > 0 {
		schema["properties"] = properties
	}
	if len(required) > 0 {
		schema["required"] = required
	}
	if atom != nil && atom.Map != nil {
		if atom.Map.ElementRelationship == smd.Atomic {
			schema["x-kubernetes-map-type"] = "atomic"
		}
		if len(atom.Map.Unions) > 0 {
			schema["x-kubernetes-unions"] = unions(atom.Map.Unions)
		}
	}
	return name
}

// unions say which fields exclude each other, and which value of another field (if any) decides.
func unions(all []smd.Union) []object {
	var out []object
	for _, u := range all {
		fields := object{}
		for _, f := range u.Fields {
			fields[f.FieldName] = f.DiscriminatorValue
		}
		one := object{"fields-to-discriminateBy": fields}
		if u.Discriminator != nil {
			one["discriminator"] = *u.Discriminator
		}
		out = append(out, one)
	}
	return out
}

// generatedTexts have the descriptions of types that carry none (Time, Quantity, version.Info).
var generatedTexts = generated.Of(aggregator.GetOpenAPIDefinitions)

// texts are the descriptions of a type (with an empty name) and of its fields.
func texts(t reflect.Type, name string) map[string]string {
	if doc, ok := zero(t).(documented); ok {
		return doc.SwaggerDoc()
	}
	schema := generatedTexts()[name].Schema
	all := map[string]string{"": schema.Description}
	for field, property := range schema.Properties {
		all[field] = property.Description
	}
	return all
}

func describe(schema object, text string) {
	if text != "" {
		schema["description"] = text
	}
}

// special is a type that isn't in JSON what it is in Go (Time, Quantity …).
func (d *definitions) special(schema object, t reflect.Type, s shaped) {
	if o, ok := zero(t).(oneOf); ok && d.v3 {
		var alternatives []object
		for _, kind := range o.OpenAPIV3OneOfTypes() {
			alternatives = append(alternatives, object{"type": kind})
		}
		schema["oneOf"] = alternatives
	} else if types := s.OpenAPISchemaType(); len(types) > 0 {
		schema["type"] = types[0]
	}
	if format := s.OpenAPISchemaFormat(); format != "" {
		schema["format"] = format
	}
}

// fields adds the properties of a struct, those of embedded ones included.
func (d *definitions) fields(t reflect.Type, docs map[string]string, atom *smd.Atom, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, ok := f.Tag.Lookup("json")
		if !f.IsExported() || tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "" && f.Anonymous {
			embedded := f.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			texts := docs
			if doc, ok := zero(embedded).(documented); ok {
				texts = doc.SwaggerDoc()
			}
			d.fields(embedded, texts, atom, properties, required)
			continue
		}
		if !ok || name == "" {
			name = f.Name
		}
		optional := slices.Contains(strings.Split(options, ","), "omitempty") || slices.Contains(strings.Split(options, ","), "omitzero")
		property := d.property(f, name, docs[name], optional, atom)
		properties[name] = property
		if !optional && !notRequired[modelName(t)+"."+name] || alsoRequired[modelName(t)+"."+name] {
			*required = append(*required, name)
		}
	}
}

// property is the schema of one field.
func (d *definitions) property(f reflect.StructField, name, text string, optional bool, atom *smd.Atom) object {
	t, pointer := f.Type, false
	if t.Kind() == reflect.Pointer {
		t, pointer = t.Elem(), true
	}
	property := d.value(t)
	reference, refers := property["$ref"]
	if _, ok := zero(t).(json.Unmarshaler); refers && d.v3 && !ok && !pointer {
		property["default"] = object{} // an embedded struct's, save for those that are something else in JSON
	}
	d.details(property, f, name, text, optional, atom)
	if refers && d.v3 && len(property) > 1 { // nothing may stand beside a reference
		delete(property, "$ref")
		property["allOf"] = []object{{"$ref": reference}}
	}
	return property
}

// details are what a field's schema says beyond its type.
func (d *definitions) details(property object, f reflect.StructField, name, text string, optional bool, atom *smd.Atom) {
	describe(property, text)
	if strategy := f.Tag.Get("patchStrategy"); strategy != "" {
		property["x-kubernetes-patch-strategy"] = strategy
	}
	if key := f.Tag.Get("patchMergeKey"); key != "" {
		property["x-kubernetes-patch-merge-key"] = key
	}
	if atom == nil { // the type is in no object that is applied
		switch {
		case f.Type.Kind() == reflect.Slice && f.Type.Name() == "" && property["type"] == "array" && name != "items":
			property["x-kubernetes-list-type"] = "atomic"
		case d.v3 && !optional && f.Type.Kind() != reflect.Pointer && property["default"] == nil && property["type"] != "array" && property["type"] != "object" && property["type"] != nil:
			property["default"] = reflect.Zero(f.Type).Interface()
		}
		return
	}
	if atom.Map == nil {
		return
	}
	if field, ok := atom.Map.FindField(name); ok {
		d.strategy(property, field)
		if field.Default != nil && d.v3 && property["default"] == nil {
			property["default"] = plain(field.Default)
		}
	}
}

// plain makes a value of the apply schema, which was read from YAML, one that JSON takes.
func plain(v any) any {
	if m, ok := v.(map[any]any); ok {
		out := object{}
		for k, e := range m {
			out[k.(string)] = plain(e)
		}
		return out
	}
	return v
}

// strategy adds how server-side apply merges a field's lists and maps.
func (d *definitions) strategy(property object, field smd.StructField) {
	if list := field.Type.Inlined.List; list != nil {
		switch {
		case list.ElementRelationship == smd.Atomic:
			property["x-kubernetes-list-type"] = "atomic"
		case len(list.Keys) > 0:
			property["x-kubernetes-list-type"] = "map"
			property["x-kubernetes-list-map-keys"] = list.Keys
		default:
			property["x-kubernetes-list-type"] = "set"
		}
	}
	var relationship smd.ElementRelationship
	if field.Type.ElementRelationship != nil {
		relationship = *field.Type.ElementRelationship
	} else if m := field.Type.Inlined.Map; m != nil && field.Type.NamedType == nil {
		relationship = m.ElementRelationship
	}
	switch relationship {
	case smd.Atomic:
		property["x-kubernetes-map-type"] = "atomic"
	case smd.Separable:
		property["x-kubernetes-map-type"] = "granular"
	}
}

// atom is a type in the apply schema; nil where it has none.
func (d *definitions) atom(name string) *smd.Atom {
	if d.apply == nil {
		return nil
	}
	def, ok := d.apply.FindNamedType(name)
	if !ok {
		return nil
	}
	return &def.Atom
}

var bytesType = reflect.TypeFor[[]byte]()

// value is the schema of a value of type t.
func (d *definitions) value(t reflect.Type) object {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		return d.ref(d.add(t))
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		if values := enum(t); values != nil {
			return object{"type": "string", "enum": values}
		}
		return object{"type": "string"}
	case reflect.Float32:
		return object{"type": "number", "format": "float"}
	case reflect.Float64:
		return object{"type": "number", "format": "double"}
	case reflect.Int64, reflect.Uint64, reflect.Uint32:
		return object{"type": "integer", "format": "int64"}
	case reflect.Int, reflect.Int32, reflect.Int16, reflect.Int8, reflect.Uint, reflect.Uint16, reflect.Uint8:
		return object{"type": "integer", "format": "int32"}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.value(t.Elem())}
	case reflect.Slice:
		if t == bytesType || t.Elem().Kind() == reflect.Uint8 && t.Name() == "" {
			return object{"type": "string", "format": "byte"}
		}
		if s, ok := zero(t).(shaped); ok { // a list type of a name
			return object{"type": s.OpenAPISchemaType()[0]}
		}
		return object{"type": "array", "items": d.value(t.Elem())}
	}
	return object{} // an interface: anything
}

// encode renders a document; keys are sorted, so that equal documents are equal bytes.
func encode(document object) ([]byte, error) { return json.Marshal(document) }
