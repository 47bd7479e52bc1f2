package controller

import (
	"strings"
	"testing"
)

func TestSelected(t *testing.T) {
	count := func(selectors string) int {
		rows, err := selected(strings.Split(selectors, ","))
		if err != nil {
			t.Fatal(err)
		}
		return len(rows)
	}
	all := len(catalogue)
	for selectors, want := range map[string]int{
		"*":                                   all,
		"*,-deployment-controller":            all - 1,
		"deployment-controller":               1,
		"deployment,replicaset":               2, // names from before 1.28
		"-deployment,*":                       all - 1,
		"deployment,-deployment-controller,*": all, // the first mention counts
		"-deployment-controller,-garbagecollector,*": all - 2,
	} {
		if got := count(selectors); got != want {
			t.Errorf("%s: %d, want %d", selectors, got, want)
		}
	}
	if _, err := selected([]string{"*", "-nonsense"}); err == nil || !strings.Contains(err.Error(), `"nonsense" is not in the list of known controllers`) {
		t.Error(err)
	}
}

func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range catalogue {
		if seen[row.name] || (!strings.HasSuffix(row.name, "-controller") && !strings.HasPrefix(row.name, "skiff-")) || row.account == "" || row.source == "" || row.make == nil {
			t.Errorf("%+v", row)
		}
		seen[row.name] = true
	}
}
