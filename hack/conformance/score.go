package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

//go:embed tests.txt
var list string

// workPackage is a part of the suite; its tests are named without their tags.
type workPackage struct {
	name  string
	tests []string
}

// wanted are the packages named, or all, with those of their tests whose names match.
func wanted(names, match string) ([]workPackage, error) {
	matches, err := regexp.Compile(match)
	if err != nil {
		return nil, fmt.Errorf("--test: %w", err)
	}
	missing := map[string]bool{}
	for name := range strings.SplitSeq(names, ",") {
		missing[name] = name != ""
	}
	all := names == ""
	var packages []workPackage
	for line := range strings.Lines(list) {
		name, test, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if _, named := missing[name]; !all && !named {
			continue
		}
		missing[name] = false
		if !matches.MatchString(test) {
			continue
		}
		if n := len(packages); n == 0 || packages[n-1].name != name {
			packages = append(packages, workPackage{name: name})
		}
		last := &packages[len(packages)-1]
		last.tests = append(last.tests, test)
	}
	for name, is := range missing {
		if is {
			return nil, fmt.Errorf("--package: there is no package %s", name)
		}
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("--test: no test matches %s", match)
	}
	return packages, nil
}

// spec is what ginkgo's report says of a test.
type spec struct {
	ContainerHierarchyTexts    []string
	LeafNodeText               string
	State                      string
	CapturedGinkgoWriterOutput string
	Failure                    struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

func (s spec) full() string {
	return strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
}

var tags = regexp.MustCompile(`\[[^\]]*\]`)

// plain is the name without tags, as tests.txt has it.
func (s spec) plain() string {
	return strings.Join(strings.Fields(tags.ReplaceAllString(s.full(), " ")), " ")
}

// result is what became of a test of a package.
type result struct {
	pkg, name string
	spec
}

func (p workPackage) results(specs map[string]spec) []result {
	var results []result
	for _, name := range p.tests {
		s, ran := specs[name]
		if !ran {
			s.State = "not in this binary"
		}
		results = append(results, result{p.name, name, s})
	}
	return results
}

// shards deals the tests out to n processes, as expressions that match whole names, tags
// included; those that want the cluster for themselves are alone.
func (p workPackage) shards(known map[string]spec, n int) (together [][]string, alone []string) {
	together = make([][]string, max(n, 1))
	next := 0
	for _, name := range p.tests {
		s, found := known[name]
		switch expression := regexp.QuoteMeta(s.full()); {
		case !found:
		case strings.Contains(s.full(), "[Serial]"):
			alone = append(alone, expression)
		default:
			together[next%len(together)] = append(together[next%len(together)], expression)
			next++
		}
	}
	return slices.DeleteFunc(together, func(s []string) bool { return len(s) == 0 }), alone
}

func (r result) passed() bool { return r.State == "passed" }

// why is the first line of what a test says about its failure.
func (r result) why() string {
	why, _, _ := strings.Cut(strings.TrimSpace(r.Failure.Message), "\n")
	if why == "" {
		return r.State
	}
	return r.State + ": " + why
}

// printScore prints how many of a package's tests passed and which didn't, and says
// whether all did.
func printScore(w io.Writer, results []result) bool {
	var failed []result
	for _, r := range results {
		if !r.passed() {
			failed = append(failed, r)
		}
	}
	fmt.Fprintf(w, "%-4s %3d of %3d\n", results[0].pkg, len(results)-len(failed), len(results))
	for _, r := range failed {
		fmt.Fprintf(w, "     %s\n          %s\n", r.name, r.why())
	}
	return len(failed) == 0
}

// keep writes the results to dir.json, and a file per failure into the directory.
func keep(dir string, results []result) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	specs := map[string]spec{}
	for i, r := range results {
		specs[r.name] = r.spec
		if r.passed() {
			continue
		}
		text := fmt.Sprintf("%s\n%s\n%s:%d\n%s\n\n%s", r.full(), r.State, r.Failure.Location.FileName,
			r.Failure.Location.LineNumber, r.Failure.Message, r.CapturedGinkgoWriterOutput)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.log", i+1)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	data, err := json.Marshal(specs)
	if err != nil {
		return err
	}
	return os.WriteFile(dir+".json", data, 0o644)
}

// writeScore writes the score of all packages whose reports the directory holds, as a
// table and the failures by name.
func writeScore(dir string) error {
	packages, err := wanted("", "")
	if err != nil {
		return err
	}
	var table, failures strings.Builder
	passed, total := 0, 0
	for _, p := range packages {
		total += len(p.tests)
		data, err := os.ReadFile(filepath.Join(dir, p.name+".json"))
		if os.IsNotExist(err) {
			fmt.Fprintf(&table, "| %s | not run | %d |\n", p.name, len(p.tests))
			continue
		}
		if err != nil {
			return err
		}
		var specs map[string]spec
		if err := json.Unmarshal(data, &specs); err != nil {
			return fmt.Errorf("%s.json: %w", p.name, err)
		}
		of := 0
		for _, r := range p.results(specs) {
			if r.passed() {
				of++
			} else {
				fmt.Fprintf(&failures, "- %s: %s: %s\n", p.name, r.name, r.why())
			}
		}
		passed += of
		fmt.Fprintf(&table, "| %s | %d | %d |\n", p.name, of, len(p.tests))
	}
	text := fmt.Sprintf("| package | passed | tests |\n|---|---|---|\n%s| all | %d | %d |\n\n%s", table.String(), passed, total, failures.String())
	return os.WriteFile(filepath.Join(dir, "score.md"), []byte(text), 0o644)
}
