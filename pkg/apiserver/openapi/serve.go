package openapi

import (
	"compress/gzip"
	"crypto/sha512"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"skiff/pkg/api"
)

// Service answers /openapi/v2 and /openapi/v3.
type Service struct {
	config Config

	mu     sync.Mutex
	view   *api.View            // what docs were made of
	docs   map[string]*document // by path, of v2 by ""
	index  *document
	others map[string]string // that the index has

	merged   *document // of v2, with the parts of others
	mergedOf *api.View
	mergedAt time.Time
}

// Config is what a Service describes.
type Config struct {
	Catalogue *api.Catalogue
	// Types converts objects to the values of server-side apply, which carry its schema.
	Types   func() managedfields.TypeConverter
	Version string // of the server
	Others  Others // nil: there are none
}

// New makes a service; documents are built when they are asked for.
func New(config Config) *Service { return &Service{config: config} }

// document is a ready document in its formats.
type document struct {
	rows     []*api.Kind // what it describes
	json     []byte
	etag     string
	protobuf func() ([]byte, error)
}

func newDocument(content object, proto func([]byte) ([]byte, error)) (*document, error) {
	text, err := encode(content)
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum512(text)
	d := &document{json: text, etag: fmt.Sprintf("%X", sum[:])}
	d.protobuf = sync.OnceValues(func() ([]byte, error) { return proto(text) })
	return d, nil
}

// source is the catalogue as it is, and forgets the documents of what is gone.
func (s *Service) source() *source {
	view := s.config.Catalogue.View()
	if s.view != view {
		docs := map[string]*document{}
		for _, gv := range versions(view) {
			if d := s.docs[groupPath(gv)]; d != nil && slices.Equal(d.rows, view.In(gv)) {
				docs[groupPath(gv)] = d
			}
		}
		s.view, s.docs, s.index = view, docs, nil
	}
	return &source{view: view, apply: s.applySchema(view), version: s.config.Version}
}

// applySchema takes the schema of server-side apply from any typed object: all share it.
func (s *Service) applySchema(view *api.View) *smd.Schema {
	types := s.config.Types()
	for _, k := range view.Kinds() {
		if k.Custom != nil || k.Types != nil || k.Virtual {
			continue
		}
		obj := k.New()
		obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
		if value, err := types.ObjectToTyped(obj, typed.AllowDuplicates); err == nil {
			return value.Schema()
		}
	}
	return nil
}

// get returns the document of a group and version, or of v2 (path "").
func (s *Service) get(path string) (*document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.build(s.source(), path)
}

func (s *Service) build(from *source, path string) (*document, error) {
	if d := s.docs[path]; d != nil {
		return d, nil
	}
	if path == "" {
		content, err := from.v2Document()
		if err != nil {
			return nil, err
		}
		return s.keep(path, content, nil, v2Protobuf)
	}
	gv, ok := names(from.view)[path]
	if !ok {
		return nil, nil
	}
	content, err := from.v3Document(path, gv)
	if err != nil {
		return nil, err
	}
	return s.keep(path, content, from.view.In(gv), v3Protobuf)
}

// names are those of the v3 documents, with the group and version that each describes, if it does.
func names(view *api.View) map[string]schema.GroupVersion {
	all := map[string]schema.GroupVersion{}
	for name := range discovery(view) {
		all[name] = schema.GroupVersion{}
	}
	for _, gv := range versions(view) {
		all[groupPath(gv)] = gv
	}
	return all
}

func (s *Service) keep(path string, content object, rows []*api.Kind, proto func([]byte) ([]byte, error)) (*document, error) {
	d, err := newDocument(content, proto)
	if err != nil {
		return nil, err
	}
	d.rows = rows
	s.docs[path] = d
	return d, nil
}

// The protobuf forms are gnostic's.
func v2Protobuf(text []byte) ([]byte, error) {
	parsed, err := openapi_v2.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(parsed)
}

func v3Protobuf(text []byte) ([]byte, error) {
	parsed, err := openapi_v3.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(parsed)
}

