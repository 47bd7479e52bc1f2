package authz

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// graph knows which objects concern which node:
//
//	pod → node
//	secret, config map, claim, service account, resource claim → pod → node
//	volume → claim;  secret → volume → claim
//	volume attachment, resource slice → node
type graph struct {
	mu      sync.RWMutex
	changed chan struct{} // closed and replaced at each change

	pods    map[objectName]podEdges
	uses    map[Reference]map[string]int // by node: how many of its pods refer to the object
	volumes map[string]volumeEdges
	secrets map[objectName]map[string]bool // the volumes that need a secret
	owners  map[schema.GroupResource]map[string]string
}

type podEdges struct {
	node string
	refs []Reference
}

type volumeEdges struct {
	claim   Reference
	secrets []objectName
}

// graphResources are the resources that the graph is fed with.
var graphResources = []schema.GroupResource{
	{Resource: "pods"},
	{Resource: "persistentvolumes"},
	attachments,
	resourceSlices,
}

var (
	attachments    = schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}
	resourceSlices = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}
)

func newGraph() *graph {
	return &graph{
		changed: make(chan struct{}),
		pods:    map[objectName]podEdges{},
		uses:    map[Reference]map[string]int{},
		volumes: map[string]volumeEdges{},
		secrets: map[objectName]map[string]bool{},
		owners:  map[schema.GroupResource]map[string]string{attachments: {}, resourceSlices: {}},
	}
}

// waitRelated is related, asked again at each change of the graph until the answer is
// yes or the time is over.
func (g *graph) waitRelated(ctx context.Context, node string, info *request.Info, limit time.Duration) bool {
	related, changed := g.related(node, info)
	if related {
		return true
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return false
		case <-changed:
		}
		if related, changed = g.related(node, info); related {
			return true
		}
	}
}

// related reports whether there is a path from the object to the node, and returns what
// is closed when the answer may have changed.
func (g *graph) related(node string, info *request.Info) (bool, <-chan struct{}) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	ref := Reference{Resource: info.Resource, Namespace: info.Namespace, Name: info.Name}
	switch {
	case info.APIGroup == "" && info.Resource == "pods":
		return g.pods[objectName{info.Namespace, info.Name}].node == node, g.changed
	case info.APIGroup == "" && info.Resource == "persistentvolumes":
		return g.volumeConcerns(info.Name, node), g.changed
	case info.APIGroup == "" && info.Resource == "secrets":
		if g.uses[ref][node] > 0 {
			return true, g.changed
		}
		for volume := range g.secrets[objectName{info.Namespace, info.Name}] {
			if g.volumeConcerns(volume, node) {
				return true, g.changed
			}
		}
		return false, g.changed
	}
	if owners, ok := g.owners[info.GroupResource()]; ok {
		return owners[info.Name] == node, g.changed
	}
	return g.uses[ref][node] > 0, g.changed
}

func (g *graph) volumeConcerns(volume, node string) bool {
	v, ok := g.volumes[volume]
	return ok && g.uses[v.claim][node] > 0
}

// apply takes over changes of any of [graphResources].
func (g *graph) apply(changes []lookup.Change) {
	g.mu.Lock()
	defer g.mu.Unlock()
	dirty := false
	for _, change := range changes {
		switch o := change.Object.(type) {
		case *corev1.Pod:
			dirty = g.setPod(o, change.Deleted) || dirty
		case *corev1.PersistentVolume:
			g.setVolume(o, change.Deleted)
			dirty = true
		case *storagev1.VolumeAttachment:
			g.setOwner(attachments, o.Name, o.Spec.NodeName, change.Deleted)
			dirty = true
		case *resourcev1.ResourceSlice:
			node := ""
			if o.Spec.NodeName != nil {
				node = *o.Spec.NodeName
			}
			g.setOwner(resourceSlices, o.Name, node, change.Deleted)
			dirty = true
		}
	}
	if dirty {
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

// setPod reports whether the pod's edges changed.
func (g *graph) setPod(pod *corev1.Pod, deleted bool) bool {
	key := objectName{pod.Namespace, pod.Name}
	var next podEdges
	if pod.Spec.NodeName != "" && !deleted {
		next.node = pod.Spec.NodeName
		// A node must not gain access to anything by a pod that it created itself.
		if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
			next.refs = PodReferences(pod)
		}
	}
	old := g.pods[key]
	if old.node == next.node && slices.Equal(old.refs, next.refs) {
		return false
	}
	for _, ref := range old.refs {
		nodes := g.uses[ref]
		if nodes[old.node]--; nodes[old.node] <= 0 {
			delete(nodes, old.node)
		}
		if len(nodes) == 0 {
			delete(g.uses, ref)
		}
	}
	delete(g.pods, key)
	if next.node == "" {
		return true
	}
	g.pods[key] = next
	for _, ref := range next.refs {
		if g.uses[ref] == nil {
			g.uses[ref] = map[string]int{}
		}
		g.uses[ref][next.node]++
	}
	return true
}

func (g *graph) setVolume(volume *corev1.PersistentVolume, deleted bool) {
	for _, secret := range g.volumes[volume.Name].secrets {
		delete(g.secrets[secret], volume.Name)
		if len(g.secrets[secret]) == 0 {
			delete(g.secrets, secret)
		}
	}
	delete(g.volumes, volume.Name)
	claim := volume.Spec.ClaimRef
	if deleted || claim == nil {
		return
	}
	edges := volumeEdges{
		claim:   Reference{Resource: "persistentvolumeclaims", Namespace: claim.Namespace, Name: claim.Name},
		secrets: volumeSecrets(volume),
	}
	g.volumes[volume.Name] = edges
	for _, secret := range edges.secrets {
		if g.secrets[secret] == nil {
			g.secrets[secret] = map[string]bool{}
		}
		g.secrets[secret][volume.Name] = true
	}
}

func (g *graph) setOwner(resource schema.GroupResource, name, node string, deleted bool) {
	if deleted || node == "" {
		delete(g.owners[resource], name)
		return
	}
	g.owners[resource][name] = node
}
