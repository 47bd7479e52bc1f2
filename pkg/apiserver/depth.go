package apiserver

import (
	"bytes"
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxDepth is how deep a body may nest, as in JSON and YAML, whose decoders see to it themselves.
// Protobuf's doesn't, and what follows it recurses: a schema of two megabytes would overflow the
// stack, which ends the process.
const maxDepth = 10000

// checkDepth refuses a body in protobuf that nests too deep to be decoded.
func checkDepth(body []byte) error {
	if message, ok := bytes.CutPrefix(body, protoEnvelope); ok && tooDeep(message, maxDepth) {
		return errors.New("exceeded max depth")
	}
	return nil
}

// tooDeep says that a protobuf message nests deeper than may be, as far as one can tell without its schema: whatever
// can be read as a message counts as one.
func tooDeep(message []byte, may int) bool {
	if len(message) < 2*may { // a level takes two bytes
		return false
	}
	if may == 0 {
		return true
	}
	for len(message) > 0 {
		_, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return false
		}
		message = message[n:]
		switch kind {
		case protowire.StartGroupType, protowire.EndGroupType: // skipped without recursion; what is in it counts as beside it
			continue
		case protowire.BytesType:
			if inner, n := protowire.ConsumeBytes(message); n >= 0 && tooDeep(inner, may-1) {
				return true
			}
		}
		if n = protowire.ConsumeFieldValue(1, kind, message); n < 0 {
			return false
		}
		message = message[n:]
	}
	return false
}