func versions(view *api.View) []schema.GroupVersion {
	var all []schema.GroupVersion
	for _, g := range view.Groups() {
		for _, v := range g.Versions {
			all = append(all, schema.GroupVersion{Group: g.Name, Version: v})
		}
	}
	return all
}

// V2 serves /openapi/v2.
func (s *Service) V2(w http.ResponseWriter, r *http.Request) error {
	d, err := s.swagger(r.Context())
	if err != nil {
		return err
	}
	return serve(w, r, d, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
}

// Index serves /openapi/v3: where the documents of the groups are.
func (s *Service) Index(w http.ResponseWriter, r *http.Request) error {
	d, err := s.indexDocument()
	if err != nil {
		return err
	}
	return serve(w, r, d, "")
}

func (s *Service) indexDocument() (*document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.source()
	var others map[string]string
	if s.config.Others != nil {
		others = s.config.Others.Documents()
	}
	if s.index != nil && maps.Equal(others, s.others) {
		return s.index, nil
	}
	paths := object{}
	for name := range names(from.view) {
		d, err := s.build(from, name)
		if err != nil {
			return nil, err
		}
		paths[name] = object{"serverRelativeURL": hashed(name, d.etag)}
	}
	for path, url := range others {
		paths[path] = object{"serverRelativeURL": url}
	}
	d, err := newDocument(object{"paths": paths}, nil)
	s.index, s.others = d, others
	return d, err
}

func hashed(path, etag string) string {
	return (&url.URL{Path: "/openapi/v3/" + path, RawQuery: url.Values{"hash": {etag}}.Encode()}).String()
}

// V3 serves the document of one group and version, below /openapi/v3/. It reports false where
// there is none.
func (s *Service) V3(w http.ResponseWriter, r *http.Request) (bool, error) {
	path := strings.TrimPrefix(r.URL.Path, "/openapi/v3/")
	if path == "" {
		return false, nil
	}
	d, err := s.get(path)
	if err != nil || d == nil {
		return false, err
	}
	if hash := r.URL.Query().Get("hash"); hash != "" {
		if hash != d.etag {
			http.Redirect(w, r, hashed(path, d.etag), http.StatusMovedPermanently)
			return true, nil
		}
		// Who names the hash gets what will never change.
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().UTC().AddDate(1, 0, 0).Format(http.TimeFormat))
	}
	return true, serve(w, r, d, "application/com.github.proto-openapi.spec.v3.v1.0+protobuf")
}

// serve sends a document as JSON or as protobuf, whatever comes first in Accept.
func serve(w http.ResponseWriter, r *http.Request, d *document, protobufType string) error {
	header := w.Header()
	header.Add("Vary", "Accept")
	header.Set("Etag", strconv.Quote(d.etag))
	contentType, content := "application/json", d.json
	switch wanted := negotiate(r.Header.Get("Accept"), protobufType); wanted {
	case "":
		w.WriteHeader(http.StatusNotAcceptable)
		return nil
	case protobufType:
		var err error
		if content, err = d.protobuf(); err != nil {
			return fmt.Errorf("encode the OpenAPI document: %w", err)
		}
		contentType = protobufType
	}
	if r.Header.Get("If-None-Match") == header.Get("Etag") {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	header.Set("Content-Type", contentType)
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		header.Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content) // the client may have gone
		return nil
	}
	header.Add("Vary", "Accept-Encoding")
	header.Set("Content-Encoding", "gzip")
	out, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is a valid constant
	defer out.Close()
	_, _ = out.Write(content)
	return nil
}

// negotiate picks JSON or the protobuf type. The type's old name has an @ in it.
func negotiate(accept, protobufType string) string {
	if strings.TrimSpace(accept) == "" {
		return "application/json"
	}
	for clause := range strings.SplitSeq(accept, ",") {
		name, _, _ := strings.Cut(clause, ";")
		switch name = strings.TrimSpace(name); name {
		case "application/json", "*/*", "application/*":
			return "application/json"
		}
		if protobufType != "" && strings.Replace(name, "@", ".", 1) == protobufType {
			return protobufType
		}
	}
	return ""
}
