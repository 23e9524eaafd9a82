package jobs_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// plain is a scheduler without any optional role.
type plain struct{ jobs.Scheduler }

// pausing has one role.
type pausing struct{ plain }

func (*pausing) Pause(context.Context, string) error  { return nil }
func (*pausing) Resume(context.Context, string) error { return nil }

// wrapper may be put in front of a scheduler.
type wrapper struct{ jobs.Scheduler }

func (w *wrapper) Unwrap() jobs.Scheduler { return w.Scheduler }

// pausingWrapper pauses in its own way.
type pausingWrapper struct{ wrapper }

func (*pausingWrapper) Pause(context.Context, string) error  { return nil }
func (*pausingWrapper) Resume(context.Context, string) error { return nil }

// opaque hides the roles of the scheduler behind.
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
		{"its own role", inner, inner},
		{"that behind a wrapper", &wrapper{inner}, inner},
		{"that behind two", &wrapper{&wrapper{inner}}, inner},
		{"the outermost", &wrapper{outer}, outer},
		{"none behind what does not unwrap", &opaque{inner}, nil},
		{"none", &plain{}, nil},
		{"none behind a wrapper", &wrapper{&plain{}}, nil},
		{"none behind a wrapper of nothing", &wrapper{}, nil},
		{"none of nothing", nil, nil},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			role, ok := jobs.As[jobs.Pauser](test.s)
			require.Equal(t, test.want != nil, ok)
			require.True(t, test.want == role, "%T", role)
		})
	}
}
