package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// RevisionBump is how far revisions jump when data of the past are brought back. Clients have seen
// revisions that the restored data don't have; afterwards every new one is greater than
// any of those, and all before are compacted, so that every watch begins anew with a list.
const RevisionBump = 1_000_000_000

// Snapshot writes all data of the cluster to file, as the leader has them (another member where there is
// none), and checks what it wrote against the hash that the member sends along. file appears when
// it is complete and on disk, or not at all.
func Snapshot(ctx context.Context, client *clientv3.Client, file string) error {
	err := replace(file, func(f *os.File) error { return stream(ctx, client, f) })
	if err != nil {
		return fmt.Errorf("snapshot of etcd to %s: %w", file, plain(err))
	}
	return nil
}

func stream(ctx context.Context, client *clientv3.Client, f *os.File) error {
	copyTo := func(m clientv3.Maintenance) error {
		r, err := m.SnapshotWithVersion(ctx)
		if err != nil {
			return err
		}
		defer r.Snapshot.Close()
		if _, err := io.Copy(f, r.Snapshot); err != nil {
			return err
		}
		_, err = verify(f)
		return err
	}
	members, err := Members(ctx, client)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(members, func(m MemberStatus) bool { return m.Leader })
	if i < 0 || inProcess(client) {
		return copyTo(client.Maintenance)
	}
	return at(client, members[i].ClientURLs[0], func(leader etcdserverpb.MaintenanceClient) error {
		return copyTo(clientv3.NewMaintenanceFromMaintenanceClient(leader, client))
	})
}

// verify checks a snapshot against the hash at its end, and returns that.
func verify(f *os.File) ([]byte, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if size%512 != sha256.Size { // a database is whole pages
		return nil, fmt.Errorf("%d bytes are no complete snapshot of etcd", size)
	}
	want := make([]byte, sha256.Size)
	if _, err := f.ReadAt(want, size-sha256.Size); err != nil {
		return nil, err
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, io.NewSectionReader(f, 0, size-sha256.Size)); err != nil {
		return nil, err
	}
	if !bytes.Equal(hash.Sum(nil), want) {
		return nil, errors.New("the snapshot is damaged: its content doesn't match its hash")
	}
	return want, nil
}

// replace writes a file beside its place and moves it there when it is on disk.
func replace(file string, write func(*os.File) error) error {
	f, err := os.OpenFile(file+".part", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) // it holds every secret
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// RestoreConfig says what a cluster is made from.
type RestoreConfig struct {
	// Config is that of the member to [Start] afterwards: its DataDir, Name, Peers and InitialCluster
	// count here. The default Token is derived from the snapshot: equal for all who
	// restore it, and another one than that of the cluster it was taken from, whose members can't get mixed in.
	Config
	Snapshot string // a file of [Snapshot] or etcdctl
	// Bump is added to the revisions; 0 is [RevisionBump].
	Bump uint64
}

// Restore makes the data directory of one member of a new cluster from a snapshot. Every member of
// Config.InitialCluster has to restore the same one before any of them starts. It refuses a
// directory that has data, and may be repeated when it was killed.
func Restore(config RestoreConfig) error {
	file, err := os.Open(config.Snapshot)
	if err != nil {
		return fmt.Errorf("restoring etcd: %w", err)
	}
	hash, err := verify(file)
	file.Close()
	if err != nil {
		return fmt.Errorf("restoring etcd from %s: %w", config.Snapshot, err)
	}
	if config.Token == "" {
		config.Token = fmt.Sprintf("skiff-%x", hash[:8])
	}
	config.Config = config.withDefaults()
	if hasMember(config.DataDir) {
		return fmt.Errorf("restoring etcd: %s holds a member already: stop it and move %s away first", config.DataDir, filepath.Join(config.DataDir, "member"))
	}
	if err := makePrivate(config.DataDir); err != nil {
		return fmt.Errorf("restoring etcd: %w", err)
	}
	made := filepath.Join(config.DataDir, "restoring")
	if err := config.build(made, false); err != nil {
		return fmt.Errorf("restoring etcd from %s: %w", config.Snapshot, err)
	}
	if err := os.Rename(filepath.Join(made, "member"), filepath.Join(config.DataDir, "member")); err != nil {
		return fmt.Errorf("restoring etcd: %w", err)
	}
	return errors.Join(os.Remove(made), syncDir(config.DataDir))
}

// build makes a member's directory in dir, in place of what a killed run may have left there. raw is a
// database out of a data directory, which has no hash at its end.
func (c RestoreConfig) build(dir string, raw bool) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	embedded, err := c.embed(nil)
	if err != nil {
		return err
	}
	var peers []string
	for _, u := range embedded.AdvertisePeerUrls {
		peers = append(peers, u.String())
	}
	bump := c.Bump
	if bump == 0 {
		bump = RevisionBump
	}
	return snapshot.NewV3(c.zap()).Restore(snapshot.RestoreConfig{
		SnapshotPath: c.Snapshot, SkipHashCheck: raw,
		OutputDataDir: dir, Name: c.Name, PeerURLs: peers,
		InitialCluster: embedded.InitialCluster, InitialClusterToken: c.Token,
		RevisionBump: bump, MarkCompacted: true,
	})
}

// zap is etcd's logger for what runs without a server.
func (c Config) zap() *zap.Logger {
	log := c.Log
	if log == nil {
		log = slog.Default()
	}
	return zap.New(slogCore{log: log})
}

// hasMember tells whether a member has begun its life in a data directory, as etcd itself decides it.
func hasMember(dataDir string) bool { return wal.Exist(filepath.Join(dataDir, "member", "wal")) }
