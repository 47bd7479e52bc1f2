package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Ready tells whether etcd serves reads and takes writes as seen from this client: nil, or in one
// line what is wrong. A healthy cluster costs one read. A member that is down, or a full
// database, is no reason not to be ready: reads and deletions go on (see [Diagnose]).
func Ready(ctx context.Context, client *clientv3.Client) error {
	readErr := read(ctx, client)
	if readErr == nil {
		return nil
	}
	members, err := Members(ctx, client)
	if err != nil {
		return err
	}
	return diagnose(members, readErr)
}

// Diagnose asks every member and says in one line all that is wrong: a lost quorum, no leader,
// members that don't answer, alarms. nil is a healthy cluster.
func Diagnose(ctx context.Context, client *clientv3.Client) error {
	asked := make(chan error, 1)
	go func() { asked <- read(ctx, client) }()
	members, err := Members(ctx, client)
	if err != nil {
		return err
	}
	return diagnose(members, <-asked)
}

// read is a consistent one: a leader has to confirm with a quorum that it still leads.
func read(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := client.Get(ctx, "health", clientv3.WithCountOnly())
	return err
}

// diagnose is the sentence of Diagnose: readErr is what became of a consistent read.
func diagnose(members []MemberStatus, readErr error) error {
	var voters, answering int
	var leader bool
	var silent, alarms []string
	for _, m := range members {
		if !m.Learner {
			voters++
		}
		for _, alarm := range m.Alarms {
			alarms = append(alarms, fmt.Sprintf("member %v: %s", m, explainAlarm(m, alarm)))
		}
		switch {
		case m.Err == nil || errors.Is(m.Err, errNotAsked):
			if !m.Learner {
				answering++
			}
			leader = leader || m.Leader
		case m.Name == "":
			silent = append(silent, fmt.Sprintf("member %v was added and has not started", m))
		default:
			silent = append(silent, fmt.Sprintf("member %v doesn't answer: %v", m, m.Err))
		}
	}
	var problems []string
	switch quorum := voters/2 + 1; {
	case readErr != nil && answering < quorum:
		problems = append(problems, fmt.Sprintf("the quorum is lost: %d of %d voting members answer, %d are needed", answering, voters, quorum))
	case readErr != nil && !leader:
		problems = append(problems, fmt.Sprintf("no leader: the %d members that answer have not elected one", answering))
	case readErr != nil:
		problems = append(problems, fmt.Sprintf("consistent reads fail: %v", plain(readErr)))
	}
	problems = append(append(problems, silent...), alarms...)
	if len(problems) == 0 {
		return nil
	}
	return errors.New("etcd: " + strings.Join(problems, "; "))
}

func explainAlarm(m MemberStatus, alarm string) string {
	switch alarm {
	case "NOSPACE":
		return fmt.Sprintf("NOSPACE: writes are refused since the database reached its quota (%d of %d MiB): compact, defragment, disarm", m.DBSize>>20, m.Quota>>20)
	case "CORRUPT":
		return "CORRUPT: its data differ from the others': replace it"
	}
	return alarm
}
