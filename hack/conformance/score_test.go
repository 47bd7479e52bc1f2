package main

import (
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
	report := `[{"SpecReports": [
		{"ContainerHierarchyTexts": ["[sig-x] Aggregator"], "LeafNodeText": "Should be able to support the 1.17 Sample API Server using the current Aggregator [Conformance]",
		 "State": "failed", "Failure": {"Message": "no such host\nand more"}, "CapturedGinkgoWriterOutput": "STEP: one"}]}]`
	if err := os.WriteFile(filepath.Join(dir, "H2.json"), []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeScore(dir); err != nil {
		t.Fatal(err)
	}
	score, err := os.ReadFile(filepath.Join(dir, "score.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| A0 | not run | 67 |", "| H2 | 0 | 1 |", "| all | 0 | 446 |",
		"- H2: Aggregator Should be able to support the 1.17 Sample API Server using the current Aggregator: failed: no such host\n"} {
		if !strings.Contains(string(score), want) {
			t.Errorf("the score lacks %q:\n%s", want, score)
		}
	}
	specs, err := readReport(filepath.Join(dir, "H2.json"))
	if err != nil {
		t.Fatal(err)
	}
	packages, err := wanted("H2", "")
	if err != nil {
		t.Fatal(err)
	}
	results := packages[0].results(specs)
	if err := keepFailures(filepath.Join(dir, "H2"), results); err != nil {
		t.Fatal(err)
	}
	if log, err := os.ReadFile(filepath.Join(dir, "H2", "01.log")); err != nil || !strings.Contains(string(log), "STEP: one") {
		t.Errorf("the log of the failure: %s, %v", log, err)
	}
	var out strings.Builder
	if printScore(&out, results) {
		t.Error("a failure counts as success")
	}
	if out.String() != "H2     0 of   1\n     "+results[0].name+"\n          failed: no such host\n" {
		t.Errorf("printed: %q", out.String())
	}
}
