// Command kubectl is Kubernetes' own client of an earlier release, for tests
// on machines that have none: it shares no line with ctl, which is built from
// another version of the same library in another module.
package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
