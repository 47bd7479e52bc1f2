package store

import (
	"context"
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
		c.transformer = s.config.Transformer(kind.StoragePath)
	}
	return c, nil
}

func (c codec) key(key Key) string       { return c.prefix + key.suffix() }
func (c codec) suffix(key []byte) string { return string(key[len(c.prefix):]) }
func (c codec) parse(key []byte) Key     { return parseSuffix(c.kind, c.suffix(key)) }
func (c codec) own(key Key) Key          { key.Path = c.kind.StoragePath; return key }

// entry makes the entry of what etcd holds. An object that can't be read becomes an entry that says so.
func (c codec) entry(ctx context.Context, kv *mvccpb.KeyValue) *Entry {
	e := c.newEntry(c.parse(kv.Key), kv.ModRevision, kv.Value)
	if c.transformer != nil {
		plain, stale, err := c.transformer.FromStorage(ctx, kv.Value, kv.Key)
		if err != nil {
			e.err = fmt.Errorf("%s: decrypting: %w", e.Key, err)
			return e.describe(nil)
		}
		e.value, e.stale = plain, stale
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

func (c codec) encrypt(ctx context.Context, key string, plain []byte) ([]byte, error) {
	if c.transformer == nil {
		return plain, nil
	}
	data, err := c.transformer.ToStorage(ctx, plain, []byte(key))
	if err != nil {
		return nil, fmt.Errorf("encrypting %s: %w", key, err)
	}
	return data, nil
}
