package check

import (
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Port is a port's number.
func Port(at *field.Path, port int32) Errors {
	return Messages(at, port, utilvalidation.IsValidPortNum(int(port)))
}

// PortOrName is a port's number or name.
func PortOrName(at *field.Path, port intstr.IntOrString) Errors {
	if port.Type == intstr.String {
		return Messages(at, port.StrVal, utilvalidation.IsValidPortName(port.StrVal))
	}
	return Messages(at, port.IntValue(), utilvalidation.IsValidPortNum(port.IntValue()))
}

// IntOrPercent is a count, or a percentage of one.
func IntOrPercent(at *field.Path, v intstr.IntOrString) Errors {
	if v.Type == intstr.String {
		return Messages(at, v, utilvalidation.IsValidPercent(v.StrVal))
	}
	return NonNegative(at, v.IntVal)
}

// AtMost100Percent reports a larger percentage; anything else is let pass.
func AtMost100Percent(at *field.Path, v intstr.IntOrString) Errors {
	if n, ok := percent(v); ok && n > 100 {
		return Errors{field.Invalid(at, v, "must not be greater than 100%")}
	}
	return nil
}

// IntOrPercentValue is the number of v, whichever of the two it is.
func IntOrPercentValue(v intstr.IntOrString) int {
	if n, ok := percent(v); ok {
		return n
	}
	return v.IntValue()
}

func percent(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(utilvalidation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := strconv.Atoi(v.StrVal[:len(v.StrVal)-1])
	return n, err == nil
}

// NonNegativeQuantity reports a quantity below zero.
func NonNegativeQuantity(at *field.Path, q resource.Quantity) Errors {
	if q.Sign() < 0 {
		return Errors{field.Invalid(at, q.String(), "must be greater than or equal to 0")}
	}
	return nil
}

// PositiveQuantity reports a quantity of zero or below.
func PositiveQuantity(at *field.Path, q resource.Quantity) Errors {
	if q.Sign() <= 0 {
		return Errors{field.Invalid(at, q.String(), "must be greater than zero")}
	}
	return nil
}

// InRange reports a number outside of lo to hi.
func InRange[T ~int32 | ~int64](at *field.Path, v T, lo, hi int) Errors {
	if int64(v) >= int64(lo) && int64(v) <= int64(hi) {
		return nil
	}
	return Errors{field.Invalid(at, v, utilvalidation.InclusiveRangeError(lo, hi))}
}
