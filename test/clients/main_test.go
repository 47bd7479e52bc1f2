// Package clients holds what others have written for Kubernetes against a
// cluster: client-go's informers, typed, dynamic and metadata clients and leader
// election, kubectl, Helm's packages, controller-runtime's manager. One node, made
// by `ctl cluster create --isolated`, is shared by all tests; each works in a
// namespace of its own.
//
// It is a module of its own and imports nothing of Skiff: a program that was
// written for Kubernetes doesn't either, and the trees of Helm and
// controller-runtime stay out of what Skiff is built from. Both are of the last
// releases on client-go 0.36, the line that Skiff serves.
//
// The tests use the binaries in bin/, which `make clients` builds first.
package clients

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

const helloImage = "skiff.local/hello:1"

var (
	// clusterName can be chosen, so that several people can run tests on one machine.
	clusterName   = cmp.Or(os.Getenv("SKIFF_TEST_CLIENTS"), "test-clients")
	root          string // of the source tree
	kubeconfig    string // the administrator's
	restConfig    *rest.Config
	client        kubernetes.Interface
	dynamicClient dynamic.Interface
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("these tests need root")
		return 1
	}
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	root = filepath.Dir(filepath.Dir(dir))
	home, err := os.MkdirTemp("", "skiff-test-clients-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(home)
	kubeconfig = filepath.Join(home, "kubeconfig")
	os.Setenv("KUBECONFIG", kubeconfig)
	os.Setenv("HOME", home) // kubectl's caches
	quiet := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})
	klog.SetSlogLogger(slog.New(quiet))
	log.SetLogger(logr.FromSlogHandler(quiet))

	// What a killed run of these tests has left.
	command("", "bin/ctl", "cluster", "delete", clusterName)
	defer func() {
		if os.Getenv("SKIFF_KEEP") == "" {
			command("", "bin/ctl", "cluster", "delete", clusterName)
		}
	}()
	for _, args := range [][]string{
		{"cluster", "create", clusterName, "--isolated"},
		{"cluster", "load", clusterName, filepath.Join(root, "bin/images/hello.tar")},
	} {
		if out, err := command("", "bin/ctl", args...); err != nil {
			fmt.Println(out, err)
			return 1
		}
	}
	restConfig, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		panic(err)
	}
	restConfig.QPS = -1
	client = kubernetes.NewForConfigOrDie(restConfig)
	dynamicClient = dynamic.NewForConfigOrDie(restConfig)
	return m.Run()
}

// command runs a program of the source tree and returns everything it printed.
func command(stdin, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(root, program), args...)
	c.Dir = root
	c.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.String(), err
}

// newNamespace makes a namespace for a test, and deletes it afterwards.
func newNamespace(t *testing.T) string {
	t.Helper()
	n, err := client.CoreV1().Namespaces().Create(t.Context(),
		&v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := command("", "bin/ctl", "get", "all,events", "-n", n.Name)
			t.Logf("what is in %s:\n%s", n.Name, out)
		}
		client.CoreV1().Namespaces().Delete(context.Background(), n.Name, metav1.DeleteOptions{})
	})
	return n.Name
}

// newCRD makes a custom resource of a group, served as v1 with a status, and
// takes it away afterwards. Its spec has a size from 0 to 9 and a note.
func newCRD(t *testing.T, group, plural, kind string) {
	t.Helper()
	nine, zero := 9.0, 0.0
	spec := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"size": {Type: "integer", Minimum: &zero, Maximum: &nine}, "note": {Type: "string"},
	}}
	schema := &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"spec":   spec,
		"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"copies": {Type: "integer"}}},
	}}
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{
				Plural: plural, Singular: strings.ToLower(kind), Kind: kind, ListKind: kind + "List",
				ShortNames: []string{plural[:3]}, Categories: []string{"clienttests"}, // "all" would disturb other tests while it goes
			},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema:       &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: schema},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			}},
		},
	}
	crds := apiextensions.NewForConfigOrDie(restConfig).ApiextensionsV1().CustomResourceDefinitions()
	eventually(t, time.Minute, crd.Name+" is made", func() error { // after that of an earlier run of the test is gone
		_, err := crds.Create(t.Context(), crd, metav1.CreateOptions{})
		return err
	})
	t.Cleanup(func() {
		if err := crds.Delete(context.Background(), crd.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	eventually(t, 20*time.Second, crd.Name+" is established", func() error {
		now, err := crds.Get(t.Context(), crd.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range now.Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", now.Status.Conditions)
	})
}

// killApiserver ends the apiserver with SIGKILL, and returns when its successor is ready.
func killApiserver(t *testing.T) {
	t.Helper()
	file := filepath.Join(cmp.Or(os.Getenv("SKIFF_HOME"), "/var/lib/skiff"),
		"clusters", clusterName, "nodes", clusterName+"-master-1", "pid", "apiserver.pid")
	pid := func() int {
		text, _ := os.ReadFile(file)
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	was := pid()
	if was == 0 {
		t.Fatalf("%s names no process", file)
	}
	if err := syscall.Kill(was, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the apiserver is ready again", func() error {
		if now := pid(); now == 0 || now == was {
			return fmt.Errorf("pid %d, was %d", now, was)
		}
		return client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error()
	})
}

// eventually waits for something that has no event to wait for.
func eventually(t *testing.T, patience time.Duration, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still not so after %v: %v", what, patience, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
