package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"
)

func ptr[T any](v T) *T { return &v }

// dump lists a directory: files with mode and content, links with their target,
// and the writer's own directory as "DATA".
func dump(t testing.TB, dir string) string {
	var lines []string
	data, _ := os.Readlink(filepath.Join(dir, "..data"))
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		if data != "" {
			name = strings.Replace(name, data, "DATA", 1)
		}
		info, _ := d.Info()
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			if data != "" {
				target = strings.Replace(target, data, "DATA", 1)
			}
			lines = append(lines, name+" -> "+target)
		case d.IsDir():
			lines = append(lines, name+"/")
		default:
			b, _ := os.ReadFile(p)
			lines = append(lines, fmt.Sprintf("%s %o %s", name, info.Mode().Perm(), b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	f := func(s string) file { return file{data: []byte(s), mode: 0o640} }
	for _, step := range []struct {
		files map[string]file
		want  string
	}{
		{map[string]file{"a": f("1"), "d/b": f("2")}, "..data -> DATA\nDATA/\nDATA/a 640 1\nDATA/d/\nDATA/d/b 640 2\na -> ..data/a\nd -> ..data/d"},
		{map[string]file{"a": f("1"), "d/b": f("3")}, "..data -> DATA\nDATA/\nDATA/a 640 1\nDATA/d/\nDATA/d/b 640 3\na -> ..data/a\nd -> ..data/d"},
		{map[string]file{"c": f("4")}, "..data -> DATA\nDATA/\nDATA/c 640 4\nc -> ..data/c"},
		{map[string]file{}, "..data -> DATA\nDATA/"},
	} {
		if err := write(dir, step.files, nil); err != nil {
			t.Fatal(err)
		}
		if got := dump(t, dir); got != step.want {
			t.Errorf("got\n%s\nwant\n%s", got, step.want)
		}
		before, _ := os.Readlink(dir + "/..data")
		if err := write(dir, step.files, nil); err != nil {
			t.Fatal(err)
		}
		if after, _ := os.Readlink(dir + "/..data"); after != before {
			t.Error("the same content was written again")
		}
	}
	for _, bad := range []string{"", "/a", "../a", "a/../b", "..x"} {
		if err := write(dir, map[string]file{bad: {}}, nil); err == nil {
			t.Errorf("path %q is taken", bad)
		}
	}
}

// Whatever was there before, after a write just the wanted files are seen.
func TestWriteReplaces(t *testing.T) {
	names := rapid.SampledFrom([]string{"a", "b", "a.d/x", "d/x", "d/y", "e/f/g"})
	content := rapid.MapOfN(names, rapid.String(), 0, 5)
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		for range 3 {
			want := content.Draw(rt, "content")
			files := map[string]file{}
			for name, s := range want {
				files[name] = file{data: []byte(s), mode: 0o644}
			}
			if err := write(dir, files, nil); err != nil {
				rt.Fatal(err)
			}
			for _, name := range []string{"a", "b", "a.d/x", "d/x", "d/y", "e/f/g"} {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if s, ok := want[name]; ok && (err != nil || string(b) != s) || !ok && err == nil {
					rt.Fatalf("%s: %q, %v; want %q, %v", name, b, err, s, ok)
				}
			}
		}
	})
}

type objects struct{}

func (objects) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if name != "cm" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
	}
	return &v1.ConfigMap{Data: map[string]string{"a": "1"}, BinaryData: map[string][]byte{"b": {2}}}, nil
}
func (objects) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}
func (objects) Token(context.Context, *v1.Pod, *v1.ServiceAccountTokenProjection) (string, error) {
	return "token", nil
}
func (objects) Field(*v1.Pod, *v1.ObjectFieldSelector) (string, error)      { return "field", nil }
func (objects) Resource(*v1.Pod, *v1.ResourceFieldSelector) (string, error) { return "7", nil }

