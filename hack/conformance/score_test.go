package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWanted(t *testing.T) {
	all, err := wanted("", "")
	if err != nil {
		t.Fatal(err)
	}
	total, seen := 0, map[string]bool{}
	for _, p := range all {
		for _, name := range p.tests {
			if seen[name] {
				t.Errorf("%s: twice in the list", name)
			}
			seen[name] = true
			if name != strings.Join(strings.Fields(name), " ") {
				t.Errorf("%q: spaces that no plain name has", name)
			}
		}
		total += len(p.tests)
	}
	if total != 446 {
		t.Errorf("%d tests, want 446", total)
	}
	some, err := wanted("A2,H2", "Aggregator")
	if err != nil || len(some) != 1 || some[0].name != "H2" || len(some[0].tests) != 1 {
		t.Errorf("A2,H2 with a name: %v, %v", some, err)
	}
	for _, bad := range []struct{ names, match, says string }{
		{"A0,A9", "", "no package A9"}, {"", "[", "--test"}, {"A0", "no such test", "no test matches"},
	} {
		if _, err := wanted(bad.names, bad.match); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("wanted(%q, %q): %v, want an error with %q", bad.names, bad.match, err, bad.says)
		}
	}
}

// TestScore: tests count by their plain names, and what didn't run didn't pass.
func TestScore(t *testing.T) {
	dir := t.TempDir()
	const name = "Aggregator Should be able to support the 1.17 Sample API Server using the current Aggregator"
	report := `[{"SpecReports": [
		{"ContainerHierarchyTexts": ["[sig-x] Other"], "LeafNodeText": "left out", "State": "skipped"},
		{"ContainerHierarchyTexts": ["[sig-x] Other"], "LeafNodeText": "needs more", "State": "skipped", "Failure": {"Message": "needs two zones"}},
		{"ContainerHierarchyTexts": ["[sig-x] Aggregator"], "LeafNodeText": "Should be able to support the 1.17 Sample API Server using the current Aggregator [Conformance]",
		 "State": "failed", "Failure": {"Message": "no such host\nand more"}, "CapturedGinkgoWriterOutput": "STEP: one"}]}]`
	file := filepath.Join(dir, "raw")
	if err := os.WriteFile(file, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	specs, err := readReport(file)
	if err != nil || len(specs) != 2 || specs["Other needs more"].Failure.Message != "needs two zones" {
		t.Fatalf("%v %v", specs, err)
	}
	packages, err := wanted("H2", "")
	if err != nil {
		t.Fatal(err)
	}
	results := packages[0].results(specs)
	if err := keep(filepath.Join(dir, "H2"), results); err != nil {
		t.Fatal(err)
	}
	if err := writeScore(dir); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string][]string{
		"score.md":  {"| A0 | not run | 67 |", "| H2 | 0 | 1 |", "| all | 0 | 446 |", "- H2: " + name + ": failed: no such host\n"},
		"H2/01.log": {"[sig-x] Aggregator", "no such host\nand more", "STEP: one"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s lacks %q:\n%s", file, w, text)
			}
		}
	}
	var out strings.Builder
	if printScore(&out, results) {
		t.Error("a failure counts as success")
	}
	if want := "H2     0 of   1\n     " + name + "\n          failed: no such host\n"; out.String() != want {
		t.Errorf("printed: %q", out.String())
	}
}

// TestShards: each test is run once, and one that wants the cluster for itself after the others.
func TestShards(t *testing.T) {
	p := workPackage{tests: []string{"a", "b", "alone", "c", "missing"}}
	known := map[string]spec{}
	for plain, leaf := range map[string]string{"a": "a [x]", "b": "b", "c": "c", "alone": "alone [Serial]"} {
		known[plain] = spec{LeafNodeText: leaf}
	}
	for n, want := range map[int]string{
		1: `[["a \\[x\\]" "b" "c"]]`, 2: `[["a \\[x\\]" "c"] ["b"]]`, 9: `[["a \\[x\\]"] ["b"] ["c"]]`,
	} {
		together, alone := p.shards(known, n)
		if got := fmt.Sprintf("%q", together); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
		if got := fmt.Sprintf("%q", alone); got != `["alone \\[Serial\\]"]` {
			t.Errorf("%d: alone %s", n, got)
		}
	}
}
