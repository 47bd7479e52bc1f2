package workload

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"
)

// Hash names a pod template: FNV-1a over a dump of the Go value, plus the
// owner's collision count, in an alphabet without vowels. It is the value of the
// label pod-template-hash and the suffix of a replica set's name, so it has to
// agree with Kubernetes of the same minor version; between versions it may
// change, which is why owners compare templates and not hashes.
func Hash(template *v1.PodTemplateSpec, collisionCount *int32) string {
	hasher := fnv.New32a()
	fmt.Fprintf(hasher, "%v", dump.ForHash(*template))
	if collisionCount != nil {
		// Eight bytes although the count has four: a historic quirk of the format.
		count := make([]byte, 8)
		binary.LittleEndian.PutUint32(count, uint32(*collisionCount))
		_, _ = hasher.Write(count)
	}
	return rand.SafeEncodeString(fmt.Sprint(hasher.Sum32()))
}
