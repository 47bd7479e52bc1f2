package admissionregistration

import (
	"sync"

	"github.com/google/cel-go/cel"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Compiler compiles the CEL expressions of webhooks and policies that have no variables of their own. It is made
// when it is first asked for: that takes a moment.
var Compiler = sync.OnceValue(func() plugincel.Compiler {
	return plugincel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
})

// Condition is an expression that is true or false, as [Compiler] takes it.
type Condition string

// GetExpression returns the expression.
func (c Condition) GetExpression() string { return string(c) }

// ReturnTypes are the types that the expression may have.
func (Condition) ReturnTypes() []*cel.Type { return []*cel.Type{cel.BoolType} }
