// Command conformance runs Kubernetes' own end-to-end tests, which the person who runs it
// supplies as a binary, against a fresh local cluster, and prints the score by work
// package: which of the 446 conformance tests of 1.36 pass (tests.txt). It fails unless
// all that were asked for do.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

func main() {
	o := options{}
	flag.StringVar(&o.e2e, "e2e", "", "the e2e.test binary of Kubernetes")
	flag.StringVar(&o.kubectl, "kubectl", "kubectl", "the kubectl whose commands are tested")
	flag.StringVar(&o.images, "images", "", "directory of image archives (*.tar) to load into the nodes")
	flag.StringVar(&o.packages, "package", "", "work packages to run, separated by commas; empty is all")
	flag.StringVar(&o.test, "test", "", "of those only the tests whose names match this expression")
	flag.StringVar(&o.report, "report", "", "directory to keep reports, logs of failures and the score of all runs in")
	flag.StringVar(&o.cluster, "cluster", "conformance", "name of the cluster, which is made and deleted")
	flag.IntVar(&o.parallel, "parallel", 1, "how many tests run at a time, of those that may")
	flag.BoolVar(&o.keep, "keep", false, "keep the cluster")
	flag.StringVar(&o.ctl, "ctl", "bin/ctl", "the ctl to make it with")
	flag.Parse()
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

type options struct {
	e2e, kubectl, images, packages, test, report, cluster, ctl string
	parallel                                                   int
	keep                                                       bool
}

var errFailed = errors.New("not all tests passed")

func (o options) run() error {
	if o.e2e == "" {
		return fmt.Errorf("--e2e is needed: an e2e.test of Kubernetes 1.36")
	}
	packages, err := wanted(o.packages, o.test)
	if err != nil {
		return err
	}
	temporary, err := os.MkdirTemp("", "skiff-conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	o.report = cmp.Or(o.report, temporary)
	if err := os.MkdirAll(o.report, 0o755); err != nil {
		return err
	}
	// The list of names is for the expression by which ginkgo is told what to run: it
	// matches whole names, tags included, which tests.txt leaves out.
	known, err := o.ginkgo(io.Discard, filepath.Join(temporary, "known.json"), "--ginkgo.dry-run", `--ginkgo.focus=\[Conformance\]`)
	if err != nil {
		return fmt.Errorf("list the tests of %s: %w", o.e2e, err)
	}
	kubeconfig := filepath.Join(temporary, "kubeconfig")
	os.Setenv("KUBECONFIG", kubeconfig)
	if err := o.makeCluster(); err != nil {
		return err
	}
	if !o.keep {
		defer o.command("cluster", "delete", o.cluster)
	}
	all := true
	for _, p := range packages {
		results, err := o.runPackage(p, known, kubeconfig)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		all = printScore(os.Stdout, results) && all
	}
	if !all {
		return errFailed
	}
	return nil
}

// runPackage runs the tests of a package. What it leaves in the report directory takes
// the place of what an earlier run left there, unless only some of the tests were asked
// for: those are logged, but change no score.
func (o options) runPackage(p workPackage, known map[string]spec, kubeconfig string) ([]result, error) {
	name := p.name
	if o.test != "" {
		name += "-part"
	}
	together, alone := p.shards(known, o.parallel)
	specs := map[string]spec{}
	var (
		mu       sync.Mutex
		failures []error
		group    sync.WaitGroup
	)
	run := func(tests []string, number int) {
		ran, err := o.runTests(tests, filepath.Join(o.report, fmt.Sprintf("%s.%d.log", name, number)), kubeconfig)
		mu.Lock()
		defer mu.Unlock()
		maps.Copy(specs, ran)
		failures = append(failures, err)
	}
	for i, tests := range together {
		group.Go(func() { run(tests, i+1) })
	}
	group.Wait()
	if len(alone) > 0 {
		run(alone, len(together)+1)
	}
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	results := p.results(specs)
	if err := keep(filepath.Join(o.report, name), results); err != nil {
		return nil, err
	}
	return results, writeScore(o.report)
}

// runTests is one process of the binary. Its report lists all the tests that it left out,
// too, and is not kept.
func (o options) runTests(tests []string, log, kubeconfig string) (map[string]spec, error) {
	w, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	report := log + ".json"
	defer os.Remove(report)
	return o.ginkgo(w, report, "--ginkgo.focus="+strings.Join(tests, "|"), "--ginkgo.v", "--kubeconfig="+kubeconfig,
		"--kubectl-path="+o.kubectl, "--non-blocking-taints=node-role.kubernetes.io/control-plane")
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

// ginkgo runs the binary and reads its report, which is there even when tests fail: that
// the binary fails then says nothing more.
func (o options) ginkgo(log io.Writer, report string, args ...string) (map[string]spec, error) {
	if err := os.RemoveAll(report); err != nil {
		return nil, err
	}
	c := exec.Command(o.e2e, append([]string{"--provider=skeleton", "--ginkgo.no-color", "--ginkgo.json-report=" + report}, args...)...)
	c.Stdout, c.Stderr = log, log
	failed := c.Run()
	specs, err := readReport(report)
	if err != nil {
		return nil, errors.Join(failed, err)
	}
	return specs, nil
}

// readReport is what ginkgo's report says of each test, by its plain name.
func readReport(file string) (map[string]spec, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	specs := map[string]spec{}
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			// A test that was left out is listed as skipped, like one that skips itself; those say why.
			if s.State != "skipped" || s.Failure.Message != "" {
				specs[s.plain()] = s
			}
		}
	}
	return specs, nil
}
