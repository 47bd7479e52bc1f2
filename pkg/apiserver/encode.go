package apiserver

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/audit"
	"skiff/pkg/store"
)

// shape is one of the encodings that are kept with an entry. None has a
// resource's kind and apiVersion in it, save custom resources' JSON: what stands
// around the object (an envelope, a list, a watch event) adds them.
type shape string

const (
	shapeJSON        shape = "json"         // {"metadata":…}
	shapeProto       shape = "protobuf"     // the message alone
	shapePartialJSON shape = "partial-json" // {"metadata":…} of PartialObjectMetadata
	shapePartialPB   shape = "partial-pb"
)

// shapeFor picks the encoding that a response in this format is made of.
func shapeFor(a *accept) shape {
	protobuf := a.info.MediaType == runtime.ContentTypeProtobuf
	switch {
	case a.as != nil && protobuf:
		return shapePartialPB
	case a.as != nil:
		return shapePartialJSON
	case protobuf:
		return shapeProto
	}
	return shapeJSON
}

// item is an object on its way out: a [store.Entry], or a [drafted] one.
type item interface {
	// As decodes a private copy.
	As(kind *api.Kind) (api.Object, error)
	// Encoding returns the encoding of that key, by calling make if it isn't at hand.
	Encoding(key string, make func() ([]byte, error)) ([]byte, error)
}

// drafted is an object that isn't in the store: the result of a dry run, or what was deleted.
type drafted struct{ obj api.Object }

func (d drafted) As(*api.Kind) (api.Object, error) { return d.obj.DeepCopyObject().(api.Object), nil }

func (d drafted) Encoding(_ string, make func() ([]byte, error)) ([]byte, error) { return make() }

// encoded returns an object in a shape, as the version of kind; made once and kept if it is an entry.
func encoded(kind *api.Kind, e item, s shape) ([]byte, error) {
	return encodedAs(encodingKey(kind, s), kind, e, s)
}

// encodingKey names an encoding among those of an entry.
func encodingKey(kind *api.Kind, s shape) string {
	return string(s) + " " + kind.GroupVersion().String()
}

// encodedAs is encoded for those who have many objects, and the key at hand.
func encodedAs(key string, kind *api.Kind, e item, s shape) ([]byte, error) {
	if message, revision, ok := asStored(kind, e, s); ok {
		whole := append(make([]byte, 0, len(message)+store.RevisionSize), message...)
		return store.AppendRevision(whole, revision), nil
	}
	return e.Encoding(key, func() ([]byte, error) {
		obj, err := e.As(kind)
		if err != nil {
			return nil, err
		}
		return encodeShape(obj, s)
	})
}

// asStored returns an object as it is stored, if that is what is asked for: protobuf lacks nothing but the revision.
func asStored(kind *api.Kind, e item, s shape) (message []byte, revision int64, ok bool) {
	entry, stored := e.(*store.Entry)
	if !stored || s != shapeProto || entry.Kind.GroupVersionKind != kind.GroupVersionKind {
		return nil, 0, false
	}
	message, ok = entry.Protobuf()
	return message, entry.Revision, ok
}

func encodeShape(obj api.Object, s shape) ([]byte, error) {
	switch s {
	case shapePartialJSON, shapePartialPB:
		partial := meta.AsPartialObjectMetadata(obj)
		if s == shapePartialPB {
			return partial.Marshal()
		}
		return json.Marshal(partial)
	case shapeProto:
		message, ok := obj.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, fmt.Errorf("encode %T: it has no protobuf form", obj)
		}
		return message.Marshal()
	}
	custom, ok := obj.(runtime.Unstructured)
	if !ok {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		return json.Marshal(obj)
	}
	// Without what withKind puts in front: items of a list have it, too.
	content := maps.Clone(custom.UnstructuredContent())
	delete(content, "apiVersion")
	delete(content, "kind")
	bare, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	head := fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q`, gvk.GroupVersion(), gvk.Kind)
	if len(bare) > len("{}") {
		head = append(head, ',')
	}
	return append(head, bare[1:]...), nil
}

// withKind puts kind and apiVersion in front of an object's bare JSON.
func withKind(gvk schema.GroupVersionKind, bare []byte) []byte {
	return appendWithKind(nil, kindHead(gvk), bare)
}

// kindHead is what an object of a kind begins with.
func kindHead(gvk schema.GroupVersionKind) []byte {
	return fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q`, gvk.Kind, gvk.GroupVersion())
}

