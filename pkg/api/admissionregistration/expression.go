package admissionregistration

import (
	"github.com/google/cel-go/cel"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Expression is a CEL expression as Kubernetes' compiler takes it.
type Expression struct {
	Name  string // of a variable
	Text  string
	Types []*cel.Type // that its value may have
}

// The types of values, by what an expression is for.
var (
	Boolean       = []*cel.Type{cel.BoolType}
	Text          = []*cel.Type{cel.StringType}
	TextOrNothing = []*cel.Type{cel.StringType, cel.NullType}
	Anything      = []*cel.Type{cel.AnyType, cel.DynType}
	Configuration = []*cel.Type{cel.ObjectType("Object")}
	Operations    = []*cel.Type{cel.ListType(cel.ObjectType("JSONPatch"))}
)

// GetExpression, ReturnTypes and GetName are what the compiler asks for.
func (e Expression) GetExpression() string    { return e.Text }
func (e Expression) ReturnTypes() []*cel.Type { return e.Types }
func (e Expression) GetName() string          { return e.Name }

// NewCompiler makes a compiler that keeps the variables of one policy. It takes milliseconds.
func NewCompiler() (*plugincel.CompositedCompiler, error) {
	return plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
}
