package differential

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// side is one of the two servers, and what it has answered.
type side struct {
	t      *testing.T
	name   string
	base   string
	client *http.Client
	log    []exchange
}

// call is one request. A body that is no string is sent as JSON.
type call struct {
	name, method, path  string
	body                any
	contentType, accept string
	header              map[string]string
	until               func(event map[string]any) bool // for watches: the last event to read
}

// exchange is a call with its answer.
type exchange struct {
	call
	Status   int
	Type     string
	Warnings []string
	Body     any
}

func connect(t *testing.T, name, kubeconfig string) *side {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Timeout = time.Minute
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return &side{t: t, name: name, base: strings.TrimSuffix(config.Host, "/"), client: client}
}

// do sends a call, records the answer and returns its body if that is an object.
func (s *side) do(c call) map[string]any {
	e := s.send(c)
	s.log = append(s.log, e)
	body, _ := e.Body.(map[string]any)
	return body
}

// send sends a call. What doesn't get an answer at all ends the test.
func (s *side) send(c call) exchange {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // cleanups send as well
	defer cancel()
	var body io.Reader
	switch b := c.body.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			s.t.Errorf("%s: %v", c.name, err)
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, c.method, s.base+c.path, body)
	if err != nil {
		s.t.Errorf("%s: %v", c.name, err)
		return exchange{call: c}
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "differential/1")
	if c.accept != "" {
		r.Header.Set("Accept", c.accept)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.contentType != "" {
		r.Header.Set("Content-Type", c.contentType)
	}
	for name, value := range c.header {
		r.Header.Set(name, value)
	}
	answer, err := s.client.Do(r)
	if err != nil {
		if s.name == "skiff" { // where Kubernetes breaks off, the answers differ
			s.t.Errorf("%s: %s: %v", s.name, c.name, err)
		}
		return exchange{call: c}
	}
	defer answer.Body.Close()
	e := exchange{call: c, Status: answer.StatusCode, Type: answer.Header.Get("Content-Type"), Warnings: answer.Header.Values("Warning")}
	if c.until != nil && answer.StatusCode == http.StatusOK {
		e.Body = events(answer.Body, c.until)
		return e
	}
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Errorf("%s: %s: %v", s.name, c.name, err)
	}
	if json.Unmarshal(data, &e.Body) != nil {
		e.Body = string(data)
	}
	return e
}

// events reads a watch up to the event that last is true for, or to its end.
func events(r io.Reader, last func(map[string]any) bool) []any {
	all := []any{}
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadBytes('\n')
		var event map[string]any
		if json.Unmarshal(line, &event) == nil {
			all = append(all, event)
		}
		if err != nil || event != nil && last(event) {
			return all
		}
	}
}

// eventually repeats a call, unrecorded, until its answer satisfies.
func (s *side) eventually(c call, satisfied func(exchange) bool) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if satisfied(s.send(c)) {
			return
		}
	}
	s.t.Errorf("%s: %s: never as expected", s.name, c.name)
}
