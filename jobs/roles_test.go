package jobs_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// plain is a scheduler without any optional role.
type plain struct{ jobs.Scheduler }

// pausing is a scheduler with one optional role.
type pausing struct{ plain }

func (*pausing) Pause(context.Context, string) error  { return nil }
func (*pausing) Resume(context.Context, string) error { return nil }

// wrapper wraps a scheduler.
type wrapper struct{ jobs.Scheduler }

func (w *wrapper) Unwrap() jobs.Scheduler { return w.Scheduler }

// pausingWrapper is a wrapper that implements the role itself.
type pausingWrapper struct{ wrapper }

func (*pausingWrapper) Pause(context.Context, string) error  { return nil }
func (*pausingWrapper) Resume(context.Context, string) error { return nil }

// opaque hides the roles of the wrapped scheduler.
type opaque struct{ jobs.Scheduler }

func TestAs(t *testing.T) {
	t.Parallel()
	inner := &pausing{}
	outer := &pausingWrapper{wrapper: wrapper{inner}}
	for _, test := range []struct {
		rule string
		s    any
		want jobs.Pauser
	}{
		{"the scheduler's own role", inner, inner},
		{"the role of a wrapped scheduler", &wrapper{inner}, inner},
		{"the role behind two wrappers", &wrapper{&wrapper{inner}}, inner},
		{"the role of the outermost", &wrapper{outer}, outer},
		{"none without Unwrap", &opaque{inner}, nil},
		{"none", &plain{}, nil},
		{"none of a wrapped scheduler", &wrapper{&plain{}}, nil},
		{"none of a wrapped nil", &wrapper{}, nil},
		{"none of nil", nil, nil},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			role, ok := jobs.As[jobs.Pauser](test.s)
			require.Equal(t, test.want != nil, ok)
			require.True(t, test.want == role, "%T", role)
		})
	}
}
