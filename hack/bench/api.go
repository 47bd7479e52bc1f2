package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/cluster"
)

// server is an apiserver that is measured: Skiff's, or a kube-apiserver that somebody runs.
type server struct {
	name   string
	url    string
	client *http.Client
	pids   []int // of the apiserver, and of its etcd if that is a process of its own

	empty   int64 // bytes of memory before the objects
	watcher int64 // bytes of memory of each watcher
}

// connectAPI makes a server from a kubeconfig; url may be empty.
func connectAPI(name, url, kubeconfig string, pids []int) (*server, error) {
	config, err := clientcmd.BuildConfigFromFlags(url, kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = "bench" // curl's and browsers' would get indented answers
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	return &server{name: name, url: config.Host, client: &http.Client{Transport: transport}, pids: pids}, nil
}

// parseKubernetes reads the flag of that name: URL,KUBECONFIG,PID[,PID].
func parseKubernetes(text string) (*server, error) {
	parts := strings.Split(text, ",")
	if len(parts) < 3 {
		return nil, errors.New("-kubernetes is URL,KUBECONFIG,PID[,PID of its etcd]")
	}
	var pids []int
	for _, part := range parts[2:] {
		pid, err := strconv.Atoi(part)
		if err != nil {
			return nil, fmt.Errorf("-kubernetes: %q is no process id", part)
		}
		pids = append(pids, pid)
	}
	return connectAPI("Kubernetes", parts[0], parts[1], pids)
}

// processor is the time that the server's processes have been running on a processor.
func (s *server) processor() (time.Duration, error) {
	const tick = time.Second / 100 // USER_HZ
	var total time.Duration
	for _, pid := range s.pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// The second field is a name in parentheses, and may hold anything.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		for _, field := range fields[11:13] { // utime, stime: the 14th and 15th of all
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, err
			}
			total += time.Duration(ticks) * tick
		}
	}
	return total, nil
}

func (s *server) resident() (int64, error) {
	var total int64
	for _, pid := range s.pids {
		kib, err := proportional(pid)
		if err != nil {
			return 0, err
		}
		total += int64(kib) << 10
	}
	return total, nil
}

// What the steps work on.
const (
	few, many = "bench-few", "bench-many" // namespaces
	ofFew     = 1000
	ofMany    = 10000
	workers   = 4
	watchers  = 1000
	lists     = 20
	updates   = 200 // of what is watched
)

// apiStep is a line of the table, or several.
type apiStep struct {
	what, goal string
	do         func(ctx context.Context, s *server, n int) (sample, error)
}

// sample is what a step measured of one server: what a number of operations took.
type sample struct {
	operations int
	processor  time.Duration
	latencies  []time.Duration
	text       string // instead of all that
}

// The goals are a third (requests), a tenth (lists), a quarter (events) and a fifth (memory) of what
// Kubernetes 1.36.1 took on a machine with two cores; -kubernetes has it beside them.
var apiSteps = []apiStep{
	{"create", "0.43 ms", func(ctx context.Context, s *server, n int) (sample, error) {
		return s.measure(ctx, ofMany, func(i int) request {
			return request{"POST", collectionOf(many), configMap(objectName(i), "x"), runtime.ContentTypeJSON}
		})
	}},
	{"memory per object of 512 bytes", "", func(_ context.Context, s *server, _ int) (sample, error) {
		bytes, err := s.resident()
		return sample{text: fmt.Sprintf("%d bytes", (bytes-s.empty)/ofMany)}, err
	}},
	{"get", "0.21 ms", func(ctx context.Context, s *server, n int) (sample, error) {
		return s.measure(ctx, n, func(i int) request { return request{"GET", object(many, i), "", runtime.ContentTypeJSON} })
	}},
	{"get, protobuf", "0.21 ms", func(ctx context.Context, s *server, n int) (sample, error) {
		return s.measure(ctx, n, func(i int) request { return request{"GET", object(many, i), "", runtime.ContentTypeProtobuf} })
	}},
	{"update", "0.51 ms", func(ctx context.Context, s *server, n int) (sample, error) {
		return s.measure(ctx, n, func(i int) request {
			return request{"PUT", object(many, i), configMap(objectName(i), "y"), runtime.ContentTypeJSON}
		})
	}},
	{"merge patch", "0.61 ms", func(ctx context.Context, s *server, n int) (sample, error) {
		return s.measure(ctx, n, func(i int) request {
			return request{"PATCH", object(many, i), `{"data":{"b":"z"}}`, runtime.ContentTypeJSON}
		})
	}},
	listing("list of 1,000, JSON", "1.6 ms", few, "", runtime.ContentTypeJSON),
	listing("list of 1,000, protobuf", "1.1 ms", few, "", runtime.ContentTypeProtobuf),
	listing("list of 10,000, JSON", "16 ms", many, "", runtime.ContentTypeJSON),
	listing("list of 10,000, protobuf", "11 ms", many, "", runtime.ContentTypeProtobuf),
	listing("list of 10,000, from the cache", "10 ms", many, "?resourceVersion=0", runtime.ContentTypeProtobuf),
	{"list of 10,000: first byte", "", func(ctx context.Context, s *server, _ int) (sample, error) {
		var first []time.Duration
		for range lists {
			took, err := s.firstByte(ctx, request{"GET", collectionOf(many), "", runtime.ContentTypeProtobuf})
			if err != nil {
				return sample{}, err
			}
			first = append(first, took)
		}
		return sample{latencies: first}, nil
	}},
	{fmt.Sprintf("event to each of %d watchers", watchers), "3.3 µs", func(ctx context.Context, s *server, _ int) (sample, error) { return s.watch(ctx) }},
	{"memory per watcher", "", func(_ context.Context, s *server, _ int) (sample, error) {
		return sample{text: fmt.Sprintf("%d bytes", s.watcher)}, nil
	}},
	{"delete", "0.40 ms", func(ctx context.Context, s *server, n int) (sample, error) {
		return s.measure(ctx, n, func(i int) request { return request{"DELETE", object(many, i), "", runtime.ContentTypeJSON} })
	}},
	{"memory after all that", "207 MB", func(_ context.Context, s *server, _ int) (sample, error) {
		bytes, err := s.resident()
		return sample{text: fmt.Sprintf("%d MB", bytes>>20)}, err
	}},
}

