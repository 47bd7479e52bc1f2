package runtime

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is what this machine, and this process on it, can do.
type Host struct {
	CgroupV2     bool
	Controllers  map[string]bool // version 1: mounted below /sys/fs/cgroup; version 2: of the root
	Capabilities uint64          // effective ones of this process, bit by capability number
	OOMScore     int             // oom_score_adj of this process
	SwapLimit    bool            // the memory controller can limit swap
	AppArmor     bool
	SELinux      bool
}

// capSysResource is CAP_SYS_RESOURCE (capability(7)): lowering an
// oom_score_adj and raising a limit need it. Sandboxed environments lack it.
const capSysResource = 24

// CanLowerOOMScore says whether an oom_score_adj below the own one can be set.
func (h Host) CanLowerOOMScore() bool { return h.Capabilities&(1<<capSysResource) != 0 }

func probeHost() (Host, error) {
	h := Host{Controllers: map[string]bool{}}
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return h, err
	}
	defer status.Close()
	scanner := bufio.NewScanner(status)
	for scanner.Scan() {
		if value, ok := strings.CutPrefix(scanner.Text(), "CapEff:"); ok {
			h.Capabilities, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				return h, fmt.Errorf("CapEff: %w", err)
			}
		}
	}
	if b, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		h.OOMScore, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err != nil {
		return h, fmt.Errorf("%s: %w", cgroupRoot, err)
	}
	h.CgroupV2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	if h.CgroupV2 {
		b, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
		if err != nil {
			return h, err
		}
		for _, c := range strings.Fields(string(b)) {
			h.Controllers[c] = true
		}
		h.SwapLimit = exists("/proc/swaps")
	} else {
		for _, c := range v1Controllers {
			h.Controllers[c] = exists(cgroupRoot+"/"+c+"/tasks") || exists(cgroupRoot+"/"+c+"/cgroup.procs")
		}
		h.SwapLimit = exists(cgroupRoot + "/memory/memory.memsw.limit_in_bytes")
	}
	b, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	h.AppArmor = strings.HasPrefix(string(b), "Y")
	h.SELinux = exists("/sys/fs/selinux/enforce")
	return h, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
