// Package check holds the small checks that the validation of kinds is made of. Each takes the
// path of a value and the value, and returns what is wrong with it, in Kubernetes' words: scripts
// match on them. A check that finds nothing allocates nothing but its path; joining them is
// [slices.Concat].
package check

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// Errors is what a check returns.
type Errors = field.ErrorList

// Messages makes one invalid-value error of each message.
func Messages(at *field.Path, value any, messages []string) Errors {
	var errs Errors
	for _, m := range messages {
		errs = append(errs, field.Invalid(at, value, m))
	}
	return errs
}

// Label is a DNS-1123 label.
func Label(at *field.Path, v string) Errors { return Messages(at, v, utilvalidation.IsDNS1123Label(v)) }

// Subdomain is a DNS-1123 subdomain: the rule for most names.
func Subdomain(at *field.Path, v string) Errors {
	return Messages(at, v, utilvalidation.IsDNS1123Subdomain(v))
}

// QualifiedName is a name with an optional domain before a slash.
func QualifiedName(at *field.Path, v string) Errors {
	return Messages(at, v, utilvalidation.IsQualifiedName(v))
}

// ConfigKey is a key of a config map or a secret.
func ConfigKey(at *field.Path, v string) Errors {
	return Messages(at, v, utilvalidation.IsConfigMapKey(v))
}

// Required reports an empty string.
func Required(at *field.Path, v string) Errors {
	if v == "" {
		return Errors{field.Required(at, "")}
	}
	return nil
}

// RequiredLabel is a label that must be there.
func RequiredLabel(at *field.Path, v string) Errors {
	if v == "" {
		return Errors{field.Required(at, "")}
	}
	return Label(at, v)
}

// OneOf reports a value outside of those supported, which are listed as they are passed.
func OneOf[T ~string](at *field.Path, v T, supported ...T) Errors {
	if slices.Contains(supported, v) {
		return nil
	}
	return Errors{field.NotSupported(at, v, supported)}
}

// Choice is OneOf for values that must be there.
func Choice[T ~string](at *field.Path, v T, supported ...T) Errors {
	if v == "" {
		return Errors{field.Required(at, "")}
	}
	return OneOf(at, v, supported...)
}

// NonNegative reports a number below zero.
func NonNegative[T ~int32 | ~int64](at *field.Path, v T) Errors {
	if v >= 0 {
		return nil
	}
	return validation.ValidateNonnegativeField(int64(v), at)
}

// NonNegativeIf is NonNegative for an optional number.
func NonNegativeIf[T ~int32 | ~int64](at *field.Path, v *T) Errors {
	if v == nil {
		return nil
	}
	return NonNegative(at, *v)
}

// Positive reports a number below one.
func Positive(at *field.Path, v int64) Errors {
	if v > 0 {
		return nil
	}
	return Errors{field.Invalid(at, v, "must be greater than zero")}
}

// Immutable reports a change.
func Immutable(at *field.Path, now, old any) Errors {
	return validation.ValidateImmutableField(now, old, at)
}

// NotDecremented reports a counter that went down or away.
func NotDecremented(at *field.Path, now, old *int32) Errors {
	if old == nil || now != nil && *now >= *old {
		return nil
	}
	var v int32
	if now != nil {
		v = *now
	}
	return Errors{field.Invalid(at, v, "cannot be decremented")}
}

// NotAbove reports a count of something that exceeds the count of which it is a part.
func NotAbove(at *field.Path, part, whole int32, name string) Errors {
	if part <= whole {
		return nil
	}
	return Errors{field.Invalid(at, part, "cannot be greater than "+name)}
}

// Selector is a label selector. A lax one may hold values that no label has.
func Selector(at *field.Path, s *metav1.LabelSelector, lax bool) Errors {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lax}, at)
}

// IP is an address in its canonical form; what is among old may stay as it is.
func IP(at *field.Path, v string, old ...string) Errors {
	return utilvalidation.IsValidIPForLegacyField(at, v, true, old)
}

// CIDR is a range of addresses in its canonical form; what is among old may stay as it is.
func CIDR(at *field.Path, v string, old ...string) Errors {
	return utilvalidation.IsValidCIDRForLegacyField(at, v, true, old)
}

// EndpointIP is an address that traffic can be sent to.
func EndpointIP(at *field.Path, v string) Errors {
	ip := netutils.ParseIPSloppy(v)
	if ip == nil {
		return Errors{field.Invalid(at, v, "must be a valid IP address")}
	}
	var errs Errors
	bad := func(is bool, message string) {
		if is {
			errs = append(errs, field.Invalid(at, v, message))
		}
	}
	bad(ip.IsUnspecified(), fmt.Sprintf("may not be unspecified (%v)", v))
	bad(ip.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	bad(ip.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	bad(ip.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	return errs
}