// appendWithKind appends an object's bare JSON with a [kindHead] in front.
func appendWithKind(dst, head, bare []byte) []byte {
	if bytes.HasPrefix(bare, customHead) || bytes.HasPrefix(bare, []byte(`{"kind":`)) {
		return append(dst, bare...)
	}
	dst = append(dst, head...)
	if len(bare) > len("{}") {
		dst = append(dst, ',')
	}
	return append(dst, bare[1:]...)
}

// customHead begins custom resources, which are kept with their kind.
var customHead = []byte(`{"apiVersion":`)

// protoEnvelope is the prefix of every protobuf body, before a runtime.Unknown.
var protoEnvelope = []byte("k8s\x00")

// unknownHead is what stands before the size of the raw message in a body of this kind: the
// envelope, and runtime.Unknown's field 1.
func unknownHead(gvk schema.GroupVersionKind) []byte {
	apiVersion := gvk.GroupVersion().String()
	var typeMeta []byte
	typeMeta = protowire.AppendTag(typeMeta, 1, protowire.BytesType)
	typeMeta = protowire.AppendString(typeMeta, apiVersion)
	typeMeta = protowire.AppendTag(typeMeta, 2, protowire.BytesType)
	typeMeta = protowire.AppendString(typeMeta, gvk.Kind)
	head := append([]byte(nil), protoEnvelope...)
	head = protowire.AppendTag(head, 1, protowire.BytesType)
	head = protowire.AppendBytes(head, typeMeta)
	return protowire.AppendTag(head, 2, protowire.BytesType)
}

// unknownTail is runtime.Unknown's empty contentEncoding and contentType.
var unknownTail = []byte{0x1a, 0x00, 0x22, 0x00}

// inEnvelope wraps a protobuf message as a body of its own.
func inEnvelope(gvk schema.GroupVersionKind, message []byte) []byte {
	body := unknownHead(gvk)
	body = protowire.AppendBytes(body, message)
	return append(body, unknownTail...)
}

// partialKind is the kind that a conversion's items have.
func partialKind(as *schema.GroupVersionKind) schema.GroupVersionKind {
	return as.GroupVersion().WithKind("PartialObjectMetadata")
}

// writeItem answers with one object.
func (s *server) writeItem(w http.ResponseWriter, r *http.Request, code int, c *call, e item) error {
	if c.accept.as != nil && c.accept.as.Kind == "Table" {
		obj, err := e.As(c.kind)
		if err != nil {
			return err
		}
		return s.writeTable(w, r, code, c, []item{e}, metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()})
	}
	gvk := c.kind.GroupVersionKind
	if c.accept.as != nil {
		if c.accept.as.Kind != "PartialObjectMetadata" {
			return notAcceptable(fmt.Sprintf("you requested PartialObjectMetadataList, but the requested object is not a list (%T)", c.kind.New()))
		}
		gvk = partialKind(c.accept.as)
	}
	body, err := encoded(c.kind, e, shapeFor(c.accept))
	if err != nil {
		return err
	}
	if c.accept.info.MediaType == runtime.ContentTypeProtobuf {
		body = inEnvelope(gvk, body)
		return s.writeBody(w, r, code, c.accept.info.MediaType, body)
	}
	return s.writeJSON(w, r, code, c.accept, withKind(gvk, body))
}

// writeJSON sends a JSON document as JSON, indented if asked, or as YAML.
func (s *server) writeJSON(w http.ResponseWriter, r *http.Request, code int, a *accept, document []byte) error {
	if a.info.MediaType == runtime.ContentTypeYAML {
		text, err := toYAML(document)
		if err != nil {
			return err
		}
		return s.writeBody(w, r, code, a.info.MediaType, text)
	}
	if a.pretty {
		var indented bytes.Buffer
		if err := json.Indent(&indented, document, "", "  "); err != nil {
			return err
		}
		return s.writeBody(w, r, code, a.info.MediaType, indented.Bytes())
	}
	return s.writeBody(w, r, code, a.info.MediaType, document, newline)
}

