// Command conformance runs Kubernetes' own end-to-end tests, which the person who runs it
// supplies as a binary, against a fresh local cluster, and prints the score by work
// package: which of the 446 conformance tests of 1.36 pass (tests.txt).
package main

import (
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

//go:embed tests.txt
var list string

func main() {
	o := options{}
	flag.StringVar(&o.e2e, "e2e", "", "the e2e.test binary of Kubernetes")
	flag.StringVar(&o.images, "images", "", "directory of image archives (*.tar) to load into the nodes")
	flag.StringVar(&o.packages, "package", "", "work packages to run, separated by commas; empty is all")
	flag.StringVar(&o.cluster, "cluster", "conformance", "name of the cluster, which is made and deleted")
	flag.BoolVar(&o.keep, "keep", false, "keep the cluster")
	flag.StringVar(&o.ctl, "ctl", "bin/ctl", "the ctl to make it with")
	flag.Parse()
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

type options struct {
	e2e, images, packages, cluster, ctl string
	keep                                bool
}

// test is one of the suite's, by its name without tags.
type test struct{ pkg, name string }

// spec is what ginkgo's report says of one.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	State                   string
	Failure                 struct{ Message string }
}

func (s spec) full() string {
	return strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
}

var tags = regexp.MustCompile(`\[[^\]]*\]`)

// plain is a name as tests.txt has it.
func (s spec) plain() string {
	return strings.Join(strings.Fields(tags.ReplaceAllString(s.full(), " ")), " ")
}

func (o options) run() error {
	if o.e2e == "" {
		return fmt.Errorf("--e2e is needed: an e2e.test of Kubernetes 1.36")
	}
	tests, err := o.wanted()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "skiff-conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	os.Setenv("KUBECONFIG", kubeconfig)

	known, err := o.ginkgo(filepath.Join(dir, "known.json"), "--ginkgo.dry-run", `--ginkgo.focus=\[Conformance\]`)
	if err != nil {
		return fmt.Errorf("list the tests of %s: %w", o.e2e, err)
	}
	byName := map[string]spec{}
	for _, s := range known {
		byName[s.plain()] = s
	}
	var focus []string
	for _, t := range tests {
		if s, found := byName[t.name]; found {
			focus = append(focus, regexp.QuoteMeta(s.full()))
		}
	}
	if err := o.makeCluster(); err != nil {
		return err
	}
	if !o.keep {
		defer o.command("cluster", "delete", o.cluster)
	}
	// A failing test makes the binary fail; what counts is its report.
	specs, err := o.ginkgo(filepath.Join(dir, "report.json"), "--ginkgo.focus="+strings.Join(focus, "|"),
		"--kubeconfig="+kubeconfig, "--non-blocking-taints=node-role.kubernetes.io/control-plane", "--ginkgo.v")
	if err != nil {
		return err
	}
	score(tests, specs)
	return nil
}

func (o options) wanted() ([]test, error) {
	var tests []test
	for line := range strings.Lines(list) {
		pkg, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if o.packages == "" || slices.Contains(strings.Split(o.packages, ","), pkg) {
			tests = append(tests, test{pkg, name})
		}
	}
	if len(tests) == 0 {
		return nil, fmt.Errorf("--package %s: there is none of that name", o.packages)
	}
	return tests, nil
}

func (o options) makeCluster() error {
	if err := o.command("cluster", "delete", o.cluster); err != nil {
		return err
	}
	if err := o.command("cluster", "create", o.cluster, "--workers=2", "--isolated"); err != nil {
		return err
	}
	if o.images == "" {
		return nil
	}
	archives, err := filepath.Glob(filepath.Join(o.images, "*.tar"))
	if err != nil || len(archives) == 0 {
		return fmt.Errorf("--images: no *.tar in %s (%v)", o.images, err)
	}
	return o.command(append([]string{"cluster", "load", o.cluster}, archives...)...)
}

func (o options) command(args ...string) error {
	c := exec.Command(o.ctl, args...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	return c.Run()
}

// ginkgo runs the binary and reads its report, which is there even when tests fail.
func (o options) ginkgo(report string, args ...string) ([]spec, error) {
	c := exec.Command(o.e2e, append([]string{"--provider=skeleton", "--ginkgo.no-color", "--ginkgo.json-report=" + report}, args...)...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	failed := c.Run()
	data, err := os.ReadFile(report)
	if err != nil {
		return nil, fmt.Errorf("no report (%w): %w", err, failed)
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, err
	}
	var specs []spec
	for _, s := range suites {
		specs = append(specs, s.SpecReports...)
	}
	return specs, nil
}

// score prints how many tests of each package passed, and those that didn't.
func score(tests []test, specs []spec) {
	states := map[string]spec{}
	for _, s := range specs {
		states[s.plain()] = s
	}
	var packages []string
	passed, total := map[string]int{}, map[string]int{}
	for _, t := range tests {
		if total[t.pkg]++; total[t.pkg] == 1 {
			packages = append(packages, t.pkg)
		}
		if states[t.name].State == "passed" {
			passed[t.pkg]++
		}
	}
	sum := 0
	for _, p := range packages {
		fmt.Printf("%-4s %3d of %3d\n", p, passed[p], total[p])
		sum += passed[p]
	}
	fmt.Printf("%-4s %3d of %3d\n", "all", sum, len(tests))
	for _, t := range tests {
		switch s, ran := states[t.name]; {
		case !ran:
			fmt.Printf("%s: %s: not in this binary\n", t.pkg, t.name)
		case s.State != "passed":
			message, _, _ := strings.Cut(strings.TrimSpace(s.Failure.Message), "\n")
			fmt.Printf("%s: %s: %s: %s\n", t.pkg, t.name, s.State, message)
		}
	}
}
