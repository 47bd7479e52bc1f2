package machines

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// unit is a systemd unit file: "Section.Key" to its values, in order.
type unit map[string][]string

// heeded are the settings that the stand-in does as systemd does, or that mean nothing
// in a machine which boots once.
var heeded = strings.Fields(`
Unit.Description Unit.Documentation Unit.After Unit.Wants Unit.StartLimitIntervalSec
Service.Type Service.EnvironmentFile Service.ExecStartPre Service.ExecStart Service.Restart Service.RestartSec
Service.Sockets Service.KillMode Service.TimeoutStopSec Service.UMask
Service.NoNewPrivileges Service.CapabilityBoundingSet Service.ProtectSystem Service.ReadWritePaths
Socket.ListenStream Socket.ListenDatagram Socket.FreeBind Socket.FileDescriptorName Socket.Service Socket.TriggerLimitIntervalSec
Install.WantedBy`)

// unheeded are those that take systemd itself. TestUnitsAreSystemds has it look at them.
var unheeded = strings.Fields(`
Service.Delegate Service.TasksMax Service.LimitNOFILE Service.LimitNPROC Service.LimitCORE Service.OOMScoreAdjust
Service.LockPersonality Service.MemoryDenyWriteExecute Service.PrivateDevices Service.PrivateTmp
Service.ProtectClock Service.ProtectControlGroups Service.ProtectHome Service.ProtectHostname Service.ProtectKernelLogs
Service.ProtectKernelModules Service.ProtectKernelTunables Service.RestrictAddressFamilies Service.RestrictNamespaces
Service.RestrictRealtime Service.RestrictSUIDSGID Service.SystemCallArchitectures`)

// fullName is the unit that a name given to systemctl means.
func fullName(name string) string {
	if strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".socket") {
		return name
	}
	return name + ".service"
}

// readUnit reads a unit file, and refuses settings that are unknown here.
func readUnit(name string) (unit, string, error) {
	for _, dir := range []string{"/etc/systemd/system", "/lib/systemd/system"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		u, section := unit{}, ""
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			key, value, assigned := strings.Cut(line, "=")
			switch {
			case line == "" || line[0] == '#' || line[0] == ';':
			case line[0] == '[':
				section = strings.Trim(line, "[]")
			case assigned:
				key = section + "." + strings.TrimSpace(key)
				u[key] = append(u[key], strings.TrimSpace(value))
			default:
				return nil, "", fmt.Errorf("%s: %q is neither a section nor a setting", name, line)
			}
		}
		return u, string(data), nil
	}
	return nil, "", fmt.Errorf("unit %s could not be found", name)
}

// check says which settings the stand-in would have to learn before the unit can be started.
func (u unit) check(name string) error {
	for key, values := range u {
		if !slices.Contains(heeded, key) && !slices.Contains(unheeded, key) {
			return fmt.Errorf("%s: the stand-in for systemd doesn't know %s=%s", name, key, strings.Join(values, " "))
		}
	}
	return nil
}

func (u unit) one(key string) string {
	if values := u[key]; len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

func (u unit) words(key string) []string { return strings.Fields(strings.Join(u[key], " ")) }

// span is a time span of systemd.time(7), as far as units here have them.
func (u unit) span(key string, missing time.Duration) (time.Duration, error) {
	text := u.one(key)
	if text == "" {
		return missing, nil
	}
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	return time.ParseDuration(text)
}

// command is what ExecStart says, with the variables of EnvironmentFile.
func (u unit) command() (args, env []string, err error) {
	values := map[string]string{}
	for _, file := range u["Service.EnvironmentFile"] {
		file, optional := strings.CutPrefix(file, "-")
		data, err := os.ReadFile(file)
		if err != nil && !optional {
			return nil, nil, err
		}
		for line := range strings.Lines(string(data)) {
			key, value, assigned := strings.Cut(strings.TrimSpace(line), "=")
			if assigned && !strings.HasPrefix(key, "#") {
				values[key] = strings.Trim(value, `"`)
				env = append(env, key+"="+values[key])
			}
		}
	}
	for _, word := range u.words("Service.ExecStart") {
		if name, variable := strings.CutPrefix(word, "$"); variable {
			args = append(args, strings.Fields(values[name])...) // a word of its own becomes several
		} else {
			args = append(args, word)
		}
	}
	return args, env, nil
}

// settings are those of the program's process.
func (u unit) settings() (*settings, error) {
	s := &settings{Umask: 0o022, NoNew: u.one("Service.NoNewPrivileges") == "yes", Writable: u.words("Service.ReadWritePaths")}
	if mask := u.one("Service.UMask"); mask != "" {
		n, err := strconv.ParseUint(mask, 8, 16)
		if err != nil {
			return nil, err
		}
		s.Umask = int(n)
	}
	if len(u["Service.CapabilityBoundingSet"]) > 0 {
		s.Bounding = u.words("Service.CapabilityBoundingSet")
	}
	switch level := u.one("Service.ProtectSystem"); level {
	case "":
	case "full":
		s.ReadOnly = []string{"/usr", "/boot", "/etc"}
	default:
		return nil, fmt.Errorf("ProtectSystem=%s isn't known here", level)
	}
	return s, nil
}
