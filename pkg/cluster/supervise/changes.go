package supervise

import "slices"

// step is one thing to do with one process on the way from one configuration to
// another. The next one is taken when it is done.
type step struct {
	Do      action
	Process Process // as it is to be; as it was, if it is to go
	Why     string
}

type action string

const (
	startIt   action = "start"
	restartIt action = "restart"
	stopIt    action = "stop"
)

// changes is the way from one configuration to another: what is named no longer
// goes, the last to be named first; then what is new or differs, in the new one's order.
func changes(from, to *Config) []step {
	var steps []step
	for _, old := range slices.Backward(from.Processes) {
		if to.process(old.Name) == nil {
			steps = append(steps, step{stopIt, old, "it is not part of the node any more"})
		}
	}
	for _, p := range to.Processes {
		old := from.process(p.Name)
		if old == nil {
			steps = append(steps, step{startIt, p, "it is new"})
		} else if why := differs(from, to, old, &p); why != "" {
			steps = append(steps, step{restartIt, p, why})
		}
	}
	return steps
}

func (c *Config) process(name string) *Process {
	i := slices.IndexFunc(c.Processes, func(p Process) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Processes[i]
}

// differs says what a running process can't learn but by being restarted.
func differs(from, to *Config, old, p *Process) string {
	switch {
	case !slices.Equal(old.Args, p.Args):
		return "its arguments have changed"
	case !slices.Equal(old.Env, p.Env):
		return "its environment has changed"
	case !slices.Equal(old.Sockets, p.Sockets):
		return "its sockets have changed"
	case old.Generation != p.Generation:
		return "its generation is " + p.Generation + ", was " + old.Generation
	}
	for _, name := range p.Sockets {
		if from.socket(name) != to.socket(name) {
			return "its socket " + name + " has changed"
		}
	}
	return ""
}
