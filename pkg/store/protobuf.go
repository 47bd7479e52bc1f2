package store

import (
	"bytes"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// protobufMagic comes before the runtime.Unknown that wraps every stored protobuf message.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
var protobufMagic = []byte("k8s\x00")

// Protobuf returns the object as a protobuf message of its kind, without resourceVersion: a part of what is
// stored, shared and not to be changed. In protobuf, messages that are concatenated merge, so
// with what [AppendRevision] makes after it, it has one.
// It reports false when the object is not stored as protobuf.
func (e *Entry) Protobuf() ([]byte, bool) {
	message, ok := protobufMessage(e.value)
	return message, ok && e.err == nil
}

// AppendRevision appends a message of any kind that holds nothing but a resourceVersion: every kind of Kubernetes
// has its metadata in field 1, and the resourceVersion is field 6 there (a test checks all of them).
func AppendRevision(dst []byte, revision int64) []byte {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], revision, 10)
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)                 // metadata
	dst = protowire.AppendVarint(dst, uint64(2+len(text)))                 // its length
	dst = protowire.AppendTag(dst, 6, protowire.BytesType)                 // resourceVersion
	return append(protowire.AppendVarint(dst, uint64(len(text))), text...) // always shorter than 128 bytes
}

// RevisionSize is the room that AppendRevision needs at most.
const RevisionSize = 24

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
