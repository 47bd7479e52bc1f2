package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/store"
)

// get answers with one object, or with a view of it.
func (s *server) get(w http.ResponseWriter, r *http.Request, c *call) error {
	var options metav1.GetOptions
	if err := parameters(r.URL.Query(), &options); err != nil {
		return err
	}
	minRevision, err := readRevision(options.ResourceVersion)
	if err != nil {
		return err
	}
	entry, err := s.store.Get(r.Context(), c.kind, c.key, minRevision)
	if err != nil {
		return err
	}
	if c.sub != nil && c.sub.Scale != nil {
		obj, err := entry.As(c.kind)
		if err != nil {
			return err
		}
		if err := checkScale(c, obj); err != nil {
			return err
		}
		scale := scaleOf(c, obj)
		s.writeObject(w, r, http.StatusOK, c.accept, scale)
		return nil
	}
	if err := s.sendEpoch(r.Context(), w, c, entry); err != nil {
		return err
	}
	return s.writeItem(w, r, http.StatusOK, c, entry)
}

// readRevision translates a get's resourceVersion to the store's terms.
func readRevision(resourceVersion string) (int64, error) {
	switch resourceVersion {
	case "":
		return 0, nil
	case "0":
		return -1, nil
	}
	revision, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil || revision < 0 {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion: Invalid value: %q: strconv.ParseUint: parsing %q: invalid syntax", resourceVersion, resourceVersion))
	}
	return revision, nil
}

// list answers with a collection.
func (s *server) list(w http.ResponseWriter, r *http.Request, c *call) error {
	options, err := listOptions(r, c.kind)
	if err != nil {
		return err
	}
	query, err := c.query(options)
	if err != nil {
		return err
	}
	query.ResourceVersion, query.Match = options.ResourceVersion, string(options.ResourceVersionMatch)
	query.Limit, query.Continue = options.Limit, options.Continue
	page, err := s.store.List(r.Context(), c.kind, query)
	if err != nil {
		return err
	}
	listMeta := metav1.ListMeta{
		ResourceVersion:    strconv.FormatInt(page.Revision, 10),
		Continue:           page.Continue,
		RemainingItemCount: page.Remaining,
	}
	if c.accept.as != nil && c.accept.as.Kind == "Table" {
		return s.writeTable(w, r, http.StatusOK, c, items(page.Entries), listMeta)
	}
	return s.writeList(w, r, c, page.Entries, listMeta)
}

// query is what a list, a watch or a deletecollection selects.
func (c *call) query(o *internalversion.ListOptions) (store.Query, error) {
	q := store.Query{Namespace: c.key.Namespace, Labels: o.LabelSelector, Fields: o.FieldSelector}
	if q.Labels == nil {
		q.Labels = labels.Everything()
	}
	if q.Fields == nil {
		q.Fields = fields.Everything()
	}
	if name, ok := q.Fields.RequiresExactMatch("metadata.name"); ok {
		q.Name = name
	}
	// The historic /watch/ paths name an object in the path.
	if c.WatchPrefix && c.Name != "" {
		if q.Name != "" && q.Name != c.Name {
			return q, apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
		}
		q.Name = c.Name
		q.Fields = fields.AndSelectors(q.Fields, fields.OneTermEqualSelector("metadata.name", c.Name))
	}
	return q, nil
}

// writeList concatenates the items' encodings.
func (s *server) writeList(w http.ResponseWriter, r *http.Request, c *call, entries []*store.Entry, listMeta metav1.ListMeta) error {
	gvk := c.kind.GroupVersion().WithKind(c.kind.ListKind)
	if as := c.accept.as; as != nil {
		if as.Kind != "PartialObjectMetadataList" {
			return notAcceptable(fmt.Sprintf("you requested PartialObjectMetadata, but the requested object is a list (%T)", c.kind.NewList()))
		}
		gvk = *as
	}
	form := shapeFor(c.accept)
	key := encodingKey(c.kind, form)
	if c.accept.info.MediaType == runtime.ContentTypeProtobuf {
		return s.writeProtoList(w, r, c, gvk, entries, listMeta)
	}
	items := make([][]byte, len(entries))
	for i, e := range entries {
		item, err := encodedAs(key, c.kind, e, form)
		if err != nil {
			return err
		}
		items[i] = item
	}
	metaJSON, err := json.Marshal(listMeta)
	if err != nil {
		return err
	}
	chunks := make([][]byte, 0, 3*len(items)+3)
	chunks = append(chunks, fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, gvk.Kind, gvk.GroupVersion(), metaJSON))
	for i, item := range items {
		if i > 0 {
			chunks = append(chunks, comma)
		}
		if form == shapePartialJSON {
			item = withKind(partialKind(c.accept.as), item)
		}
		chunks = append(chunks, item)
	}
	chunks = append(chunks, []byte("]}"))
	if c.accept.pretty || c.accept.info.MediaType == runtime.ContentTypeYAML {
		return s.writeJSON(w, r, http.StatusOK, c.accept, concat(chunks))
	}
	return s.writeBody(w, r, http.StatusOK, c.accept.info.MediaType, append(chunks, newline)...)
}

func items(entries []*store.Entry) []item {
	all := make([]item, len(entries))
	for i, e := range entries {
		all[i] = e
	}
	return all
}

var comma = []byte(",")

func concat(chunks [][]byte) []byte {
	var all []byte
	for _, chunk := range chunks {
		all = append(all, chunk...)
	}
	return all
}

// writeProtoList relies on what all list messages have in common: field 1 is the metadata,
// field 2 the items.
func (s *server) writeProtoList(w http.ResponseWriter, r *http.Request, c *call, gvk schema.GroupVersionKind, entries []*store.Entry, listMeta metav1.ListMeta) error {
	metaProto, err := listMeta.Marshal()
	if err != nil {
		return err
	}
	first := protowire.AppendTag(nil, 1, protowire.BytesType)
	first = protowire.AppendBytes(first, metaProto)
	chunks, size, err := protoItems(c, entries, append(make([][]byte, 0, 3*len(entries)+3), nil, first))
	if err != nil {
		return err
	}
	chunks[0] = protowire.AppendVarint(unknownHead(gvk), uint64(len(first)+size))
	return s.writeBody(w, r, http.StatusOK, c.accept.info.MediaType, append(chunks, unknownTail)...)
}

// protoItems appends the items of a list message to chunks, and returns their size. What is stored isn't copied: it is a
// chunk between two small ones, which have their room in common.
func protoItems(c *call, entries []*store.Entry, chunks [][]byte) ([][]byte, int, error) {
	form := shapeFor(c.accept)
	key := encodingKey(c.kind, form)
	size := 0
	room := make([]byte, 0, len(entries)*(protowire.SizeTag(2)+4+store.RevisionSize))
	for _, e := range entries {
		message, revision, ok := asStored(c.kind, e, form)
		start := len(room)
		if ok {
			room = store.AppendRevision(room, revision)
		} else {
			var err error
			if message, err = encodedAs(key, c.kind, e, form); err != nil {
				return nil, 0, err
			}
		}
		end := len(room)
		room = protowire.AppendTag(room, 2, protowire.BytesType)
		room = protowire.AppendVarint(room, uint64(len(message)+end-start))
		chunks = append(chunks, room[end:len(room):len(room)], message, room[start:end:end])
		size += len(room) - start + len(message)
	}
	return chunks, size, nil
}