// toYAML writes a JSON document as YAML, which is read as YAML for that: some characters that strings of JSON may hold
// as they are have to be escaped first.
func toYAML(document []byte) ([]byte, error) {
	barred := func(r rune) bool { return r >= 0x7f && r <= 0x9f || r == 0xfeff || r == 0xfffe || r == 0xffff }
	if !bytes.ContainsFunc(document, barred) {
		return yaml.JSONToYAML(document)
	}
	var escaped bytes.Buffer
	for _, r := range string(document) {
		if barred(r) {
			fmt.Fprintf(&escaped, `\u%04x`, r)
		} else {
			escaped.WriteRune(r)
		}
	}
	return yaml.JSONToYAML(escaped.Bytes())
}

var newline = []byte("\n")

// writeObject answers with an object that isn't in the store.
func (s *server) writeObject(w http.ResponseWriter, r *http.Request, code int, a *accept, obj runtime.Object) {
	if st, ok := obj.(*metav1.Status); ok {
		audit.From(r.Context()).Status(st)
	}
	encoder := a.info.Serializer
	if a.pretty && a.info.PrettySerializer != nil {
		encoder = a.info.PrettySerializer
	}
	inYAML := a.info.MediaType == runtime.ContentTypeYAML
	if inYAML {
		encoder = api.JSON
	}
	var body bytes.Buffer
	err := encoder.Encode(obj, &body)
	if err == nil && inYAML {
		err = s.writeJSON(w, r, code, a, body.Bytes())
	}
	if err != nil {
		s.logger.Error("encode a response", "type", fmt.Sprintf("%T", obj), "error", err)
		http.Error(w, "the response could not be encoded", http.StatusInternalServerError)
		return
	}
	if !inYAML {
		_ = s.writeBody(w, r, code, a.info.MediaType, body.Bytes())
	}
}

// gzipFrom is the size from which a body is compressed for clients that take it.
const gzipFrom = 128 << 10

// writeBody sends the chunks as one body. Failures of the connection are nobody's concern
// any more, so it always returns nil; the error is in the signature for handlers to return.
func (s *server) writeBody(w http.ResponseWriter, r *http.Request, code int, contentType string, chunks ...[]byte) error {
	auditResponse(r, contentType, chunks)
	size := 0
	for _, chunk := range chunks {
		size += len(chunk)
	}
	header := w.Header()
	header.Set("Content-Type", contentType)
	var out io.Writer = w
	if size >= gzipFrom && acceptsGzip(r) {
		header.Set("Content-Encoding", "gzip")
		header.Add("Vary", "Accept-Encoding")
		compressed, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is a valid constant
		defer compressed.Close()
		out = compressed
	} else {
		header.Set("Content-Length", strconv.Itoa(size))
	}
	// Who doesn't read must not hold the request, which is one of a limited number, for ever.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.cfg.RequestTimeout))
	w.WriteHeader(code)
	if r.Method == http.MethodHead {
		return nil
	}
	if len(chunks) == 1 {
		_, _ = out.Write(chunks[0])
		return nil
	}
	buffer := buffers.Get().(*bufio.Writer)
	defer buffers.Put(buffer)
	buffer.Reset(out)
	defer buffer.Reset(nil)
	for _, chunk := range chunks {
		if _, err := buffer.Write(chunk); err != nil {
			return nil
		}
	}
	_ = buffer.Flush()
	return nil
}

// buffers gather chunks: left alone, HTTP/2 makes a frame of every 4 kB that it is given piece by piece, and each costs as much
// as a large one.
var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 128<<10) }}

func acceptsGzip(r *http.Request) bool {
	for encoding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		if name, _, _ := strings.Cut(strings.TrimSpace(encoding), ";"); name == "gzip" {
			return true
		}
	}
	return false
}
