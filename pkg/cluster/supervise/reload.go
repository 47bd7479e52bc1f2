package supervise

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// load reads the configuration again and plans what it takes. One that is no good
// leaves everything as it is.
func (s *supervisor) load() {
	os.Remove(filepath.Join(NodeDir, RefusedFile))
	newest := s.resumed
	s.resumed = false
	if err := s.adopt(filepath.Join(NodeDir, ConfigFile), newest); err != nil {
		report("the configuration stays as it was: %v", err)
		if err := s.announce(RefusedFile, err.Error()); err != nil {
			report("%v", err)
		}
	}
}

func (s *supervisor) adopt(file string, newest bool) error {
	c, err := Load(file)
	if err != nil {
		return err
	}
	if c.Hostname != s.config.Hostname || c.Dir != s.config.Dir {
		return fmt.Errorf("%s: a running node keeps its name %s and directory %s", file, s.config.Hostname, s.config.Dir)
	}
	sockets, err := s.openSockets(c)
	if err != nil {
		return err
	}
	if err := s.remount(c); err != nil {
		s.closeUnused(sockets)
		return err
	}
	if !newest {
		if err := s.replace(); err != nil { // its successor adopts the rest
			report("the running init goes on: %v", err)
		}
	}
	s.plan = changes(&Config{Processes: s.current().Processes, Sockets: s.config.Sockets}, c)
	for name, old := range s.sockets {
		switch sockets[name] {
		case nil: // somebody may still have to be started with it, before its turn comes
			sockets[name] = old
		case old:
		default:
			old.Close()
		}
	}
	s.config, s.sockets, s.settled = c, sockets, false
	return nil
}

// settle is the end of a plan: the node is what its configuration says.
func (s *supervisor) settle() {
	s.settled = true
	for _, c := range s.children {
		c.Process = *s.config.process(c.Name) // what changed without need of a restart
	}
	slices.SortFunc(s.children, func(a, b *child) int {
		return s.order(a.Name) - s.order(b.Name)
	})
	maps.DeleteFunc(s.sockets, func(name string, f *os.File) bool {
		gone := s.config.socket(name).Name == ""
		if gone {
			f.Close()
		}
		return gone
	})
	if err := s.announce(AppliedFile, s.config.Generation); err != nil {
		report("%v", err)
	}
}

func (s *supervisor) order(name string) int {
	return slices.IndexFunc(s.config.Processes, func(p Process) bool { return p.Name == name })
}

// announce replaces a file of the node's directory for others to see, at once.
func (s *supervisor) announce(name, text string) error {
	file := filepath.Join(NodeDir, name)
	if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
