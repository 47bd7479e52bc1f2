package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// Export copies what helps to find out what happened into dir: per node the
// logs of its processes and its pods and what its init was told, and from the API, where
// it answers, nodes, pods and events. Secrets and keys stay out. What can't be had is
// left out and named in the error, which comes after all the rest.
func Export(ctx context.Context, name, dir string, progress Progress) error {
	s, err := Get(name)
	if err != nil {
		return err
	}
	l := newLayout(name)
	return progress.do("Writing logs to "+dir, func() error {
		var problems []error
		for _, n := range s.Nodes {
			for from, to := range map[string]string{"log": "", "var/log/pods": "pods"} {
				problems = append(problems, copyTree(l.nodeFile(n.Name, from), filepath.Join(dir, n.Name, to)))
			}
			problems = append(problems, copyFile(l.nodeFile(n.Name, "init.json"), filepath.Join(dir, n.Name, "init.json")))
		}
		problems = append(problems, copyFile(l.specFile(), filepath.Join(dir, "cluster.json")), exportObjects(ctx, l, dir))
		return errors.Join(problems...)
	})
}

// copyTree copies regular files; a source that isn't there is an empty one.
func copyTree(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rest), 0o755)
		case d.Type().IsRegular():
			return copyFile(path, filepath.Join(to, rest))
		}
		return nil
	})
}

func exportObjects(ctx context.Context, l layout, dir string) error {
	api, err := connectAPI(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for file, list := range map[string]func() (runtime.Object, error){
		"nodes.yaml": func() (runtime.Object, error) { return api.CoreV1().Nodes().List(ctx, metav1.ListOptions{}) },
		"pods.yaml": func() (runtime.Object, error) {
			return api.CoreV1().Pods(v1.NamespaceAll).List(ctx, metav1.ListOptions{})
		},
		"events.yaml": func() (runtime.Object, error) {
			return api.CoreV1().Events(v1.NamespaceAll).List(ctx, metav1.ListOptions{})
		},
	} {
		objects, err := list()
		if err != nil {
			return fmt.Errorf("the API does not answer, so %s is missing: %w", file, err)
		}
		text, err := yaml.Marshal(objects)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
