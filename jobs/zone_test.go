package jobs_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// zoneChildEnv makes TestTimeZone_IsIndependentOfTheProcessesZone run as its own child process.
const zoneChildEnv = "EVERYTICK_ZONE_CHILD"

// The name of the process's own zone depends on TZ and on the zone files. Whatever it is, a zone loaded by its name is
// accepted, and time.Local is refused.
func TestTimeZone_IsIndependentOfTheProcessesZone(t *testing.T) {
	t.Parallel()
	if os.Getenv(zoneChildEnv) != "" {
		checkZones(t)
		return
	}
	const unset = "unset"
	for _, tz := range []string{
		unset, "", "UTC", "Etc/UTC", "Europe/Berlin", ":Europe/Berlin", "Local", "No/Where",
		"/nonexistent", // like a system without zone files
	} {
		t.Run("TZ "+tz, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTimeZone_IsIndependentOfTheProcessesZone$", "-test.count=1")
			cmd.Env = []string{zoneChildEnv + "=1"}
			if tz != unset {
				cmd.Env = append(cmd.Env, "TZ="+tz)
			}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}

func checkZones(t *testing.T) {
	t.Helper()
	handler := func(context.Context, *jobs.Job) error { return nil }
	for _, name := range []string{"UTC", "Etc/UTC", "Europe/Berlin", "America/New_York"} {
		zone, err := time.LoadLocation(name)
		require.NoError(t, err)
		r, err := provider.NewRegistry(jobs.TimeZone(zone))
		require.NoError(t, err, "as a default")
		require.NoError(t, r.RegisterCron("a.job", "0 3 * * *", handler, jobs.TimeZone(zone)))
		d, err := r.Job("a.job")
		require.NoError(t, err)
		_, described := d.Describe()
		require.Equal(t, name, described)
	}
	r, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, r.RegisterCron("a.job", "0 3 * * *", handler, jobs.TimeZone(time.UTC)))
	byName, err := time.LoadLocation("Local")
	require.NoError(t, err)
	for _, local := range []*time.Location{time.Local, byName} { //nolint:gosmopolitan // is refused
		require.ErrorIs(t, r.RegisterCron("a.local", "0 3 * * *", handler, jobs.TimeZone(local)), jobs.ErrInvalidOption)
	}
	time.Local = time.UTC //nolint:gosmopolitan // as some programs do, so that their logs are in UTC
	require.NoError(t, r.RegisterCron("a.utc", "0 3 * * *", handler, jobs.TimeZone(time.UTC)))
}
