package catalogue

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/diff"
	"sigs.k8s.io/yaml"

	"skiff/pkg/api"
)

var rewrite = flag.Bool("rewrite", false, "write the expected files anew")

// TestDefaults fills in testdata/defaults/*.in.yaml and compares with *.out.yaml.
func TestDefaults(t *testing.T) {
	inputs, err := filepath.Glob("testdata/defaults/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no test data", err)
	}
	view := Default().View()
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			text, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			decoded, gvk, err := api.StrictYAML.Decode(text, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			obj := decoded.(api.Object)
			view.ByKind(*gvk).Default(obj)
			got, err := yaml.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			output := strings.TrimSuffix(input, ".in.yaml") + ".out.yaml"
			if *rewrite {
				if err := os.WriteFile(output, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(output)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Error(diff.Diff(string(want), string(got)))
			}
		})
	}
}
