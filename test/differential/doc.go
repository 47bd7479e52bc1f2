// Package differential compares Skiff with a kube-apiserver: the same sequences of requests go to two servers,
// what has to differ (uids, times, revisions, addresses that were given out) is made equal, and the answers are
// held against each other: status, headers, the whole body.
//
// The servers are the caller's. They should be fresh, on this machine (webhooks are this process), without controllers,
// serve the service range 10.96.0.0/16, and take the kubeconfig's user for an administrator:
//
//	DIFFERENTIAL_SKIFF=skiff.kubeconfig DIFFERENTIAL_KUBERNETES=kubernetes.kubeconfig go test -v ./test/differential
//
// prints every difference that docs/api-differences.md doesn't explain, and fails if there is one. The
// explanations themselves are in known_test.go, and a test holds the document to them.
//
// For the interchange of storage the same etcd is opened by one after the other. DIFFERENTIAL_WRITE=objects.json
// with one kubeconfig in DIFFERENTIAL_SKIFF (or DIFFERENTIAL_KUBERNETES) makes an object of every kind and writes
// down how that server lists them; DIFFERENTIAL_READ=objects.json, with the kubeconfig of the other server on the
// same etcd, compares its lists with that.
package differential
