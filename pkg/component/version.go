package component

import (
	"runtime"
	"runtime/debug"

	"k8s.io/apimachinery/pkg/version"
)

// The release. The part after the plus sign is build metadata to semver, so
// that chart constraints such as ">=1.30.0-0" hold; "-skiff" would be a
// pre-release and fail them.
const (
	Major      = "1"
	Minor      = "36"
	GitVersion = "v1.36.0+skiff"
)

// Version is what /version answers and what a node reports as its kubelet version.
func Version() version.Info {
	info := version.Info{
		Major:          Major,
		Minor:          Minor,
		EmulationMajor: Major,
		EmulationMinor: Minor,
		// As Kubernetes, whose storage this is: the release before may take over.
		MinCompatibilityMajor: Major,
		MinCompatibilityMinor: "35",
		GitVersion:            GitVersion,
		GitTreeState:          "clean",
		BuildDate:             "1970-01-01T00:00:00Z",
		GoVersion:             runtime.Version(),
		Compiler:              runtime.Compiler,
		Platform:              runtime.GOOS + "/" + runtime.GOARCH,
	}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			info.GitCommit = s.Value
		case "vcs.time":
			info.BuildDate = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				info.GitTreeState = "dirty"
			}
		}
	}
	return info
}
