package api

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestColumns(t *testing.T) {
	columns := Columns("Name, Desired#, Attached?, +Node, Age")
	want := []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name"},
		{Name: "Desired", Type: "integer"},
		{Name: "Attached", Type: "boolean"},
		{Name: "Node", Type: "string", Priority: 1},
		{Name: "Age", Type: "string"},
	}
	for i, c := range columns {
		if c != want[i] {
			t.Errorf("got %+v, want %+v", c, want[i])
		}
	}
}

// Descriptions are texts, or those of fields of the type that is stored.
func TestDescriptionsOfColumns(t *testing.T) {
	k := Define[corev1.Pod, corev1.PodList](corev1.SchemeGroupVersion, "pods", Kind{Columns: Columns("Name, Status, +IP, +Node, New")})
	for i, want := range []string{"Name must be unique", "The aggregate status", "podIP address allocated", "NodeName indicates", ""} {
		if got := k.TableColumns()[i].Description; !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("%s: %q, want %q", k.Columns[i].Name, got, want)
		}
	}
}

func TestMakeTable(t *testing.T) {
	k := Define[corev1.LimitRange, corev1.LimitRangeList](corev1.SchemeGroupVersion, "limitranges", Kind{})
	obj := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "a", CreationTimestamp: metav1.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)}}
	for policy, want := range map[metav1.IncludeObjectPolicy]string{
		metav1.IncludeNone: "", metav1.IncludeObject: "LimitRange", metav1.IncludeMetadata: "Partial", "": "Partial", "Some": "error",
	} {
		table, err := MakeTable(k, policy, obj)
		if (err != nil) != (want == "error") {
			t.Errorf("%q: %v", policy, err)
		}
		if err != nil {
			continue
		}
		got := ""
		switch table.Rows[0].Object.Object.(type) {
		case *corev1.LimitRange:
			got = "LimitRange"
		case *metav1.PartialObjectMetadata:
			got = "Partial"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", policy, got, want)
		}
		if cells := table.Rows[0].Cells; cells[0] != "a" || cells[1] != "2024-05-06T07:08:09Z" || table.ColumnDefinitions[1].Name != "Created At" {
			t.Errorf("default table: %v %v", table.ColumnDefinitions, cells)
		}
	}
}

func TestAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for ago, want := range map[time.Duration]string{
			5 * time.Second: "5s", 150 * time.Second: "2m30s", 30 * time.Hour: "30h", 400 * 24 * time.Hour: "400d",
		} {
			if got := Since(time.Now().Add(-ago)); got != want {
				t.Errorf("%v ago is %q, want %q", ago, got, want)
			}
		}
		if got := Since(time.Time{}); got != "<unknown>" {
			t.Errorf("never is %q", got)
		}
	})
}

func TestSome(t *testing.T) {
	for _, c := range []struct {
		items []string
		want  string
	}{
		{nil, "<none>"}, {[]string{"a"}, "a"}, {[]string{"a", "b"}, "a,b"}, {[]string{"a", "b", "c", "d"}, "a,b + 2 more..."},
	} {
		if got := Some(c.items, 2, ",", "<none>"); got != c.want {
			t.Errorf("%v: %q, want %q", c.items, got, c.want)
		}
	}
}
