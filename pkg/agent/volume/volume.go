// Package volume sets up the volumes of pods.
//
// A volume is either a directory of the node that is given to the pod as it is
// (hostPath), an empty one that lives as long as the pod (emptyDir, on disk or
// in memory), or one filled from the API: ConfigMaps, Secrets, fields of the pod,
// service account tokens, and projections of several of these. What comes from
// the API is written atomically (writer.go) and written again when it changes.
//
// Paths below the root are the kubelet's, so that tools which look there find
// what they know:
//
//	<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>
//	<root>/pods/<uid>/volume-subpaths/<volume>/<container>/<index>
//
// Volumes of other kinds (persistent volume claims, CSI, NFS, image …) are
// refused with ErrUnsupported; an emptyDir's sizeLimit is enforced in memory only.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// ErrUnsupported says that this node can't provide a kind of volume at all.
var ErrUnsupported = errors.New("no volume plugin matched")

// Source is where the content of volumes comes from. Its methods may block
// until what they want has been read from the apiserver; a missing object is an
// apierrors.IsNotFound error.
type Source interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	// Token returns a token of the pod's service account for an audience, valid for
	// a good while yet.
	Token(ctx context.Context, pod *v1.Pod, projection *v1.ServiceAccountTokenProjection) (string, error)
	// Field returns the value of a field of the pod, Resource that of a container's resources.
	Field(pod *v1.Pod, ref *v1.ObjectFieldSelector) (string, error)
	Resource(pod *v1.Pod, ref *v1.ResourceFieldSelector) (string, error)
}

// Volumes sets up volumes below one directory. Its methods may be called
// concurrently for different pods.
type Volumes struct {
	root   string
	source Source
}

// New returns Volumes that keeps its state below root.
func New(root string, source Source) *Volumes {
	return &Volumes{root: root, source: source}
}

// PodDir is the directory of all that is a pod's.
func (v *Volumes) PodDir(uid string) string { return filepath.Join(v.root, "pods", uid) }

// Error is a volume that couldn't be set up, with the kubelet's text.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Mount sets up the volumes of a pod that its containers use, and returns their
// paths by name. It is idempotent: content is brought up to date, the rest left
// as it is. The error joins one *Error per volume that failed.
func (v *Volumes) Mount(ctx context.Context, pod *v1.Pod) (map[string]string, error) {
	used := mounted(pod)
	paths := map[string]string{}
	var errs []error
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if !used[volume.Name] {
			continue
		}
		path, err := v.mount(ctx, pod, volume)
		if err != nil {
			errs = append(errs, &Error{Volume: volume.Name, Err: err})
			continue
		}
		paths[volume.Name] = path
	}
	return paths, errors.Join(errs...)
}

// Refresh writes what has changed in the volumes that come from the API.
func (v *Volumes) Refresh(ctx context.Context, pod *v1.Pod) error {
	used := mounted(pod)
	var errs []error
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if used[volume.Name] && FromAPI(volume) {
			if _, err := v.mount(ctx, pod, volume); err != nil {
				errs = append(errs, &Error{Volume: volume.Name, Err: err})
			}
		}
	}
	return errors.Join(errs...)
}

// mounted are the names of volumes that some container mounts.
func mounted(pod *v1.Pod) map[string]bool {
	used := map[string]bool{}
	add := func(mounts []v1.VolumeMount) {
		for _, m := range mounts {
			used[m.Name] = true
		}
	}
	for i := range pod.Spec.InitContainers {
		add(pod.Spec.InitContainers[i].VolumeMounts)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].VolumeMounts)
	}
	for i := range pod.Spec.EphemeralContainers {
		add(pod.Spec.EphemeralContainers[i].VolumeMounts)
	}
	return used
}

// FromAPI says whether a volume's content comes from the API and may change.
func FromAPI(volume *v1.Volume) bool {
	return volume.ConfigMap != nil || volume.Secret != nil || volume.DownwardAPI != nil || volume.Projected != nil
}

func (v *Volumes) mount(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (string, error) {
	switch {
	case volume.HostPath != nil:
		return hostPath(volume.HostPath)
	case volume.EmptyDir != nil:
		return v.emptyDir(pod, volume)
	case FromAPI(volume):
		return v.fromAPI(ctx, pod, volume)
	}
	return "", fmt.Errorf("%w: %s volumes are not supported by this node", ErrUnsupported, Kind(volume))
}

// path is where a volume of a plugin lies.
func (v *Volumes) path(pod *v1.Pod, plugin, name string) string {
	return filepath.Join(v.PodDir(string(pod.UID)), "volumes", "kubernetes.io~"+plugin, name)
}

func (v *Volumes) fromAPI(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (string, error) {
	files, err := v.payload(ctx, pod, volume)
	if err != nil {
		return "", err
	}
	plugin := "projected"
	switch {
	case volume.ConfigMap != nil:
		plugin = "configmap"
	case volume.Secret != nil:
		plugin = "secret"
	case volume.DownwardAPI != nil:
		plugin = "downward-api"
	}
	dir := v.path(pod, plugin, volume.Name)
	if plugin == "secret" || plugin == "projected" {
		// Secrets never touch the disk.
		if err := tmpfs(dir, 0); err != nil {
			return "", err
		}
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return "", err
	}
	if err := write(dir, files, fsGroup(pod)); err != nil {
		return "", err
	}
	return dir, nil
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// Kind names what a volume is, as its field is spelled.
func Kind(volume *v1.Volume) string {
	s := volume.VolumeSource
	for _, k := range []struct {
		name string
		set  bool
	}{
		{"hostPath", s.HostPath != nil}, {"emptyDir", s.EmptyDir != nil}, {"configMap", s.ConfigMap != nil},
		{"secret", s.Secret != nil}, {"downwardAPI", s.DownwardAPI != nil}, {"projected", s.Projected != nil},
		{"persistentVolumeClaim", s.PersistentVolumeClaim != nil}, {"ephemeral", s.Ephemeral != nil}, {"csi", s.CSI != nil},
		{"image", s.Image != nil}, {"nfs", s.NFS != nil}, {"iscsi", s.ISCSI != nil}, {"fc", s.FC != nil},
		{"gitRepo", s.GitRepo != nil}, {"flexVolume", s.FlexVolume != nil}, {"rbd", s.RBD != nil}, {"cephfs", s.CephFS != nil},
	} {
		if k.set {
			return k.name
		}
	}
	return "these"
}
