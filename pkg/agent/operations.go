package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/pkg/agent/image"
	"skiff/pkg/agent/probe"
	"skiff/pkg/agent/runtime"
)

// podSource is where the volumes and variables of one pod come from.
type podSource struct{ w *worker }

func (s podSource) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	return s.w.agent.objects.configMap(ctx, namespace, name)
}

func (s podSource) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	return s.w.agent.objects.secret(ctx, namespace, name)
}

func (s podSource) Token(ctx context.Context, pod *v1.Pod, p *v1.ServiceAccountTokenProjection) (string, error) {
	return s.w.tokens.get(ctx, pod, p)
}

func (s podSource) Field(pod *v1.Pod, ref *v1.ObjectFieldSelector) (string, error) {
	return s.w.known.Load().field(pod, ref)
}

func (s podSource) Resource(pod *v1.Pod, ref *v1.ResourceFieldSelector) (string, error) {
	return s.w.known.Load().resource(pod, nil, ref)
}

// errPull tells reasons of a container's waiting apart.
type errPull struct {
	reason  string
	message string
}

func (e *errPull) Error() string { return e.message }

// pull sees to it that the image is there, by the container's policy.
func (w *worker) pull(c *Container) {
	c.Next = Pulling
	var found image.Image
	ref, pod, spec := containerReference(w.pod, c), w.pod, c.Spec
	w.do(w.setup, func(ctx context.Context) (err error) {
		found, err = w.agent.ensureImage(ctx, pod, spec, ref)
		return err
	}, func(err error) {
		if w.setup.Err() != nil {
			c.Next = Idle
			return
		}
		if err == nil {
			c.Next, c.Image, c.PullFailures, c.PullBackoffAt = Pulled, found, 0, time.Time{}
			return
		}
		w.pullFailed(c, err)
	})
}

func (w *worker) pullFailed(c *Container, err error) {
	now := time.Now()
	c.Next = Failed
	reason := &errPull{"ErrImagePull", err.Error()}
	errors.As(err, &reason)
	c.Waiting = &Waiting{reason.reason, reason.message}
	delay := min(firstBackoff<<min(c.PullFailures, 5), maxBackoff)
	c.PullFailures++
	c.RetryAt = now.Add(delay)
	c.PullBackoffAt = time.Time{}
	if reason.reason == "ErrImagePull" {
		// Long enough for the error itself to be seen.
		c.PullBackoffAt = now.Add(time.Second)
	}
	w.event(c, v1.EventTypeWarning, "Failed", "Error: "+reason.reason)
}