func listing(what, goal, namespace, query, accept string) apiStep {
	return apiStep{what, goal, func(ctx context.Context, s *server, _ int) (sample, error) {
		return s.measure(ctx, lists, func(int) request { return request{"GET", collectionOf(namespace) + query, "", accept} })
	}}
}

// benchAPI measures what requests cost an apiserver, and beside it a real kube-apiserver if one is
// given. n is how many requests of each kind, up to the number of objects.
func benchAPI(ctx context.Context, bin string, n int, kubernetes string) error {
	n = min(n, ofMany)
	if err := cluster.Delete(name, nil); err != nil {
		return err
	}
	spec, err := cluster.Create(ctx, cluster.CreateOptions{
		Options: cluster.Options{Name: name, Masters: 1, Isolated: true, Bin: bin}, Wait: time.Minute})
	if err != nil {
		return err
	}
	own, err := connectAPI("Skiff", "", cluster.AdminKubeconfig(name), []int{cluster.ProcessPid(name, spec.Nodes[0].Name, "apiserver")})
	if err != nil {
		return err
	}
	servers := []*server{own}
	if kubernetes != "" {
		other, err := parseKubernetes(kubernetes)
		if err != nil {
			return err
		}
		servers = append(servers, other)
	}
	for _, s := range servers {
		defer s.clean()
		if err := s.prepare(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Printf("processor time of the apiserver and its etcd for each operation, and what a client waits at %d at a time:\n", workers)
	for _, step := range apiSteps {
		for _, s := range servers {
			got, err := step.do(ctx, s, n)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", s.name, step.what, err)
			}
			goal := ""
			if step.goal != "" && s == own {
				goal = "  (goal " + step.goal + ")"
			}
			fmt.Println(strings.TrimRight(fmt.Sprintf("%-34s %-10s %s%s", step.what, s.name, got, goal), " "))
		}
	}
	return nil
}

func (g sample) String() string {
	if g.text != "" {
		return fmt.Sprintf("%12s%32s", g.text, "")
	}
	cost := ""
	if g.operations > 0 {
		cost = (g.processor / time.Duration(g.operations)).Round(time.Microsecond / 10).String()
	}
	text := fmt.Sprintf("%12s", cost)
	if len(g.latencies) == 0 {
		return fmt.Sprintf("%s%32s", text, "")
	}
	return text + fmt.Sprintf("  p50 %10s  p99 %10s", percentile(g.latencies, 50), percentile(g.latencies, 99))
}

// prepare makes namespaces and the shorter list, and notes what memory the server has.
func (s *server) prepare(ctx context.Context) error {
	s.clean()
	for _, namespace := range []string{few, many} {
		if err := poll(ctx, func(ctx context.Context) error { // the last run's may be on its way out
			return s.do(ctx, request{"POST", "/api/v1/namespaces", fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, namespace), runtime.ContentTypeJSON})
		}); err != nil {
			return err
		}
	}
	if _, err := s.measure(ctx, ofFew, func(i int) request {
		return request{"POST", collectionOf(few), configMap(objectName(i), "x"), runtime.ContentTypeJSON}
	}); err != nil {
		return err
	}
	var err error
	s.empty, err = s.resident()
	return err
}

// clean deletes what was made, for a server that goes on.
func (s *server) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, namespace := range []string{few, many} {
		_ = s.do(ctx, request{"DELETE", collectionOf(namespace), "", runtime.ContentTypeJSON})
		_ = s.do(ctx, request{"DELETE", "/api/v1/namespaces/" + namespace, "", runtime.ContentTypeJSON})
	}
}

func collectionOf(namespace string) string { return "/api/v1/namespaces/" + namespace + "/configmaps" }

func objectName(i int) string { return fmt.Sprintf("object-%d", i) }

func object(namespace string, i int) string { return collectionOf(namespace) + "/" + objectName(i) }

// configMap is one with 512 bytes of data.
func configMap(name, letter string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"a":%q}}`, name, strings.Repeat(letter, 512))
}
