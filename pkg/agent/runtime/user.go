package runtime

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	v1 "k8s.io/api/core/v1"
)

// User is who a container's process runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32 // with GID, without order
}

// Accounts are the user database of an image, as far as it is needed.
type Accounts struct {
	passwd, group []byte
}

// userCache keeps Accounts by the chain id of the image's layers: they can't
// change, and reading them costs a mount.
type userCache struct {
	sync.Mutex
	byChain map[string]Accounts
}

// accounts reads /etc/passwd and /etc/group of an image through a snapshot of it.
func (r *Runtime) accounts(ctx context.Context, chain string, mounts []mount.Mount) (Accounts, error) {
	r.users.Lock()
	a, ok := r.users.byChain[chain]
	r.users.Unlock()
	if ok {
		return a, nil
	}
	err := mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		// The files may be links: they are resolved within the image.
		fsys, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer fsys.Close()
		a.passwd, _ = fsys.ReadFile("etc/passwd")
		a.group, _ = fsys.ReadFile("etc/group")
		return nil
	})
	if err != nil {
		return a, fmt.Errorf("read users of image: %w", err)
	}
	r.users.Lock()
	if r.users.byChain == nil {
		r.users.byChain = map[string]Accounts{}
	}
	r.users.byChain[chain] = a
	r.users.Unlock()
	return a, nil
}

// ImageUser is the user of an image's config without its group: a number, or a name.
func ImageUser(user string) (uid *int64, name string) {
	user, _, _ = strings.Cut(user, ":")
	if user == "" {
		zero := int64(0)
		return &zero, ""
	}
	if n, err := strconv.ParseInt(user, 10, 64); err == nil {
		return &n, ""
	}
	return nil, user
}

// VerifyNonRoot refuses a container that must not run as root but would.
// The texts are the kubelet's.
func VerifyNonRoot(pod *v1.Pod, c *v1.Container, imageUser string) error {
	nonRoot, runAs := effective(pod, c, func(s *v1.SecurityContext) *bool { return s.RunAsNonRoot },
		func(s *v1.PodSecurityContext) *bool { return s.RunAsNonRoot }), runAsUser(pod, c)
	if nonRoot == nil || !*nonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID), c.Name)
	if runAs != nil {
		if *runAs == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
		return nil
	}
	uid, name := ImageUser(imageUser)
	switch {
	case uid != nil && *uid == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case uid == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", name, where)
	}
	return nil
}

// effective is a container's setting, else its pod's.
func effective[T any](pod *v1.Pod, c *v1.Container, own func(*v1.SecurityContext) *T, inherited func(*v1.PodSecurityContext) *T) *T {
	if c.SecurityContext != nil {
		if v := own(c.SecurityContext); v != nil {
			return v
		}
	}
	if pod.Spec.SecurityContext != nil {
		return inherited(pod.Spec.SecurityContext)
	}
	return nil
}

func runAsUser(pod *v1.Pod, c *v1.Container) *int64 {
	return effective(pod, c, func(s *v1.SecurityContext) *int64 { return s.RunAsUser },
		func(s *v1.PodSecurityContext) *int64 { return s.RunAsUser })
}

// ResolveUser decides who the process runs as: the container's runAsUser, else
// the pod's, else the image's user; the group from runAsGroup, else from the
// image's database. Groups that the image gives a user are added unless the
// pod's supplementalGroupsPolicy is Strict.
func ResolveUser(pod *v1.Pod, c *v1.Container, imageUser string, accounts Accounts) (User, error) {
	uid, name := runAsUser(pod, c), ""
	if uid == nil {
		uid, name = ImageUser(imageUser)
	}
	u := User{}
	entry, found := accounts.user(uid, name)
	switch {
	case uid != nil:
		u.UID = uint32(*uid)
	case found:
		u.UID = entry.uid
	default:
		return u, fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	}
	if found {
		u.GID = entry.gid
	}
	group := effective(pod, c, func(s *v1.SecurityContext) *int64 { return s.RunAsGroup },
		func(s *v1.PodSecurityContext) *int64 { return s.RunAsGroup })
	if group != nil {
		u.GID = uint32(*group)
	}
	u.Groups = []uint32{u.GID}
	psc := pod.Spec.SecurityContext
	strict := psc != nil && psc.SupplementalGroupsPolicy != nil && *psc.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict
	if found && !strict {
		u.Groups = append(u.Groups, accounts.groupsOf(entry.name)...)
	}
	if psc != nil {
		for _, g := range psc.SupplementalGroups {
			u.Groups = append(u.Groups, uint32(g))
		}
		if psc.FSGroup != nil {
			u.Groups = append(u.Groups, uint32(*psc.FSGroup))
		}
	}
	slices.Sort(u.Groups)
	u.Groups = slices.Compact(u.Groups)
	return u, nil
}

type account struct {
	name     string
	uid, gid uint32
}

// user finds an entry by number, or by name.
func (a Accounts) user(uid *int64, name string) (account, bool) {
	for fields := range entries(a.passwd) {
		if len(fields) < 4 {
			continue
		}
		u, err := strconv.ParseUint(fields[2], 10, 32)
		g, err2 := strconv.ParseUint(fields[3], 10, 32)
		if err != nil || err2 != nil {
			continue
		}
		if uid != nil && int64(u) == *uid || uid == nil && fields[0] == name {
			return account{fields[0], uint32(u), uint32(g)}, true
		}
	}
	return account{}, false
}

func (a Accounts) groupsOf(user string) []uint32 {
	var groups []uint32
	for fields := range entries(a.group) {
		if len(fields) < 4 || !slices.Contains(strings.Split(fields[3], ","), user) {
			continue
		}
		if g, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			groups = append(groups, uint32(g))
		}
	}
	return groups
}

// entries yields the fields of each line of a file like /etc/passwd.
func entries(file []byte) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		scanner := bufio.NewScanner(bytes.NewReader(file))
		for scanner.Scan() {
			line := strings.TrimSpace(scanner.Text())
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if !yield(strings.Split(line, ":")) {
				return
			}
		}
	}
}
