// Package house holds the tests that keep the house in order: who may import
// whom, what every package must have.
package house

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// rows is the package table of the design: a package imports only from higher rows,
// and only what is named for it. A subpackage belongs to its parent; within
// one parent imports only have to be free of cycles.
var rows = [][]struct {
	name string
	may  string
}{
	{{"api", ""}, {"pki", ""}, {"component", ""}},
	{{"store", "api"}, {"etcd", "pki component"}, {"election", "api component"}, {"reconcile", "component"}, {"placement", "api"}},
	{
		{"apiserver", "api store pki election component"},
		{"scheduler", "api placement election reconcile component"},
		{"controller", "api placement election reconcile pki component"},
		{"network", "api"},
		{"proxy", "api reconcile"},
		{"dns", "api"},
	},
	{
		{"agent", "api placement network proxy dns reconcile pki component"},
		{"explain", "api placement scheduler"},
	},
	{{"cluster", "api pki etcd component"}},
}

type goPackage struct {
	ImportPath string
	Doc        string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,GoFiles", "skiff/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := decoder.Decode(&p)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// parent is the table's name for a package: "api" for skiff/pkg/api/core.
func parent(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, "skiff/pkg/")
	name, _, _ := strings.Cut(rest, "/")
	return name, ok
}

func TestImportsFollowTheTable(t *testing.T) {
	may := map[string][]string{}
	for _, row := range rows {
		for _, p := range row {
			may[p.name] = strings.Fields(p.may)
		}
	}
	for _, p := range packages(t) {
		from, ok := parent(p.ImportPath)
		if !ok {
			continue
		}
		allowed, ok := may[from]
		if !ok {
			t.Errorf("%s is not in the table", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			if to, ours := parent(i); ours && to != from && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: the table allows it only %v", p.ImportPath, i, allowed)
			}
			if strings.HasPrefix(i, "skiff/cmd") || strings.HasPrefix(i, "skiff/test") || strings.HasPrefix(i, "skiff/hack") {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
	}
}

// The table itself must go upwards only.
func TestTableGoesUpwards(t *testing.T) {
	above := map[string]bool{}
	for _, row := range rows {
		for _, p := range row {
			for _, name := range strings.Fields(p.may) {
				if !above[name] {
					t.Errorf("%s may import %s, which is on no higher row", p.name, name)
				}
			}
		}
		for _, p := range row {
			above[p.name] = true
		}
	}
}

// The parts of Kubernetes' own server and generic server that are not ours to use.
func TestNoServerOfKubernetes(t *testing.T) {
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			if strings.HasPrefix(i, "k8s.io/kubernetes/") || strings.HasPrefix(i, "k8s.io/apiserver/pkg/server") ||
				strings.HasPrefix(i, "k8s.io/apiserver/pkg/registry") || strings.HasPrefix(i, "k8s.io/apiserver/pkg/endpoints") {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
	}
}

func TestEveryPackageHasADocComment(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no doc comment", p.ImportPath)
		}
	}
}

// cmd/init runs once per container: what it links costs memory that often.
func TestInitLinksNothingHeavy(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "skiff/cmd/init").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, p := range strings.Fields(string(out)) {
		module := strings.Contains(strings.SplitN(p, "/", 2)[0], ".")
		if module && !strings.HasPrefix(p, "golang.org/x/sys/") || p == "net/http" || p == "crypto/tls" {
			t.Errorf("cmd/init links %s", p)
		}
	}
}
