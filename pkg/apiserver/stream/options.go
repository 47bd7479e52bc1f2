package stream

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// reader reads typed values out of a query; the first that can't be read is its error.
type reader struct {
	query url.Values
	err   error
}

func (r *reader) fail(name, value string, err error) {
	if r.err == nil {
		r.err = apierrors.NewBadRequest(fmt.Sprintf("unable to decode query parameter %s=%q: %v", name, value, err))
	}
}

// flag is true when present, and neither false nor 0.
func (r *reader) flag(name string) bool {
	values := r.query[name]
	if len(values) == 0 {
		return false
	}
	return values[0] != "false" && values[0] != "0"
}

func (r *reader) number(name string) *int64 {
	text := r.query.Get(name)
	if text == "" {
		return nil
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		r.fail(name, text, err)
		return nil
	}
	return &v
}

// LogOptions reads the parameters of pods/log.
func LogOptions(query url.Values, pod string) (*corev1.PodLogOptions, error) {
	r := &reader{query: query}
	o := &corev1.PodLogOptions{
		Container:  query.Get("container"),
		Follow:     r.flag("follow"),
		Previous:   r.flag("previous"),
		Timestamps: r.flag("timestamps"),

		SinceSeconds: r.number("sinceSeconds"),
		TailLines:    r.number("tailLines"),
		LimitBytes:   r.number("limitBytes"),

		InsecureSkipTLSVerifyBackend: r.flag("insecureSkipTLSVerifyBackend"),
		Stream:                       ptr.To(corev1.LogStreamAll),
	}
	if text := query.Get("sinceTime"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			r.fail("sinceTime", text, err)
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	if text := query.Get("stream"); text != "" {
		o.Stream = &text
	}
	if r.err != nil {
		return nil, r.err
	}
	if errs := validateLog(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), pod, errs)
	}
	return o, nil
}

func validateLog(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	streams := []string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}
	switch *o.Stream {
	case corev1.LogStreamAll:
	case corev1.LogStreamStdout, corev1.LogStreamStderr:
		if o.TailLines != nil {
			errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
		}
	default:
		errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream, streams))
	}
	return errs
}

// LogQuery is what the agent is asked.
func LogQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	set := func(name string, on bool) {
		if on {
			q.Set(name, "true")
		}
	}
	set("follow", o.Follow)
	set("previous", o.Previous)
	set("timestamps", o.Timestamps)
	for name, v := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if v != nil {
			q.Set(name, strconv.FormatInt(*v, 10))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	q.Set("stream", *o.Stream)
	return q
}

// ExecOptions reads the parameters of pods/exec.
func ExecOptions(query url.Values) *corev1.PodExecOptions {
	r := &reader{query: query}
	return &corev1.PodExecOptions{
		Stdin: r.flag("stdin"), Stdout: r.flag("stdout"), Stderr: r.flag("stderr"), TTY: r.flag("tty"),
		Container: query.Get("container"), Command: query["command"],
	}
}

// AttachOptions reads the parameters of pods/attach.
func AttachOptions(query url.Values) *corev1.PodAttachOptions {
	r := &reader{query: query}
	return &corev1.PodAttachOptions{
		Stdin: r.flag("stdin"), Stdout: r.flag("stdout"), Stderr: r.flag("stderr"), TTY: r.flag("tty"),
		Container: query.Get("container"),
	}
}

// PortForwardOptions reads the parameters of pods/portforward.
func PortForwardOptions(query url.Values) (*corev1.PodPortForwardOptions, error) {
	o := &corev1.PodPortForwardOptions{}
	for _, text := range query["ports"] {
		port, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("unable to decode query parameter ports=%q: %v", text, err))
		}
		o.Ports = append(o.Ports, int32(port))
	}
	return o, nil
}

// ExecQuery is what the agent is asked: the kubelet's own names for the streams.
func ExecQuery(stdin, stdout, stderr, tty bool, command []string) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{corev1.ExecStdinParam: stdin, corev1.ExecStdoutParam: stdout, corev1.ExecStderrParam: stderr, corev1.ExecTTYParam: tty} {
		if on {
			q.Set(name, "1")
		}
	}
	for _, c := range command {
		q.Add(corev1.ExecCommandParam, c)
	}
	return q
}

// PortForwardQuery is what the agent is asked.
func PortForwardQuery(o *corev1.PodPortForwardOptions) url.Values {
	if len(o.Ports) == 0 {
		return nil
	}
	ports := make([]string, len(o.Ports))
	for i, p := range o.Ports {
		ports[i] = strconv.Itoa(int(p))
	}
	return url.Values{corev1.PortHeader: {strings.Join(ports, ",")}}
}
