// Command image builds a container image archive without a registry or a
// daemon: one layer with the files named, and busybox on request.
//
//	image -name skiff.local/hello:1 -busybox -add bin/hello:/hello -entrypoint /hello -o hello.tar
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	var add, entrypoint list
	out := flag.String("o", "image.tar", "the archive to write")
	image := flag.String("name", "", "the image's name and tag")
	busybox := flag.Bool("busybox", false, "add busybox under all its names")
	flag.Var(&add, "add", "FILE:PATH, a file and where it goes (repeatable)")
	flag.Var(&entrypoint, "entrypoint", "the program, and its arguments (repeatable)")
	flag.Parse()
	if err := run(*out, *image, *busybox, add, entrypoint); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(out, image string, busybox bool, add, entrypoint []string) error {
	tag, err := name.NewTag(image)
	if err != nil {
		return err
	}
	layer, err := layer(busybox, add)
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: "amd64", OS: "linux",
		RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs(layer)},
		Config: v1.Config{Entrypoint: entrypoint, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
	})
	if err != nil {
		return err
	}
	return tarball.WriteToFile(out, tag, img)
}

func diffIDs(l v1.Layer) []v1.Hash {
	id, err := l.DiffID()
	if err != nil {
		return nil
	}
	return []v1.Hash{id}
}

// layer is a tar of the files, in an order and with times that don't change
// from one build to the next.
func layer(busybox bool, add []string) (v1.Layer, error) {
	files := map[string][]byte{}
	links := map[string]string{}
	for _, a := range add {
		from, to, ok := strings.Cut(a, ":")
		if !ok {
			return nil, fmt.Errorf("-add %s: want FILE:PATH", a)
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		files[to] = data
	}
	if busybox {
		program, err := exec.LookPath("busybox")
		if err != nil {
			return nil, err
		}
		if files["/bin/busybox"], err = os.ReadFile(program); err != nil {
			return nil, err
		}
		applets, err := exec.Command(program, "--list").Output()
		if err != nil {
			return nil, err
		}
		for _, applet := range strings.Fields(string(applets)) {
			if applet != "busybox" {
				links["/bin/"+applet] = "busybox"
			}
		}
	}
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, dir := range directories(files) {
		mode := int64(0o755)
		if dir == "/tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: mode}); err != nil {
			return nil, err
		}
	}
	files["/etc/passwd"] = []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	files["/etc/group"] = []byte("root:x:0:\nnobody:x:65534:\n")
	for _, file := range sorted(files) {
		mode := int64(0o755)
		if strings.HasPrefix(file, "/etc/") {
			mode = 0o644
		}
		if err := w.WriteHeader(&tar.Header{Name: file[1:], Mode: mode, Size: int64(len(files[file]))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[file]); err != nil {
			return nil, err
		}
	}
	for _, link := range sorted(links) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: link[1:], Linkname: links[link], Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	})
}

// directories are those that the files need, and the ones any program expects.
func directories(files map[string][]byte) []string {
	dirs := map[string]bool{"/tmp": true, "/etc": true, "/root": true, "/bin": true}
	for file := range files {
		for dir := path.Dir(file); dir != "/"; dir = path.Dir(dir) {
			dirs[dir] = true
		}
	}
	return sorted(dirs)
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
