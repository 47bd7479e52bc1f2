package catalogue

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/util/diff"
)

func checkDump(t *testing.T, path, got string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error(diff.Diff(string(want), got))
	}
}

// The file was compared with the discovery documents of Kubernetes 1.36: all names and verbs are the same.
func TestDiscoveryDump(t *testing.T) {
	var out strings.Builder
	for _, k := range Default().View().Kinds() {
		scope := "cluster"
		if k.Namespaced {
			scope = "namespace"
		}
		fmt.Fprintf(&out, "%s %s: %s, %s, %s", k.GroupVersion(), k.Resource, k.Kind, k.Singular, scope)
		for _, name := range k.ShortNames {
			fmt.Fprintf(&out, ", short %s", name)
		}
		for _, name := range k.Categories {
			fmt.Fprintf(&out, ", in %s", name)
		}
		verbs := strings.Join(k.ServedVerbs(), " ")
		if k.Verbs == nil {
			verbs = "all verbs"
		}
		fmt.Fprintf(&out, "; %s; ", verbs)
		if k.Virtual {
			out.WriteString("not stored")
		} else {
			fmt.Fprintf(&out, "stored at %s", k.StoragePath)
		}
		if k.UnconditionalUpdate {
			out.WriteString("; unconditional update")
		}
		if k.CreateOnUpdate {
			out.WriteString("; created by update")
		}
		if k.HasGeneration {
			out.WriteString("; generation")
		}
		if k.DefaultGarbageCollection != "" {
			fmt.Fprintf(&out, "; deleted as %s", k.DefaultGarbageCollection)
		}
		if k.ReturnsDeleted {
			out.WriteString("; deletion returns it")
		}
		if k.SelectableFields != nil {
			fmt.Fprintf(&out, "; fields %s", strings.Join(slices.Sorted(maps.Keys(k.SelectableFields(k.New()))), " "))
		}
		out.WriteString("\n")
		for _, name := range slices.Sorted(maps.Keys(k.Subresources)) {
			sub := k.Subresources[name]
			fmt.Fprintf(&out, "    /%s: %s %s; %s\n", name, sub.GroupVersion(), sub.Kind, strings.Join(sub.Verbs, " "))
		}
	}
	checkDump(t, "testdata/discovery.txt", out.String())
}

// Every kind's table, of an empty object and of the golden one.
func TestTableDump(t *testing.T) {
	for _, k := range Default().View().Kinds() {
		goldenDir(t, k) // looked up outside of the bubble
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(20 * 365 * 24 * time.Hour) // of the bubble's clock: golden objects are from 2000 to 2010
		var out strings.Builder
		for _, k := range Default().View().Kinds() {
			if k.Virtual && k.Cells == nil {
				continue
			}
			asJSON, _ := golden(t, k)
			empty, full := k.TableRow(k.New()).Cells, k.TableRow(decode(t, k, asJSON)).Cells
			fmt.Fprintf(&out, "%s %s\n", k.GroupVersion(), k.Resource)
			for i, c := range k.TableColumns() {
				wide := " "
				if c.Priority > 0 {
					wide = "+"
				}
				fmt.Fprintf(&out, "  %s%-24s %-8s %-18v %v\n", wide, c.Name, c.Type, describe(empty, i), describe(full, i))
			}
		}
		checkDump(t, "testdata/tables.txt", out.String())
	})
}

func describe(cells []any, i int) string {
	switch v := cells[i].(type) {
	case string, int64, bool:
		return fmt.Sprintf("%#v", v)
	default:
		return fmt.Sprintf("a %T, which no client expects", v)
	}
}
