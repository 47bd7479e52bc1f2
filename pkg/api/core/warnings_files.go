package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// file is where a volume shows something, and what that comes from where a volume has several sources.
type file struct{ path, source string }

func (f file) String() string {
	if f.source == "" {
		return fmt.Sprintf("%q", f.path)
	}
	return fmt.Sprintf("%q (%s)", f.path, f.source)
}

// meets says whether one of two files would hide the other, or be a directory as well.
func (f file) meets(other file) bool {
	if f.path == "" || other.path == "" {
		return false
	}
	return strings.HasPrefix(f.path+"/", other.path+"/") || strings.HasPrefix(other.path+"/", f.path+"/")
}

// overlaps warns of files that can't all be in one volume.
func (w *warner) overlaps(volumes []corev1.Volume) {
	for i := range volumes {
		switch v := &volumes[i]; {
		case v.ConfigMap != nil:
			w.overlapping(v.Name, fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), keyFiles(v.ConfigMap.Items, ""))
		case v.Secret != nil:
			w.overlapping(v.Name, fmt.Sprintf("Secret %q", v.Secret.SecretName), keyFiles(v.Secret.Items, ""))
		case v.DownwardAPI != nil:
			w.overlapping(v.Name, "DownwardAPI", fieldFiles(v.DownwardAPI.Items, ""))
		case v.Projected != nil:
			var all []file
			for _, s := range v.Projected.Sources {
				if s == (corev1.VolumeProjection{}) {
					w.list = append(w.list, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
				}
				all = append(all, projectedFiles(s)...)
			}
			w.overlapping(v.Name, "Projected", all)
		}
	}
}

func projectedFiles(s corev1.VolumeProjection) []file {
	switch {
	case s.ConfigMap != nil:
		return keyFiles(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil:
		return keyFiles(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil:
		return fieldFiles(s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		return []file{{s.ServiceAccountToken.Path, "ServiceAccountToken"}}
	}
	return nil
}

func keyFiles(items []corev1.KeyToPath, source string) []file {
	var all []file
	for _, item := range items {
		all = append(all, file{item.Path, source})
	}
	return all
}

func fieldFiles(items []corev1.DownwardAPIVolumeFile, source string) []file {
	var all []file
	for _, item := range items {
		all = append(all, file{item.Path, source})
	}
	return all
}

func (w *warner) overlapping(volume, source string, files []file) {
	for i := range files {
		files[i].path = strings.TrimRight(files[i].path, "/")
		for _, before := range files[:i] {
			if files[i].meets(before) {
				w.list = append(w.list, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", volume, source, files[i], before))
			}
		}
	}
}
