package stream

import (
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestLogOptions(t *testing.T) {
	for query, want := range map[string]string{
		"":                                   "stream=All",
		"follow=true&previous=1&timestamps=": "follow=true&previous=true&stream=All&timestamps=true",
		"follow=false":                       "stream=All",
		"sinceTime=2030-01-02T03:04:05Z&limitBytes=7&stream=Stdout": "limitBytes=7&sinceTime=2030-01-02T03%3A04%3A05Z&stream=Stdout",
		"sinceSeconds=0": `PodLogOptions "p" is invalid: sinceSeconds: Invalid value: 0: must be greater than 0`,
		"sinceSeconds=1&sinceTime=2030-01-02T03:04:05Z": "PodLogOptions \"p\" is invalid: []: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
		"tailLines=-1":              `PodLogOptions "p" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`,
		"tailLines=1&stream=Stderr": "PodLogOptions \"p\" is invalid: []: Forbidden: `tailLines` and specific `stream` are mutually exclusive for now",
		"tailLines=x":               `unable to decode query parameter tailLines="x": strconv.ParseInt: parsing "x": invalid syntax`,
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if o, err := LogOptions(q, "p"); err != nil {
			got = err.Error()
		} else {
			got = LogQuery(o).Encode()
		}
		if got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", query, got, want)
		}
	}
}

func TestExecQuery(t *testing.T) {
	q, _ := url.ParseQuery("stdin=true&stdout=1&stderr=false&tty=0&command=a&command=b%20c&container=x")
	o := ExecOptions(q)
	if got := ExecQuery(o.Stdin, o.Stdout, o.Stderr, o.TTY, o.Command).Encode(); got != "command=a&command=b+c&input=1&output=1" || o.Container != "x" {
		t.Error(got)
	}
	p, err := PortForwardOptions(url.Values{"ports": {"80", "443"}})
	if err != nil || PortForwardQuery(p).Encode() != "port=80%2C443" {
		t.Errorf("%v %v", err, p)
	}
	if _, err := PortForwardOptions(url.Values{"ports": {"x"}}); err == nil {
		t.Error("x is no port")
	}
}

func TestAddress(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "h"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}}
	location, _, err := NewNodes(Config{}).Location(node, false)
	if err != nil || location.String() != "https://192.0.2.1:10250" {
		t.Errorf("%v %v", location, err)
	}
	if _, _, err := NewNodes(Config{}).Location(&corev1.Node{}, false); err == nil {
		t.Error("a node without an address was found")
	}
	if _, _, err := NewNodes(Config{CAFile: "/nonexistent"}).Location(node, false); err == nil {
		t.Error("a missing authority was overlooked")
	}
}
