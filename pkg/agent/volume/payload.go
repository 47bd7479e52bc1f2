package volume

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// file is one file of a volume.
type file struct {
	data []byte
	mode int32
	uid  *int64 // owner other than root
}

// payload collects the files of a volume by their relative path.
func (v *Volumes) payload(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (map[string]file, error) {
	switch {
	case volume.ConfigMap != nil:
		s := volume.ConfigMap
		return v.configMap(ctx, pod, s.Name, s.Items, modeOf(s.DefaultMode), s.Optional)
	case volume.Secret != nil:
		s := volume.Secret
		return v.secret(ctx, pod, s.SecretName, s.Items, modeOf(s.DefaultMode), s.Optional)
	case volume.DownwardAPI != nil:
		return v.downward(pod, volume.DownwardAPI.Items, modeOf(volume.DownwardAPI.DefaultMode))
	}
	all := map[string]file{}
	var errs []error
	for i := range volume.Projected.Sources {
		files, err := v.projection(ctx, pod, &volume.Projected.Sources[i], modeOf(volume.Projected.DefaultMode))
		if err != nil {
			errs = append(errs, err)
		}
		for path, f := range files {
			all[path] = f
		}
	}
	return all, errors.Join(errs...)
}

func modeOf(mode *int32) int32 {
	if mode == nil {
		return 0o644
	}
	return *mode
}

func (v *Volumes) projection(ctx context.Context, pod *v1.Pod, s *v1.VolumeProjection, mode int32) (map[string]file, error) {
	switch {
	case s.ConfigMap != nil:
		return v.configMap(ctx, pod, s.ConfigMap.Name, s.ConfigMap.Items, mode, s.ConfigMap.Optional)
	case s.Secret != nil:
		return v.secret(ctx, pod, s.Secret.Name, s.Secret.Items, mode, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return v.downward(pod, s.DownwardAPI.Items, mode)
	case s.ServiceAccountToken != nil:
		token, err := v.source.Token(ctx, pod, s.ServiceAccountToken)
		if err != nil {
			return nil, err
		}
		f := file{data: []byte(token), mode: mode}
		// A token is for the pod's own user, if there is just one (KEP-2451).
		if user := soleUser(pod); user != nil || fsGroup(pod) != nil {
			f.mode, f.uid = 0o600, user
		}
		return map[string]file{s.ServiceAccountToken.Path: f}, nil
	case s.ClusterTrustBundle != nil:
		return nil, fmt.Errorf("%w: clusterTrustBundle projections are not supported by this node", ErrUnsupported)
	}
	return nil, fmt.Errorf("%w: unknown kind of projection", ErrUnsupported)
}

// soleUser is the user that all containers run as, if their specs say so.
func soleUser(pod *v1.Pod) *int64 {
	var common *int64
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			user := (*int64)(nil)
			if pod.Spec.SecurityContext != nil {
				user = pod.Spec.SecurityContext.RunAsUser
			}
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				user = sc.RunAsUser
			}
			if user == nil || common != nil && *common != *user {
				return nil
			}
			common = user
		}
	}
	return common
}

func (v *Volumes) configMap(ctx context.Context, pod *v1.Pod, name string, items []v1.KeyToPath, mode int32, optional *bool) (map[string]file, error) {
	may := optional != nil && *optional
	cm, err := v.source.ConfigMap(ctx, pod.Namespace, name)
	if err != nil {
		if may && apierrors.IsNotFound(err) {
			return map[string]file{}, nil
		}
		return nil, err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, s := range cm.Data {
		data[k] = []byte(s)
	}
	for k, b := range cm.BinaryData {
		data[k] = b
	}
	return project(data, items, mode, may, "configmap references non-existent config key: ")
}

func (v *Volumes) secret(ctx context.Context, pod *v1.Pod, name string, items []v1.KeyToPath, mode int32, optional *bool) (map[string]file, error) {
	may := optional != nil && *optional
	s, err := v.source.Secret(ctx, pod.Namespace, name)
	if err != nil {
		if may && apierrors.IsNotFound(err) {
			return map[string]file{}, nil
		}
		return nil, err
	}
	return project(s.Data, items, mode, may, "references non-existent secret key: ")
}

// project selects keys and gives them paths; without items every key is a file of its name.
func project(data map[string][]byte, items []v1.KeyToPath, mode int32, optional bool, missing string) (map[string]file, error) {
	out := map[string]file{}
	if len(items) == 0 {
		for key, content := range data {
			out[key] = file{data: content, mode: mode}
		}
		return out, nil
	}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return nil, errors.New(missing + item.Key)
		}
		f := file{data: content, mode: mode}
		if item.Mode != nil {
			f.mode = *item.Mode
		}
		out[item.Path] = f
	}
	return out, nil
}

func (v *Volumes) downward(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, mode int32) (map[string]file, error) {
	out := map[string]file{}
	var errs []error
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = v.source.Field(pod, item.FieldRef)
		case item.ResourceFieldRef != nil:
			value, err = v.source.Resource(pod, item.ResourceFieldRef)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f := file{data: []byte(value), mode: mode}
		if item.Mode != nil {
			f.mode = *item.Mode
		}
		out[path.Clean(item.Path)] = f
	}
	return out, errors.Join(errs...)
}

// checkPath accepts relative paths that stay below, and don't start with "..",
// which is where the writer keeps its own.
func checkPath(p string) error {
	switch {
	case p == "":
		return errors.New("invalid path: must not be empty")
	case path.IsAbs(p):
		return fmt.Errorf("invalid path: must be relative path: %s", p)
	case strings.HasPrefix(p, ".."):
		return fmt.Errorf("invalid path: must not start with '..': %s", p)
	}
	for _, element := range strings.Split(p, "/") {
		if element == ".." {
			return fmt.Errorf("invalid path: must not contain '..': %s", p)
		}
	}
	return nil
}