// pullBackoff tells that the next try is being put off.
func (w *worker) pullBackoff(c *Container) {
	c.PullBackoffAt = time.Time{}
	message := fmt.Sprintf("Back-off pulling image %q", c.Spec.Image)
	w.event(c, v1.EventTypeNormal, "BackOff", message)
	w.event(c, v1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
	c.Waiting = &Waiting{"ImagePullBackOff", fmt.Sprintf("%s: %s: %s", message, c.Waiting.Reason, c.Waiting.Message)}
}

// ensureImage finds or pulls the image of a container.
func (a *Agent) ensureImage(ctx context.Context, pod *v1.Pod, c *v1.Container, ref *v1.ObjectReference) (image.Image, error) {
	policy := c.ImagePullPolicy
	if policy == "" {
		policy = v1.PullIfNotPresent
	}
	if policy != v1.PullAlways {
		found, err := a.images.Get(ctx, c.Image)
		switch {
		case err == nil:
			if err := a.images.Unpack(ctx, found); err != nil {
				return found, err
			}
			a.events.Eventf(ref, v1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
			return found, nil
		case errors.Is(err, image.ErrInvalidName):
			return found, a.invalidName(ref, c.Image, err)
		case !errors.Is(err, image.ErrNotPresent):
			message := fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)
			a.events.Event(ref, v1.EventTypeWarning, "InspectFailed", message)
			return found, &errPull{"ImageInspectError", message}
		case policy == v1.PullNever:
			message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
			a.events.Event(ref, v1.EventTypeWarning, "ErrImageNeverPull", message)
			return found, &errPull{"ErrImageNeverPull", message}
		}
	}
	if _, err := image.Normalize(c.Image); err != nil {
		return image.Image{}, a.invalidName(ref, c.Image, err)
	}
	auths, err := a.credentials(ctx, pod, c.Image, ref)
	if err != nil {
		return image.Image{}, &errPull{"ErrImagePull", err.Error()}
	}
	a.events.Eventf(ref, v1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	begun := time.Now()
	pulled, err := a.images.Pull(ctx, c.Image, auths)
	if err != nil {
		if ctx.Err() == nil {
			a.events.Eventf(ref, v1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", c.Image, err)
		}
		return pulled, &errPull{"ErrImagePull", err.Error()}
	}
	took := time.Since(begun).Truncate(time.Millisecond)
	a.events.Eventf(ref, v1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.", c.Image, took, took, pulled.Size)
	return pulled, nil
}

func (a *Agent) invalidName(ref *v1.ObjectReference, name string, err error) error {
	message := fmt.Sprintf("Failed to apply default image tag %q: %v", name, err)
	a.events.Event(ref, v1.EventTypeWarning, "InspectFailed", message)
	return &errPull{"InvalidImageName", message}
}

// credentials collects what the pod's image pull secrets say for an image.
// Secrets that don't exist are passed over, as Kubernetes does.
func (a *Agent) credentials(ctx context.Context, pod *v1.Pod, name string, ref *v1.ObjectReference) ([]image.Auth, error) {
	if len(pod.Spec.ImagePullSecrets) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var secrets []*v1.Secret
	var missing []string
	for _, s := range pod.Spec.ImagePullSecrets {
		if s.Name == "" {
			continue
		}
		secret, err := a.objects.secret(ctx, pod.Namespace, s.Name)
		if err != nil {
			missing = append(missing, s.Name)
			continue
		}
		secrets = append(secrets, secret)
	}
	if len(missing) > 0 {
		a.events.Eventf(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	keyring, err := image.NewKeyring(secrets)
	if err != nil {
		return nil, err
	}
	return keyring.Lookup(name), nil
}

// postStart runs the hook of a container that has just been started. Its
// failure stops the container.
func (w *worker) postStart(c *Container) {
	a := c.Current
	a.Hook.Phase = Busy
	w.do(w.opCtx, func(ctx context.Context) error {
		return w.agent.hook(ctx, c.Spec.Lifecycle.PostStart, c.Spec, a.ID, w.podIP())
	}, func(err error) {
		a.Hook.Phase = Ready
		if !a.Running() || a.Reaped {
			return
		}
		if err == nil {
			w.startProbes(c, false)
			return
		}
		w.log.Warn("postStart hook", "container", c.Name, "err", err)
		// Its message may hold what nobody else should see.
		w.event(c, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		a.Unhealthy = &Kill{Message: "FailedPostStartHook"}
	})
}

// preStop runs a hook within what is left of the grace period.
func (w *worker) preStop(c *Container, grace time.Duration) {
	a := c.Current
	a.Stop.Hook.Phase = Busy
	w.do(w.opCtx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		return w.agent.hook(ctx, c.Spec.Lifecycle.PreStop, c.Spec, a.ID, w.podIP())
	}, func(err error) {
		a.Stop.Hook.Phase = Ready
		if err != nil && a.Running() {
			w.log.Warn("preStop hook", "container", c.Name, "err", err)
			w.event(c, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		}
	})
}

// podIP is the pod's first address, from any goroutine.
func (w *worker) podIP() string {
	if facts := w.known.Load(); facts != nil && len(facts.podIPs) > 0 {
		return facts.podIPs[0]
	}
	return ""
}

// hook runs a lifecycle handler.
func (a *Agent) hook(ctx context.Context, h *v1.LifecycleHandler, c *v1.Container, id, podIP string) error {
	switch {
	case h.Exec != nil:
		out := &limitedBuffer{limit: 10 << 10}
		code, err := a.runtime.Exec(ctx, id, runtime.ExecConfig{Args: h.Exec.Command, Stdout: out, Stderr: out})
		if err == nil && code != 0 {
			err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(h.Exec.Command, " "), code, out)
		}
		return err
	case h.HTTPGet != nil:
		request, err := probe.HTTPRequest(ctx, h.HTTPGet, c, podIP)
		if err != nil {
			return err
		}
		if _, set := request.Header["User-Agent"]; !set || request.Header.Get("User-Agent") == "kube-probe/1.36" {
			request.Header.Set("User-Agent", "kube-lifecycle/1.36")
		}
		response, err := a.hookClient.Do(request)
		if err != nil && request.URL.Scheme == "https" && strings.Contains(err.Error(), "HTTP response to HTTPS client") {
			request.URL.Scheme = "http" // what worked before schemes were honoured goes on working
			request.Header.Del("Authorization")
			response, err = a.hookClient.Do(request)
		}
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 10<<10))
		return response.Body.Close()
	case h.TCPSocket != nil:
		return nil // never had an effect in Kubernetes
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("invalid handler: nothing to do")
}

// limitedBuffer keeps the first bytes written to it.
type limitedBuffer struct {
	data  []byte
	limit int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), b.limit-len(b.data))]...)
	return len(p), nil
}

func (b *limitedBuffer) String() string { return string(b.data) }
