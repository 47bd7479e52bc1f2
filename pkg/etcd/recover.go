package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// RecoverConfig says which member to recover.
type RecoverConfig struct {
	DataDir string
	// Bump is added to the revisions; 0 is [RevisionBump].
	Bump uint64
	Log  *slog.Logger // nil is slog.Default()
}

// Recovered tells what [Recover] made.
type Recovered struct {
	Name     string
	PeerURLs []string
	Backup   string // the directory that holds the data as they were
}

// Recover makes a cluster of one out of a stopped member whose cluster has lost its quorum for
// good: the same name, peer URLs and data, but the identity of another cluster. [Start] it as
// ever, then let the others [Join] with empty directories. They must never start on their
// old ones again: a majority of them would be the old cluster.
//
// All that the member has in its log counts as committed, since it may be: a leader acknowledges
// a write when most have it, and tells them afterwards. What only the others had is lost, so
// revisions jump, to where no client has been before.
//
// It works on a copy that takes the place of the original in one step, so that it can be killed and repeated.
func Recover(ctx context.Context, config RecoverConfig) (Recovered, error) {
	r, err := config.recover(ctx)
	if err != nil {
		return Recovered{}, fmt.Errorf("recovering the etcd member in %s: %w", config.DataDir, err)
	}
	return r, nil
}

func (c RecoverConfig) recover(ctx context.Context) (Recovered, error) {
	original := filepath.Join(c.DataDir, "member")
	if !hasMember(c.DataDir) {
		return Recovered{}, errors.New("there is none")
	}
	lock, err := lockMember(original)
	if err != nil {
		return Recovered{}, err
	}
	defer lock.Close()

	work := filepath.Join(c.DataDir, "recovering")
	if err := errors.Join(os.RemoveAll(work), makePrivate(work)); err != nil {
		return Recovered{}, err
	}
	defer os.RemoveAll(work)
	copied := Config{DataDir: filepath.Join(work, "copy"), Log: c.Log}
	dir := filepath.Join(copied.DataDir, "member")
	err = errors.Join(os.CopyFS(dir, os.DirFS(original)), makePrivate(dir), makePrivate(filepath.Join(dir, "snap")))
	if err != nil {
		return Recovered{}, err
	}
	own, err := commitLog(dir, copied.zap())
	if err != nil {
		return Recovered{}, err
	}
	if own.IsLearner {
		return Recovered{}, errors.New("it has no vote yet and may lack data: recover another one")
	}

	// What is committed gets into the database by running it.
	copied.Name, copied.forceNew = own.Name, true
	member, err := Start(ctx, copied)
	if err != nil {
		return Recovered{}, err
	}
	member.Close()

	made := RestoreConfig{Snapshot: filepath.Join(dir, "snap", "db"), Bump: c.Bump,
		Config: Config{Name: own.Name, DataDir: c.DataDir, Token: rand.Text(), Log: c.Log, Peers: Endpoint{Advertise: own.PeerURLs}}}
	if err := made.build(filepath.Join(work, "new"), true); err != nil {
		return Recovered{}, err
	}
	backup, err := exchange(original, filepath.Join(work, "new", "member"))
	return Recovered{Name: own.Name, PeerURLs: own.PeerURLs, Backup: backup}, err
}

// lockMember keeps a member from being started, with the lock that its database takes.
func lockMember(dir string) (*os.File, error) {
	f, err := os.Open(filepath.Join(dir, "snap", "db"))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("it is running: stop it first (%w)", err)
	}
	return f, nil
}

// exchange puts made in the place of original, which goes to a directory beside it.
func exchange(original, made string) (backup string, err error) {
	backup = original + "-before-" + time.Now().UTC().Format("20060102T150405.000")
	if err := os.Rename(made, backup); err != nil {
		return "", err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, backup, unix.AT_FDCWD, original, unix.RENAME_EXCHANGE); err != nil {
		return "", fmt.Errorf("putting %s in the place of %s: %w", backup, original, err)
	}
	return backup, syncDir(filepath.Dir(original))
}

// commitLog marks all entries of a log as committed (a start with force-new-cluster would throw
// away those that aren't), and returns whose log it is.
func commitLog(dir string, log *zap.Logger) (*membership.Member, error) {
	metadata, err := commitEntries(filepath.Join(dir, "wal"), log)
	if errors.Is(err, io.ErrUnexpectedEOF) && wal.Repair(log, filepath.Join(dir, "wal")) { // torn by a power cut
		metadata, err = commitEntries(filepath.Join(dir, "wal"), log)
	}
	if err != nil {
		return nil, err
	}
	var identity etcdserverpb.Metadata
	if err := proto.Unmarshal(metadata, &identity); err != nil {
		return nil, err
	}
	b := backend.NewDefaultBackend(log, filepath.Join(dir, "snap", "db"))
	defer b.Close()
	members, _ := schema.NewMembershipBackend(log, b).MustReadMembersFromBackend()
	own := members[types.ID(identity.GetNodeID())]
	if own == nil {
		return nil, errors.New("it has not finished joining its cluster")
	}
	if own.Name == "" {
		own.Name = own.ID.String()
	}
	return own, nil
}

func commitEntries(dir string, log *zap.Logger) (metadata []byte, err error) {
	snapshots, err := wal.ValidSnapshotEntries(log, dir)
	if err != nil {
		return nil, err
	}
	last := &walpb.Snapshot{}
	if len(snapshots) > 0 {
		last = snapshots[len(snapshots)-1]
	}
	w, err := wal.Open(log, dir, last)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	metadata, state, entries, err := w.ReadAll()
	if err != nil || len(entries) == 0 {
		return metadata, err
	}
	state.Commit = entries[len(entries)-1].Index
	return metadata, w.Save(state, nil)
}
