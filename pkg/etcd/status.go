package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
)

// askTimeout is how long one member may take to say how it is.
const askTimeout = 2 * time.Second

// MemberStatus is one member: how its cluster lists it, and what it says of itself.
type MemberStatus struct {
	ID                   uint64
	Name                 string // empty: added, and not started yet
	PeerURLs, ClientURLs []string
	Learner              bool // without a vote

	// Err says why the member doesn't answer; what follows is empty then.
	Err             error
	Leader          bool
	Version         string
	DBSize, DBInUse int64 // bytes: of the file, and of what a defragmentation would leave
	Quota           int64
	Term            uint64
	Index, Applied  uint64 // raft's: known to be committed, and applied
	Alarms          []string
}

// String names the member for people.
func (m MemberStatus) String() string {
	if m.Name == "" {
		return fmt.Sprintf("%x (%s)", m.ID, strings.Join(m.PeerURLs, ","))
	}
	return m.Name
}

// errNotAsked is the Err of other members where the client calls into its own process.
var errNotAsked = errors.New("only its own process could ask it")

// Members asks every member how it is, all at once. One that can't be reached is a row with an
// Err; an error means that no member gave a list. It works without a quorum: then the list is
// what one member knows.
func Members(ctx context.Context, client *clientv3.Client) ([]MemberStatus, error) {
	listCtx, cancel := context.WithTimeout(ctx, 2*askTimeout) // one silent member may be tried first
	defer cancel()
	list, err := client.MemberList(listCtx, clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("no etcd member answers (tried %s): %w", strings.Join(client.Endpoints(), ", "), plain(err))
	}
	members := make([]MemberStatus, len(list.Members))
	var asking sync.WaitGroup
	for i, m := range list.Members {
		members[i] = MemberStatus{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner}
		asking.Go(func() { members[i].ask(ctx, client) })
	}
	asking.Wait()
	slices.SortFunc(members, func(a, b MemberStatus) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return members, nil
}

func (m *MemberStatus) ask(ctx context.Context, client *clientv3.Client) {
	answer, err := m.status(ctx, client)
	if err != nil {
		m.Err = plain(err)
		return
	}
	m.Leader, m.Version = answer.Leader == m.ID, answer.Version
	m.DBSize, m.DBInUse, m.Quota = answer.DbSize, answer.DbSizeInUse, answer.DbSizeQuota
	m.Term, m.Index, m.Applied = answer.RaftTerm, answer.RaftIndex, answer.RaftAppliedIndex
	for _, text := range answer.Errors { // alarms of all members, as text
		var alarm etcdserverpb.AlarmMember
		if prototext.Unmarshal([]byte(text), &alarm) == nil && alarm.MemberID == m.ID {
			m.Alarms = append(m.Alarms, alarm.Alarm.String())
		}
	}
}

func (m *MemberStatus) status(ctx context.Context, client *clientv3.Client) (*etcdserverpb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if inProcess(client) {
		answer, err := client.Status(ctx, "")
		if err == nil && answer.Header.MemberId != m.ID {
			return nil, errNotAsked
		}
		return (*etcdserverpb.StatusResponse)(answer), err
	}
	if m.Name == "" {
		return nil, errors.New("added, and not started yet")
	}
	err := errors.New("it serves no clients")
	for _, url := range m.ClientURLs {
		var answer *etcdserverpb.StatusResponse
		err = at(client, url, func(server etcdserverpb.MaintenanceClient) (err error) {
			answer, err = server.Status(ctx, &etcdserverpb.StatusRequest{})
			return err
		})
		if err == nil {
			return answer, nil
		}
	}
	return nil, err
}

// at calls one member. Its connection is its own: a member that is down answers at once, where
// the client's would go on trying.
func at(client *clientv3.Client, url string, call func(etcdserverpb.MaintenanceClient) error) error {
	connection, err := client.Dial(url)
	if err != nil {
		return err
	}
	defer connection.Close()
	return call(etcdserverpb.NewMaintenanceClient(connection))
}

// inProcess tells the client of [Member.Client] from one that dials.
func inProcess(client *clientv3.Client) bool { return len(client.Endpoints()) == 0 }

// plain is err in words for people: gRPC's own wrapping is left out.
func plain(err error) error {
	text := status.Convert(err).Message()
	if s, ok := status.FromError(err); errors.Is(err, context.DeadlineExceeded) || ok && s.Code() == codes.DeadlineExceeded {
		text = "no answer in time"
	}
	if _, cause, ok := strings.Cut(text, "Error while dialing: "); ok {
		text = strings.TrimSuffix(cause, `"`)
	}
	return plainError{text, err}
}

type plainError struct {
	text string
	err  error
}

func (e plainError) Error() string { return e.text }
func (e plainError) Unwrap() error { return e.err }
