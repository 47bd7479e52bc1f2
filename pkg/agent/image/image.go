// Package image finds, pulls and describes the images of containers, through
// containerd's client.
//
// An image is either present (pulled before, or loaded from an archive into
// containerd's namespace k8s.io), or it is pulled: with the credentials of the
// pod's image pull secrets, from the hosts that the node's configuration names
// for its registry (certs.d, see hosts.go). When to pull, and when to try again,
// is the pod worker's decision; this package has no policy.
//
// Images for other platforms than the node's, and credential provider plugins,
// are not supported.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Errors that a pod worker tells apart.
var (
	ErrNotPresent  = errors.New("image is not present")
	ErrInvalidName = errors.New("invalid image name")
)

// Image is what a container needs to know of its image.
type Image struct {
	Name    string // normalised reference: "docker.io/library/busybox:1.36"
	ID      string // what stands in a container's status: repository@digest if pulled, else the config's digest
	Digest  string // of the config: "sha256:…"
	ChainID string // the snapshot of its unpacked layers
	Size    int64  // bytes of the compressed content
	Config  ocispec.ImageConfig
}

// pulledLabel marks images that came from a registry, whose digest there is
// therefore worth telling.
const pulledLabel = "skiff.pulled"

// criLabel is the mark of images that a kubelet's CRI plugin has pulled.
const criLabel = "io.cri-containerd.image"

// Store is the node's images. Its methods may be called concurrently.
type Store struct {
	client      *containerd.Client
	config      Config
	mu          sync.Mutex
	byTarget    map[digest.Digest]Image // without Name and ID
	pulls       map[string]*pull
	pullSlots   chan struct{}
	snapshotter string
}

// Config of a Store; the zero value is good.
type Config struct {
	// HostsDir holds a directory per registry host with its hosts.toml, as
	// containerd has it ("/etc/containerd/certs.d").
	HostsDir string
	// MaxParallelPulls bounds how many images are pulled at once; 0 is 5.
	MaxParallelPulls int
	Snapshotter      string // "overlayfs" if empty
}

// NewStore serves the images that client's containerd holds.
func NewStore(client *containerd.Client, config Config) *Store {
	if config.MaxParallelPulls == 0 {
		config.MaxParallelPulls = 5
	}
	if config.Snapshotter == "" {
		config.Snapshotter = "overlayfs"
	}
	return &Store{
		client: client, config: config, snapshotter: config.Snapshotter,
		byTarget:  map[digest.Digest]Image{},
		pulls:     map[string]*pull{},
		pullSlots: make(chan struct{}, config.MaxParallelPulls),
	}
}

// Normalize makes "busybox" "docker.io/library/busybox:latest".
func Normalize(name string) (string, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("%w: couldn't parse image name %q: %w", ErrInvalidName, name, err)
	}
	return ref.String(), nil
}

// Get finds an image that is present, unpacked or not. The error is
// ErrNotPresent or ErrInvalidName, or one of containerd's.
func (s *Store) Get(ctx context.Context, name string) (Image, error) {
	normal, err := Normalize(name)
	if err != nil {
		return Image{}, err
	}
	record, err := s.client.ImageService().Get(ctx, normal)
	if errdefs.IsNotFound(err) {
		return Image{}, fmt.Errorf("%s: %w", name, ErrNotPresent)
	}
	if err != nil {
		return Image{}, fmt.Errorf("get image %s: %w", name, err)
	}
	image, err := s.describe(ctx, record)
	if errdefs.IsNotFound(err) { // a record whose content is not all here
		return Image{}, fmt.Errorf("%s: %w: %w", name, ErrNotPresent, err)
	}
	return image, err
}

// describe reads an image's config, once per target.
func (s *Store) describe(ctx context.Context, record images.Image) (Image, error) {
	s.mu.Lock()
	image, ok := s.byTarget[record.Target.Digest]
	s.mu.Unlock()
	if !ok {
		var err error
		if image, err = s.read(ctx, record); err != nil {
			return image, fmt.Errorf("read image %s: %w", record.Name, err)
		}
		s.mu.Lock()
		s.byTarget[record.Target.Digest] = image
		s.mu.Unlock()
	}
	image.Name, image.ID = record.Name, image.Digest
	if record.Labels[pulledLabel] != "" || record.Labels[criLabel] != "" {
		if ref, err := reference.ParseNormalizedNamed(record.Name); err == nil {
			image.ID = reference.TrimNamed(ref).String() + "@" + record.Target.Digest.String()
		}
	}
	return image, nil
}

func (s *Store) read(ctx context.Context, record images.Image) (Image, error) {
	store := s.client.ContentStore()
	platform := platforms.Default()
	manifest, err := images.Manifest(ctx, store, record.Target, platform)
	if err != nil {
		return Image{}, err
	}
	blob, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		return Image{}, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(blob, &config); err != nil {
		return Image{}, err
	}
	size := manifest.Config.Size
	for _, l := range manifest.Layers {
		size += l.Size
	}
	return Image{
		Digest:  manifest.Config.Digest.String(),
		ChainID: identity.ChainID(config.RootFS.DiffIDs).String(),
		Size:    size,
		Config:  config.Config,
	}, nil
}

// Unpack makes sure that an image's layers are unpacked.
func (s *Store) Unpack(ctx context.Context, image Image) error {
	if _, err := s.client.SnapshotService(s.snapshotter).Stat(ctx, image.ChainID); err == nil {
		return nil
	}
	record, err := s.client.ImageService().Get(ctx, image.Name)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", image.Name, err)
	}
	if err := containerd.NewImage(s.client, record).Unpack(ctx, s.snapshotter); err != nil {
		return fmt.Errorf("unpack %s: %w", image.Name, err)
	}
	return nil
}

// Listed is an image as it stands in a node's status: all its names, and its size.
type Listed struct {
	Names []string
	Size  int64
}

// List returns the images that are present, by config digest.
func (s *Store) List(ctx context.Context) ([]Listed, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	index := map[string]int{}
	var out []Listed
	for _, record := range records {
		image, err := s.describe(ctx, record)
		if err != nil {
			continue // of another platform, or incomplete
		}
		i, ok := index[image.Digest]
		if !ok {
			i = len(out)
			index[image.Digest] = i
			out = append(out, Listed{Size: image.Size})
		}
		if image.ID != image.Digest {
			out[i].Names = append(out[i].Names, image.ID)
		}
		if image.Name != image.ID {
			out[i].Names = append(out[i].Names, image.Name)
		}
	}
	return out, nil
}
