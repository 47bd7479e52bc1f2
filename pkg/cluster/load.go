package cluster

import (
	"context"
	"fmt"
	"os"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// imageNamespace is containerd's namespace of Kubernetes' images and containers.
const imageNamespace = "k8s.io"

// Load imports image archives (of `docker save`, or OCI layouts in a tar) into
// every running node, and returns the names that were imported.
func Load(ctx context.Context, name string, archives []string, progress Progress) ([]string, error) {
	var images []string
	return images, withNodes(name, "", func(s *Spec, l layout, nodes []Node) error {
		seen := map[string]bool{}
		for _, n := range nodes {
			err := progress.do("Loading "+counted(len(archives), "archive")+" into "+n.Name, func() error {
				names, err := loadInto(ctx, l, n, archives)
				for _, name := range names {
					if !seen[name] {
						seen[name] = true
						images = append(images, name)
					}
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func loadInto(ctx context.Context, l layout, n Node, archives []string) ([]string, error) {
	pid := runningInit(l, n.Name)
	if pid == 0 {
		return nil, fmt.Errorf("node %s is not running", n.Name)
	}
	client, err := containerd.New(fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", pid), containerd.WithTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("containerd of %s: %w", n.Name, err)
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, imageNamespace)
	var names []string
	for _, archive := range archives {
		file, err := os.Open(archive)
		if err != nil {
			return names, err
		}
		imported, err := client.Import(ctx, file)
		file.Close()
		if err != nil {
			return names, fmt.Errorf("import %s: %w", archive, err)
		}
		for _, i := range imported {
			names = append(names, i.Name)
			if err := containerd.NewImage(client, i).Unpack(ctx, ""); err != nil {
				return names, fmt.Errorf("unpack %s: %w", i.Name, err)
			}
		}
	}
	return names, nil
}
