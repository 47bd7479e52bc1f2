package store

import (
	"bytes"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// protobufMagic comes before the runtime.Unknown that wraps every stored protobuf message.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
var protobufMagic = []byte("k8s\x00")

// Protobuf appends the object as a bare protobuf message of its kind, resourceVersion included, without
// decoding it: in protobuf, messages that are concatenated merge, so the stored message and
// then an ObjectMeta that holds nothing but a resourceVersion is what is asked for.
// It reports false when the object is not stored as protobuf.
//
// Every kind of Kubernetes has its metadata in field 1, and the
// resourceVersion is field 6 there (a test checks all of them).
func (e *Entry) Protobuf(dst []byte) ([]byte, bool) {
	raw, ok := protobufMessage(e.value)
	if !ok || e.err != nil {
		return dst, false
	}
	dst = append(dst, raw...)
	return appendRevision(dst, e.Revision), true
}

// ProtobufSize is the length of what Protobuf appends, 0 when it would report false.
func (e *Entry) ProtobufSize() int {
	raw, ok := protobufMessage(e.value)
	if !ok || e.err != nil {
		return 0
	}
	var room [32]byte
	return len(raw) + len(appendRevision(room[:0], e.Revision))
}

func appendRevision(dst []byte, revision int64) []byte {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], revision, 10)
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)                 // metadata
	dst = protowire.AppendVarint(dst, uint64(2+len(text)))                 // its length
	dst = protowire.AppendTag(dst, 6, protowire.BytesType)                 // resourceVersion
	return append(protowire.AppendVarint(dst, uint64(len(text))), text...) // always shorter than 128 bytes
}

// protobufMessage cuts the message out of the envelope (field 2 of runtime.Unknown), without a copy.
func protobufMessage(value []byte) ([]byte, bool) {
	body, ok := bytes.CutPrefix(value, protobufMagic)
	if !ok {
		return nil, false
	}
	for len(body) > 0 {
		number, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return nil, false
		}
		body = body[n:]
		if number == 2 && kind == protowire.BytesType {
			raw, n := protowire.ConsumeBytes(body)
			return raw, n >= 0
		}
		if n = protowire.ConsumeFieldValue(number, kind, body); n < 0 {
			return nil, false
		}
		body = body[n:]
	}
	return nil, true // an object without any content
}
