package batch

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

// How much a job's policies may hold.
const (
	maxRules         = 20
	maxPatterns      = 20
	maxExitCodes     = 255
	maxIndexesLength = 64 << 10
)

func atMost(at *field.Path, n, most int) check.Errors {
	if n <= most {
		return nil
	}
	return check.Errors{field.TooMany(at, n, most)}
}

// choose is [check.Choice] whose complaint about nothing lists the values.
func choose[T ~string](at *field.Path, v T, supported ...T) check.Errors {
	if v == "" {
		return check.Errors{field.Required(at, fmt.Sprintf("valid values: %q", supported))}
	}
	return check.OneOf(at, v, supported...)
}

func podFailurePolicy(at *field.Path, s *batchv1.JobSpec) check.Errors {
	if s.PodFailurePolicy == nil {
		return nil
	}
	at = at.Child("rules")
	errs := atMost(at, len(s.PodFailurePolicy.Rules), maxRules)
	for i := range s.PodFailurePolicy.Rules {
		errs = append(errs, podFailureRule(at.Index(i), &s.PodFailurePolicy.Rules[i], s)...)
	}
	return errs
}

func podFailureRule(at *field.Path, r *batchv1.PodFailurePolicyRule, s *batchv1.JobSpec) check.Errors {
	errs := choose(at.Child("action"), r.Action, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
	if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if r.OnExitCodes != nil {
		errs = append(errs, exitCodes(at.Child("onExitCodes"), r.OnExitCodes, &s.Template.Spec)...)
	}
	conditions := at.Child("onPodConditions")
	errs = append(errs, atMost(conditions, len(r.OnPodConditions), maxPatterns)...)
	for i, p := range r.OnPodConditions {
		at := conditions.Index(i)
		errs = slices.Concat(errs, check.QualifiedName(at.Child("type"), string(p.Type)), choose(at.Child("status"), p.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown))
	}
	switch {
	case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

func exitCodes(at *field.Path, r *batchv1.PodFailurePolicyOnExitCodesRequirement, s *corev1.PodSpec) check.Errors {
	errs := choose(at.Child("operator"), r.Operator, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if n := r.ContainerName; n != nil {
		named := func(c corev1.Container) bool { return c.Name == *n }
		if !slices.ContainsFunc(s.Containers, named) && !slices.ContainsFunc(s.InitContainers, named) {
			errs = append(errs, field.Invalid(at.Child("containerName"), *n, "must be one of the container or initContainer names in the pod template"))
		}
	}
	at = at.Child("values")
	if len(r.Values) == 0 {
		errs = append(errs, field.Invalid(at, r.Values, "at least one value is required"))
	}
	errs = append(errs, atMost(at, len(r.Values), maxExitCodes)...)
	seen := map[int32]bool{}
	for i, v := range r.Values {
		if v == 0 && r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			errs = append(errs, field.Invalid(at.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen[v] {
			errs = append(errs, field.Duplicate(at.Index(i), v))
		}
		seen[v] = true
	}
	if !slices.IsSorted(r.Values) {
		errs = append(errs, field.Invalid(at, r.Values, "must be ordered"))
	}
	return errs
}

func successPolicy(at *field.Path, s *batchv1.JobSpec) check.Errors {
	if s.SuccessPolicy == nil {
		return nil
	}
	if !isIndexed(s) {
		return check.Errors{field.Invalid(at, *s.SuccessPolicy, "requires indexed completion mode")}
	}
	at = at.Child("rules")
	var errs check.Errors
	if len(s.SuccessPolicy.Rules) == 0 {
		errs = append(errs, field.Required(at, "at least one rules must be specified when the successPolicy is specified"))
	}
	errs = append(errs, atMost(at, len(s.SuccessPolicy.Rules), maxRules)...)
	if s.Completions == nil {
		return errs // which is a fault already
	}
	for i := range s.SuccessPolicy.Rules {
		errs = append(errs, successRule(at.Index(i), &s.SuccessPolicy.Rules[i], *s.Completions)...)
	}
	return errs
}

func successRule(at *field.Path, r *batchv1.SuccessPolicyRule, completions int32) check.Errors {
	var errs check.Errors
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	var total int32
	if list := r.SucceededIndexes; list != nil {
		at := at.Child("succeededIndexes")
		if len(*list) > maxIndexesLength {
			errs = append(errs, field.TooLong(at, "", maxIndexesLength))
		}
		intervals, err := indexes(*list, completions)
		if err != nil {
			errs = append(errs, field.Invalid(at, *list, "error parsing succeededIndexes: "+err.Error()))
		}
		for _, i := range intervals {
			total += i.last - i.first + 1
		}
	}
	if n := r.SucceededCount; n != nil {
		at := at.Child("succeededCount")
		errs = append(errs, check.NonNegative(at, *n)...)
		if *n > completions {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
		}
		if r.SucceededIndexes != nil && *n > total {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
		}
	}
	return errs
}

// interval is a run of indexes, both ends among them.
type interval struct{ first, last int32 }

// indexes reads a list of indexes below completions, in their order: "1,3-5". It is empty when there is an error.
func indexes(list string, completions int32) ([]interval, error) {
	if list == "" {
		return nil, nil
	}
	var all []interval
	for text := range strings.SplitSeq(list, ",") {
		one, err := indexInterval(text, completions)
		if err != nil {
			return nil, err
		}
		if len(all) > 0 && all[len(all)-1].last >= one.first {
			return nil, notIncreasing(all[len(all)-1].last, one.first)
		}
		all = append(all, one)
	}
	return all, nil
}

func indexInterval(text string, completions int32) (interval, error) {
	ends := strings.Split(text, "-")
	if len(ends) > 2 {
		return interval{}, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	var numbers []int32
	for _, end := range ends {
		n, err := strconv.Atoi(end)
		if err != nil {
			return interval{}, fmt.Errorf("cannot convert string to integer for index: %q", end)
		}
		if n >= int(completions) {
			return interval{}, fmt.Errorf("too large index: %q", end)
		}
		numbers = append(numbers, int32(n))
	}
	first, last := numbers[0], numbers[len(numbers)-1]
	if len(ends) == 2 && first >= last {
		return interval{}, notIncreasing(first, last)
	}
	return interval{first, last}, nil
}

func notIncreasing(previous, current int32) error {
	return fmt.Errorf("non-increasing order, previous: %d, current: %d", previous, current)
}

// overlap reports the first index that is in both lists. What can't be read is passed over: others report it.
func overlap(completed, failed string, completions int32) error {
	read := func(list string) (all []interval) {
		for text := range strings.SplitSeq(list, ",") {
			if one, err := indexInterval(text, completions); err == nil {
				all = append(all, one)
			}
		}
		return all
	}
	a, b := read(completed), read(failed)
	for len(a) > 0 && len(b) > 0 {
		if a[0].first <= b[0].last && b[0].first <= a[0].last {
			return errors.New("failedIndexes and completedIndexes overlap at index: " + strconv.Itoa(int(max(a[0].first, b[0].first))))
		}
		if b[0].first < a[0].first {
			b = b[1:]
		} else {
			a = a[1:]
		}
	}
	return nil
}
