package store

import (
	"bytes"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"skiff/pkg/api"
)

// codec is how the objects of one resource are named and written in etcd.
type codec struct {
	kind        *api.Kind // the stored version
	prefix      string    // "/registry/pods/"
	transformer Transformer
	budget      *budget
	metrics     *metrics
}

func (s *Store) codec(kind *api.Kind) (codec, error) {
	stored := s.config.Stored(kind)
	if stored == nil {
		return codec{}, fmt.Errorf("%s is stored as %s, which is not in the catalogue", kind.GroupVersionKind, kind.Stored)
	}
	if kind.StoragePath == "" {
		return codec{}, fmt.Errorf("%s is not a kind that is stored", kind.GroupVersionKind)
	}
	c := codec{kind: stored, budget: &s.encodings, metrics: &s.metrics, prefix: s.config.Prefix + "/" + kind.StoragePath + "/"}
	if s.config.Transformer != nil {
		c.transformer = s.config.Transformer(stored)
	}
	return c, nil
}

func (c codec) key(key Key) string       { return c.prefix + key.suffix() }
func (c codec) suffix(key []byte) string { return string(key[len(c.prefix):]) }
func (c codec) parse(key []byte) Key     { return parseSuffix(c.kind, c.suffix(key)) }
func (c codec) own(key Key) Key          { key.Path = c.kind.StoragePath; return key }

// encryptedPrefix begins whatever Kubernetes has encrypted.
var encryptedPrefix = []byte("k8s:enc:")

// entry makes the entry of what etcd holds. An object that can't be read becomes an entry that says so.
func (c codec) entry(kv *mvccpb.KeyValue) *Entry {
	e := c.newEntry(c.parse(kv.Key), kv.ModRevision, kv.Value)
	if c.transformer != nil {
		plain, with, err := c.transformer.FromStorage(kv.Value, kv.Key)
		if err != nil {
			e.err = fmt.Errorf("%s: decrypting: %w", e.Key, err)
			return e.describe(nil)
		}
		e.value, e.with = plain, with
	} else if bytes.HasPrefix(kv.Value, encryptedPrefix) {
		e.err = fmt.Errorf("%s: it is encrypted, and this server has no encryption configuration", e.Key)
		return e.describe(nil)
	}
	obj, err := api.DecodeStored(c.kind, e.value)
	if err != nil {
		e.err = fmt.Errorf("%s: %w", e.Key, err)
		return e.describe(nil)
	}
	return e.describe(obj)
}

func (c codec) newEntry(key Key, revision int64, plain []byte) *Entry {
	return &Entry{Key: key, Kind: c.kind, Revision: revision, value: plain, budget: c.budget}
}

// encode is what etcd shall hold for obj, which is of the requested kind; stored is obj in the stored version.
func (c codec) encode(kind *api.Kind, obj api.Object) (plain []byte, stored api.Object, err error) {
	stored = obj
	if kind.ToStored != nil && kind != c.kind {
		if stored, err = kind.ToStored(obj); err != nil {
			return nil, nil, fmt.Errorf("converting to %s: %w", c.kind.GroupVersionKind, err)
		}
	}
	plain, err = api.EncodeStored(c.kind, stored)
	return plain, stored, err
}

func (c codec) encrypt(key string, plain []byte) (data []byte, with string, err error) {
	if c.transformer == nil {
		return plain, "", nil
	}
	if data, with, err = c.transformer.ToStorage(plain, []byte(key)); err != nil {
		return nil, "", fmt.Errorf("encrypting %s: %w", key, err)
	}
	return data, with, nil
}

// stale says that an object should be written anew though nothing in it has changed.
func (c codec) stale(e *Entry) bool { return c.transformer != nil && c.transformer.Stale(e.with) }

// Encode implements [Interface].
func (s *Store) Encode(kind *api.Kind, key Key, obj api.Object) (name string, value []byte, err error) {
	c, err := s.codec(kind)
	if err != nil {
		return "", nil, err
	}
	name = c.key(c.own(key))
	plain, _, err := c.encode(kind, obj)
	if err != nil {
		return "", nil, err
	}
	value, _, err = c.encrypt(name, plain)
	return name, value, err
}

// Reread drops what is cached of the resources that have objects which could not be read: keys to decrypt
// them may have come. Their watches end.
func (s *Store) Reread() {
	for _, r := range s.all() {
		if r.unreadable() {
			s.Forget(r.codec.kind.StoragePath)
		}
	}
}

func (r *resource) unreadable() (found bool) {
	tree, _ := r.snapshot()
	tree.Scan(func(_ string, e *Entry) bool {
		found = e.err != nil
		return !found
	})
	return found
}
