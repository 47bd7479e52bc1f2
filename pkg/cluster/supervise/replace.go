package supervise

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// state is what an init leaves to the one that takes its place. The process stays,
// and with it the children; the files are descriptors that it keeps.
type state struct {
	Config            Config
	Children          []*child
	Mounted           []Mount
	Sockets           map[string]int
	HostProc, Machine int
}

// replace puts the init of BinDir in this one's place, if it is another. It returns
// when it isn't, or can't. The successor begins by reading the configuration, so
// it has to have been found good, with the plan of the last one carried out.
func (s *supervisor) replace() error {
	program := filepath.Join(BinDir, "init")
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return err
	}
	next, err := os.Stat(program)
	if err != nil {
		return err
	}
	if os.SameFile(running, next) {
		return nil
	}
	file, err := s.save()
	if err != nil {
		return fmt.Errorf("save the state: %w", err)
	}
	defer file.Close()
	// If it failed on the state it would take the whole node with it, so it is asked first.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	check := exec.CommandContext(ctx, program, "check", "3")
	check.ExtraFiles = []*os.File{file}
	if out, err := check.CombinedOutput(); err != nil {
		return fmt.Errorf("%s can't take over: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	files := append(s.files(), file)
	report("%s takes over", program)
	for _, f := range files {
		unix.FcntlInt(f.Fd(), unix.F_SETFD, 0)
		defer unix.CloseOnExec(int(f.Fd()))
	}
	err = unix.Exec(program, []string{program, "resume", strconv.Itoa(int(file.Fd()))}, os.Environ())
	return fmt.Errorf("exec %s: %w", program, err)
}

func (s *supervisor) files() []*os.File {
	files := []*os.File{s.hostProc, s.machine}
	for _, f := range s.sockets {
		files = append(files, f)
	}
	return files
}

func (s *supervisor) save() (*os.File, error) {
	st := state{Config: *s.config, Children: s.children, Mounted: s.mounted, Sockets: map[string]int{},
		HostProc: int(s.hostProc.Fd()), Machine: int(s.machine.Fd())}
	for name, f := range s.sockets {
		st.Sockets[name] = int(f.Fd())
	}
	data, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "state")
	if _, err := file.Write(data); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Check says whether the state at a descriptor is one that this init understands.
func Check(fd int) error {
	_, err := readState(inherit(fd, "state"))
	return err
}

// Resume is the rest of the life of a node's PID 1, from the state that its
// predecessor has left at a descriptor. The rules of [Run] apply.
func Resume(fd int) error {
	st, err := readState(inherit(fd, "state"))
	if err != nil {
		return err
	}
	s := &supervisor{config: &st.Config, children: st.Children, mounted: st.Mounted, sockets: map[string]*os.File{},
		hostProc: inherit(st.HostProc, "/proc"), machine: inherit(st.Machine, "machine"),
		settled: true, reload: true, resumed: true}
	for name, fd := range st.Sockets {
		s.sockets[name] = inherit(fd, name)
	}
	return s.run()
}

func readState(file *os.File) (*state, error) {
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	var st state
	if err := json.NewDecoder(io.NewSectionReader(file, 0, info.Size())).Decode(&st); err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	return &st, st.Config.check()
}
