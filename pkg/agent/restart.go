package agent

import (
	"encoding/hex"
	"hash/fnv"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// shouldRestart says whether a container that has ended with code is to run
// again: by its own rules, its own policy, or the pod's (KEP-5307).
func shouldRestart(pod *v1.Pod, c *v1.Container, code int) bool {
	policy := v1.ContainerRestartPolicy(pod.Spec.RestartPolicy)
	if c.RestartPolicy != nil {
		if rule := matchingRule(c, code); rule != nil {
			return true // both actions restart it
		}
		policy = *c.RestartPolicy
	}
	switch policy {
	case v1.ContainerRestartPolicyNever:
		return false
	case v1.ContainerRestartPolicyOnFailure:
		return code != 0
	}
	return true
}

// restartsAll says whether the end of this container starts the whole pod over.
func restartsAll(c *v1.Container, code int) bool {
	rule := matchingRule(c, code)
	return rule != nil && rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
}

func matchingRule(c *v1.Container, code int) *v1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		rule := &c.RestartPolicyRules[i]
		if rule.ExitCodes == nil {
			continue
		}
		in := slices.Contains(rule.ExitCodes.Values, int32(code))
		if in == (rule.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn) {
			return rule
		}
	}
	return nil
}

// nextBackoff raises a container's back-off when it is restarted, as
// client-go's flowcontrol.Backoff does.
func (c *Container) nextBackoff(now time.Time) {
	if c.Backoff == 0 || now.Sub(c.BackoffAt) > 2*maxBackoff {
		c.Backoff = firstBackoff
	} else {
		c.Backoff = min(2*c.Backoff, maxBackoff)
	}
	c.BackoffAt = now
}

// restartAt is when a container that ended at a time may run again.
func (c *Container) restartAt(ended time.Time) time.Time {
	if c.Backoff == 0 || ended.Sub(c.BackoffAt) > 2*maxBackoff {
		return ended
	}
	return ended.Add(c.Backoff)
}

// containerHash changes when a running container has to be replaced: of what
// can change in a pod's spec, that is the image alone.
func containerHash(c *v1.Container) string {
	h := fnv.New64a()
	h.Write([]byte(c.Name + "\x00" + c.Image))
	return hex.EncodeToString(h.Sum(nil))
}
