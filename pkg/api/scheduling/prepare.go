package scheduling

import (
	"context"

	"skiff/pkg/api"
)

// prepareClassCreate: a priority class has a generation, which never grows.
func prepareClassCreate(_ context.Context, obj api.Object) { obj.SetGeneration(1) }
