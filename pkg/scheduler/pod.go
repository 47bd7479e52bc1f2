package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"

	"skiff/pkg/placement"
)

// pod is a pod digested for decisions. It doesn't change, save for where it is.
type pod struct {
	*placement.Pod
	key       string // namespace/name
	priority  int32
	owner     types.UID // of the controller; "" if there is none
	claims    []string  // names of persistent volume claims
	affinity  []term    // required
	anti      []term    // required
	preferred []weighted
	nodes     *nodeaffinity.PreferredSchedulingTerms
	// bad says what in the spec can't be understood; such a pod is placed nowhere.
	bad error

	slot    int  // of the node that it is on; none if there is none
	assumed bool // decided here, not yet seen on the watch
}

// none is the slot of a pod without a node.
const none = -1

// term selects other pods, and says what "together" means.
type term struct {
	key        string // topology
	namespaces map[string]bool
	selector   labels.Selector
	// inNamespaces selects further namespaces by their labels; nil: none.
	inNamespaces labels.Selector
}

// weighted is a preferred term; the weight of one to keep away from is negative.
type weighted struct {
	term
	weight int64
}

func newPod(p *corev1.Pod) *pod {
	d := &pod{Pod: placement.Prepare(p), key: p.Namespace + "/" + p.Name, slot: none}
	if p.Spec.Priority != nil {
		d.priority = *p.Spec.Priority
	}
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil {
		d.owner = owner.UID
	}
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			d.claims = append(d.claims, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			d.claims = append(d.claims, ephemeral.VolumeClaimName(p, v))
		}
	}
	switch {
	case len(p.Spec.ResourceClaims) > 0:
		d.bad = errors.New("resource claims are not supported by this scheduler")
	default:
		d.bad = d.digestAffinity(p)
	}
	return d
}

func (d *pod) digestAffinity(p *corev1.Pod) error {
	a := p.Spec.Affinity
	if a == nil {
		return nil
	}
	var err error
	if n := a.NodeAffinity; n != nil && len(n.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		if d.nodes, err = nodeaffinity.NewPreferredSchedulingTerms(n.PreferredDuringSchedulingIgnoredDuringExecution); err != nil {
			return err
		}
	}
	if pa := a.PodAffinity; pa != nil {
		if d.affinity, err = newTerms(p.Namespace, pa.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return err
		}
		if err = d.prefer(p.Namespace, pa.PreferredDuringSchedulingIgnoredDuringExecution, 1); err != nil {
			return err
		}
	}
	if pa := a.PodAntiAffinity; pa != nil {
		if d.anti, err = newTerms(p.Namespace, pa.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return err
		}
		if err = d.prefer(p.Namespace, pa.PreferredDuringSchedulingIgnoredDuringExecution, -1); err != nil {
			return err
		}
	}
	return nil
}

func (d *pod) prefer(namespace string, terms []corev1.WeightedPodAffinityTerm, sign int64) error {
	for i := range terms {
		t, err := newTerm(namespace, &terms[i].PodAffinityTerm)
		if err != nil {
			return err
		}
		d.preferred = append(d.preferred, weighted{t, sign * int64(terms[i].Weight)})
	}
	return nil
}

func newTerms(namespace string, terms []corev1.PodAffinityTerm) ([]term, error) {
	var all []term
	for i := range terms {
		t, err := newTerm(namespace, &terms[i])
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// newTerm parses a term. matchLabelKeys are part of its selector already: the apiserver merges them when a pod is created.
func newTerm(namespace string, from *corev1.PodAffinityTerm) (term, error) {
	t := term{key: from.TopologyKey, namespaces: map[string]bool{}}
	var err error
	if t.selector, err = metav1.LabelSelectorAsSelector(from.LabelSelector); err != nil {
		return t, fmt.Errorf("pod affinity: %w", err)
	}
	for _, n := range from.Namespaces {
		t.namespaces[n] = true
	}
	if from.NamespaceSelector != nil {
		if t.inNamespaces, err = metav1.LabelSelectorAsSelector(from.NamespaceSelector); err != nil {
			return t, fmt.Errorf("pod affinity: %w", err)
		}
	} else if len(t.namespaces) == 0 {
		t.namespaces[namespace] = true
	}
	return t, nil
}

// matches reports whether the term selects p; namespaces holds the labels of all namespaces.
func (t *term) matches(p *pod, namespaces map[string]labels.Set) bool {
	if !t.namespaces[p.Namespace] && (t.inNamespaces == nil || !t.inNamespaces.Matches(namespaces[p.Namespace])) {
		return false
	}
	return t.selector.Matches(labels.Set(p.Labels))
}

// concernsOthers reports whether the pod's being somewhere matters to pods beside those that select it.
func (d *pod) concernsOthers() bool {
	return len(d.affinity)+len(d.anti)+len(d.preferred) > 0
}

// pinned returns the only nodes that the pod's affinity admits by name, as a
// daemon set's does; ok is false when it names none.
func (d *pod) pinned() (names []string, ok bool) {
	a := d.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil, false
	}
	for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		i := slices.IndexFunc(t.MatchFields, func(r corev1.NodeSelectorRequirement) bool {
			return r.Key == metav1.ObjectNameField && r.Operator == corev1.NodeSelectorOpIn
		})
		if i < 0 {
			return nil, false
		}
		names = append(names, t.MatchFields[i].Values...)
	}
	slices.Sort(names)
	return slices.Compact(names), len(names) > 0
}

// signature is equal for pods that every node is equally good for: those of
// one template. It holds everything that a decision looks at.
func (d *pod) signature() string {
	trimmed := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Labels: d.Labels}}
	trimmed.Spec = corev1.PodSpec{NodeSelector: d.Spec.NodeSelector, Affinity: d.Spec.Affinity, Tolerations: d.Spec.Tolerations,
		TopologySpreadConstraints: d.Spec.TopologySpreadConstraints, Priority: &d.priority}
	bytes, err := trimmed.Marshal()
	if err != nil {
		return d.key // a class of its own
	}
	var b strings.Builder
	b.Write(bytes)
	r := &d.Requests
	fmt.Fprintf(&b, "|%v|%s|%s|%d,%d,%d,%d,%d", d.bad, d.owner, strings.Join(d.claims, ","), r.MilliCPU, r.Memory, r.EphemeralStorage, d.ScoredCPU, d.ScoredMemory)
	if len(r.Scalar) > 0 {
		fmt.Fprintf(&b, "|%v", r.Scalar) // maps print in order of their keys
	}
	for _, port := range d.HostPorts() {
		b.WriteString("|" + port)
	}
	return b.String()
}