func TestPayload(t *testing.T) {
	name := func(s string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: s} }
	for _, c := range []struct {
		source v1.VolumeSource
		want   string
	}{
		{v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: name("cm")}}, "a=1:644 b=\x02:644"},
		{v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: name("cm"), DefaultMode: ptr(int32(0o400)), Items: []v1.KeyToPath{{Key: "a", Path: "x/y", Mode: ptr(int32(0o777))}}}}, "x/y=1:777"},
		{v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: name("cm"), Items: []v1.KeyToPath{{Key: "no", Path: "x"}}}}, "configmap references non-existent config key: no"},
		{v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: name("no")}}, `configmaps "no" not found`},
		{v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "no", Optional: ptr(true)}}, ""},
		{v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: name("cm")}},
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "t"}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "f", FieldRef: &v1.ObjectFieldSelector{}}, {Path: "r", ResourceFieldRef: &v1.ResourceFieldSelector{}}}}},
		}}}, "a=1:644 b=\x02:644 f=field:644 r=7:644 t=token:600"},
		{v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{}}}}}, ErrUnsupported.Error()},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{RunAsUser: ptr(int64(7))}, Containers: []v1.Container{{Name: "c"}}}}
		files, err := New(t.TempDir(), objects{}).payload(context.Background(), pod, &v1.Volume{VolumeSource: c.source})
		var parts []string
		for path, f := range files {
			parts = append(parts, fmt.Sprintf("%s=%s:%o", path, f.data, f.mode))
		}
		slices.Sort(parts)
		got := strings.Join(parts, " ")
		if err != nil {
			got = err.Error()
		}
		if got != c.want && !(err != nil && strings.Contains(got, c.want) && c.want != "") {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind v1.HostPathType
		path string
		want string
	}{
		{v1.HostPathUnset, "made", ""}, {v1.HostPathDirectory, "made", ""}, {v1.HostPathDirectoryOrCreate, "too", ""},
		{v1.HostPathFile, "file", ""}, {v1.HostPathFileOrCreate, "new", ""},
		{v1.HostPathDirectory, "file", "hostPath type check failed: %s is not a directory"},
		{v1.HostPathDirectory, "none", "hostPath type check failed: %s is not a directory"},
		{v1.HostPathFile, "made", "hostPath type check failed: %s is not a file"},
		{v1.HostPathSocket, "file", "hostPath type check failed: %s is not a socket file"},
		{v1.HostPathCharDev, "file", "hostPath type check failed: %s is not a character device"},
		{v1.HostPathBlockDev, "file", "hostPath type check failed: %s is not a block device"},
	} {
		path := filepath.Join(dir, c.path)
		want := c.want
		if want != "" {
			want = fmt.Sprintf(want, path)
		}
		_, err := hostPath(&v1.HostPathVolumeSource{Path: path, Type: &c.kind})
		if got := fmt.Sprint(err); err == nil && want != "" || err != nil && got != want {
			t.Errorf("%s %s: %v, want %q", c.kind, c.path, err, want)
		}
	}
}

func TestOpenBeneathStaysBeneath(t *testing.T) {
	dir := t.TempDir()
	volume := dir + "/volume"
	for _, err := range []error{os.MkdirAll(volume+"/sub", 0o755), os.Symlink("..", volume+"/up"), os.Symlink("/etc", volume+"/etc"), os.Symlink("sub", volume+"/ok"), os.WriteFile(volume+"/file", nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for sub, good := range map[string]bool{
		"sub": true, "ok": true, "file": true, "new/deep/er": true, "ok/new": true, "sub/../file": true,
		"up": false, "up/x": false, "etc": false, "etc/passwd": false, "..": false, "../other": false, "/etc": false, "sub/../../x": false,
	} {
		fd, err := openBeneath(volume, sub)
		if (err == nil) != good {
			t.Errorf("%s: %v", sub, err)
		}
		if err == nil {
			os.NewFile(uintptr(fd), sub).Close()
		}
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 1 {
		t.Errorf("something was made outside the volume: %v", left)
	}
	if info, err := os.Stat(volume + "/sub/new"); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("a made directory: %v %v", info, err)
	}
}

func TestMountReportsEachVolume(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: v1.PodSpec{
		Containers: []v1.Container{{VolumeMounts: []v1.VolumeMount{{Name: "claim"}, {Name: "empty"}}}},
		Volumes: []v1.Volume{
			{Name: "claim", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}}},
			{Name: "empty", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
			{Name: "unused", VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{}}},
		}}}
	v := New(t.TempDir(), objects{})
	paths, err := v.Mount(context.Background(), pod)
	if !errors.Is(err, ErrUnsupported) || err.Error() != `MountVolume.SetUp failed for volume "claim" : no volume plugin matched: persistentVolumeClaim volumes are not supported by this node` {
		t.Errorf("error %v", err)
	}
	if want := v.PodDir("u") + "/volumes/kubernetes.io~empty-dir/empty"; len(paths) != 1 || paths["empty"] != want {
		t.Errorf("paths %v", paths)
	}
	if info, err := os.Stat(paths["empty"]); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("emptyDir %v %v", info, err)
	}
	if err := v.Unmount("u"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(v.PodDir("u")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	for _, bad := range []string{"", "..", "a/b"} {
		if v.Unmount(bad) == nil {
			t.Errorf("unmounts %q", bad)
		}
	}
}
