package admission

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"

	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// serviceAccountPlugin gives every pod a service account, and the volume with its token.
type serviceAccountPlugin struct{ objects lookup.Reader }

const (
	tokenVolume    = "kube-api-access"
	tokenMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// enforceSecrets makes a service account's list of secrets the limit for its pods.
	enforceSecrets = "kubernetes.io/enforce-mountable-secrets"
)

// podOf returns the pod of a create, or nil for other writes.
func podOf(attrs *request.Attributes) *corev1.Pod {
	if attrs.Operation != request.Create || !concerns(attrs, "pods", "") {
		return nil
	}
	pod, _ := attrs.Object.(*corev1.Pod)
	return pod
}

func isMirror(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

func (p *serviceAccountPlugin) mutate(ctx context.Context, attrs *request.Attributes) error {
	pod := podOf(attrs)
	if pod == nil {
		return nil
	}
	// A node compares its mirror pods with what it wrote: they stay as they are.
	if isMirror(pod) {
		return validateMirrorPod(attrs, pod)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = "default"
		pod.Spec.DeprecatedServiceAccount = "default"
	}
	account, err := p.account(ctx, attrs, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if automounts(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 && len(account.ImagePullSecrets) > 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return limitSecrets(attrs, account, pod)
}

func (p *serviceAccountPlugin) validate(ctx context.Context, attrs *request.Attributes) error {
	if pod := podOf(attrs); pod != nil {
		if isMirror(pod) {
			return validateMirrorPod(attrs, pod)
		}
		if pod.Spec.ServiceAccountName == "" {
			return forbidden(attrs, "no service account specified for pod %s/%s", attrs.Namespace, pod.Name)
		}
		account, err := p.account(ctx, attrs, pod.Spec.ServiceAccountName)
		if err != nil {
			return err
		}
		return limitSecrets(attrs, account, pod)
	}
	if attrs.Operation != request.Update || !concerns(attrs, "pods", "ephemeralcontainers") {
		return nil
	}
	pod, ok := attrs.Object.(*corev1.Pod)
	if !ok {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		return forbidden(attrs, "no service account specified for pod %s/%s", attrs.Namespace, pod.Name)
	}
	account, err := p.account(ctx, attrs, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	return limitEphemeralSecrets(attrs, account, pod)
}

// account finds a service account. The default one is waited for: its controller makes
// it soon after the namespace.
func (p *serviceAccountPlugin) account(ctx context.Context, attrs *request.Attributes, name string) (*corev1.ServiceAccount, error) {
	const interval, limit = 25 * time.Millisecond, 1500 * time.Millisecond
	for waited := time.Duration(0); ; waited += interval {
		account, err := lookup.Get[*corev1.ServiceAccount](ctx, p.objects, core("serviceaccounts"), attrs.Namespace, name)
		if err == nil {
			return account, nil
		}
		if apierrors.IsNotFound(err) {
			err = apierrors.NewNotFound(core("serviceaccount"), name)
		}
		refusal := forbidden(attrs, "error looking up service account %s/%s: %w", attrs.Namespace, name, err)
		if !apierrors.IsNotFound(err) || name != "default" || waited >= limit {
			return nil, refusal
		}
		select {
		case <-ctx.Done():
			return nil, refusal
		case <-time.After(interval):
		}
	}
}

// automounts asks the pod, then the service account; the default is yes.
func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	for _, wish := range []*bool{pod.Spec.AutomountServiceAccountToken, account.AutomountServiceAccountToken} {
		if wish != nil {
			return *wish
		}
	}
	return true
}

// mountToken adds the token's volume, and mounts it in every container that has nothing
// else at its place.
func mountToken(pod *corev1.Pod) {
	name, exists := "", false
	for _, volume := range pod.Spec.Volumes {
		if strings.HasPrefix(volume.Name, tokenVolume+"-") {
			name, exists = volume.Name, true
			break
		}
	}
	if !exists {
		name = tokenVolume + "-" + rand.String(5)
	}
	mounted := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	if mounted && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{
			Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

// tokenSource holds the token, the cluster's CA and the namespace. The seconds mark it
// as one whose token may be extended.
func tokenSource() *corev1.ProjectedVolumeSource {
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, int64(60*60+7)
	return &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path:     "namespace",
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}

// validateMirrorPod refuses what would give a node rights through a pod it made itself.
func validateMirrorPod(attrs *request.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return forbidden(attrs, "a mirror pod may not reference service accounts")
	}
	if slices.ContainsFunc(authz.PodReferences(pod), func(r authz.Reference) bool { return r.Resource == "secrets" }) {
		return forbidden(attrs, "a mirror pod may not reference secrets")
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected != nil && slices.ContainsFunc(volume.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			return forbidden(attrs, "a mirror pod may not use ServiceAccountToken volume projections")
		}
	}
	return nil
}

func enforcesSecrets(account *corev1.ServiceAccount) bool {
	enforced, err := strconv.ParseBool(account.Annotations[enforceSecrets])
	return err == nil && enforced
}

// limitSecrets refuses secrets that the account doesn't list, where it says that it
// lists them all.
func limitSecrets(attrs *request.Attributes, account *corev1.ServiceAccount, pod *corev1.Pod) error {
	if !enforcesSecrets(account) {
		return nil
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Secret != nil && !listsSecret(account, volume.Secret.SecretName) {
			return forbidden(attrs, "volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", volume.Secret.SecretName, account.Name)
		}
	}
	for _, group := range []struct {
		kind       string
		containers []corev1.Container
	}{{"init container", pod.Spec.InitContainers}, {"container", pod.Spec.Containers}} {
		for i := range group.containers {
			if err := limitContainer(account, group.kind, &group.containers[i]); err != nil {
				return forbidden(attrs, "%w", err)
			}
		}
	}
	for i, secret := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, secret) {
			return forbidden(attrs, "imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, secret.Name, account.Name)
		}
	}
	return nil
}

func limitEphemeralSecrets(attrs *request.Attributes, account *corev1.ServiceAccount, pod *corev1.Pod) error {
	if !enforcesSecrets(account) {
		return nil
	}
	for i := range pod.Spec.EphemeralContainers {
		container := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if err := limitContainer(account, "ephemeral container", &container); err != nil {
			return forbidden(attrs, "%w", err)
		}
	}
	return nil
}

func limitContainer(account *corev1.ServiceAccount, kind string, c *corev1.Container) error {
	for _, env := range c.Env {
		if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil && !listsSecret(account, env.ValueFrom.SecretKeyRef.Name) {
			return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
				kind, c.Name, env.Name, env.ValueFrom.SecretKeyRef.Name, account.Name)
		}
	}
	for _, from := range c.EnvFrom {
		if from.SecretRef != nil && !listsSecret(account, from.SecretRef.Name) {
			return fmt.Errorf("%s %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
				kind, c.Name, from.SecretRef.Name, account.Name)
		}
	}
	return nil
}

func listsSecret(account *corev1.ServiceAccount, name string) bool {
	return slices.ContainsFunc(account.Secrets, func(s corev1.ObjectReference) bool { return s.Name == name })
}
