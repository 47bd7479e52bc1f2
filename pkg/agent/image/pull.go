package image

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// pull is one pull that several pods may wait for.
type pull struct {
	done  chan struct{}
	image Image
	err   error
}

// Pull fetches and unpacks an image, trying the given credentials in turn (or
// none, when none are given). Pulls of one image with the same credentials are
// one pull. A cancelled ctx stops the waiting; the pull itself goes on for others.
func (s *Store) Pull(ctx context.Context, name string, auths []Auth) (Image, error) {
	normal, err := Normalize(name)
	if err != nil {
		return Image{}, err
	}
	key := fmt.Sprint(normal, auths)
	s.mu.Lock()
	p, running := s.pulls[key]
	if !running {
		p = &pull{done: make(chan struct{})}
		s.pulls[key] = p
		go s.run(context.WithoutCancel(ctx), p, key, normal, auths)
	}
	s.mu.Unlock()
	select {
	case <-p.done:
		return p.image, p.err
	case <-ctx.Done():
		return Image{}, ctx.Err()
	}
}

func (s *Store) run(ctx context.Context, p *pull, key, name string, auths []Auth) {
	s.pullSlots <- struct{}{}
	p.image, p.err = s.pull(ctx, name, auths)
	<-s.pullSlots
	s.mu.Lock()
	delete(s.pulls, key)
	s.mu.Unlock()
	close(p.done)
}

func (s *Store) pull(ctx context.Context, name string, auths []Auth) (Image, error) {
	if len(auths) == 0 {
		auths = []Auth{{}}
	}
	var failure error
	for _, auth := range auths {
		pulled, err := s.client.Pull(ctx, name,
			containerd.WithPullUnpack,
			containerd.WithPullSnapshotter(s.snapshotter),
			containerd.WithResolver(s.resolver(auth)),
			containerd.WithMaxConcurrentDownloads(3),
			containerd.WithPullLabel(pulledLabel, "true"))
		if err != nil {
			failure = err
			continue
		}
		record := pulled.Metadata()
		if err := s.nameByDigest(ctx, record); err != nil {
			return Image{}, err
		}
		return s.describe(ctx, record)
	}
	return Image{}, fmt.Errorf("failed to pull and unpack image %q: %w", name, failure)
}

func (s *Store) resolver(auth Auth) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: registryHosts(s.config.HostsDir, func(string) (string, string, error) {
			if auth.IdentityToken != "" {
				return "", auth.IdentityToken, nil
			}
			return auth.Username, auth.Password, nil
		}),
	})
}

// nameByDigest records the image under its digest too, so that a pod that
// names it so finds it.
func (s *Store) nameByDigest(ctx context.Context, record images.Image) error {
	ref, err := reference.ParseNormalizedNamed(record.Name)
	if err != nil {
		return err
	}
	record.Name = reference.TrimNamed(ref).String() + "@" + record.Target.Digest.String()
	_, err = s.client.ImageService().Create(ctx, record)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("record image %s: %w", record.Name, err)
	}
	return nil
}
