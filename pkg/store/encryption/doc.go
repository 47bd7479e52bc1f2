// Package encryption encrypts what etcd holds, as Kubernetes does: the same file says how
// (EncryptionConfiguration of apiserver.config.k8s.io/v1), and the same bytes come of it, so that
// a kube-apiserver reads what was written here, and the other way round.
//
// A value is the prefix k8s:enc:<provider>:v1:<key's name>: and then the ciphertext, which is bound to the object's key in etcd
// where the provider can do that (aesgcm). The first key of the first provider writes, all read. The ciphers are Kubernetes'
// own packages (k8s.io/apiserver/pkg/storage/value/encrypt), for they are a format.
//
// Limits: no key management services (kms).
//
// Source: https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/.
package encryption
