//go:build unix

package faults_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
)

// A loss is a way to lose a process in the middle of an advance.
type loss int

const (
	killed    loss = iota
	frozen         // until another process may have its rows
	cutOff         // half-open for that long
	forgotten      // the connections of all processes stay half-open, and new ones pass
)

// rowsHeld is longer than the server keeps rows locked for a process that is frozen or cut off during an advance.
const rowsHeld = 14 * time.Second

// loseAdvance loses a process just as it sends the INSERT or the COMMIT of an advance.
func loseAdvance(c *cluster, at moment, how loss, every time.Duration) {
	c.awaitPhase(every, every/2)
	lost := make(chan *node, 1)
	var once sync.Once
	for _, n := range c.living() {
		n.proxy.setHook(func(now moment) (f fate) {
			if now != at {
				return passes
			}
			once.Do(func() {
				switch how {
				case killed:
					n.signal(syscall.SIGKILL)
					f = cut
				case frozen:
					n.freeze()
				case cutOff:
					f = allLost
				case forgotten:
					forgetAll(c)
					f = nowhere
				}
				lost <- n
			})
			return f
		})
	}
	var victim *node
	select {
	case victim = <-lost:
	case <-time.After(3 * every):
		c.t.Fatal("no process advanced a schedule")
	}
	for _, n := range c.living() {
		n.proxy.setHook(nil)
	}
	switch how {
	case killed:
		<-victim.exited
		c.launch(victim.jobs)
	case frozen:
		pass(c.t, rowsHeld)
		victim.thaw()
	case cutOff:
		pass(c.t, rowsHeld)
		victim.proxy.reset()
	}
}

func forgetAll(c *cluster) {
	for _, n := range c.living() {
		n.proxy.forget()
	}
}

// truncateJobs deletes all jobs at an instant when none is waiting or running, because a job deleted before it has run
// is lost.
func truncateJobs(c *cluster, options string) {
	errBusy := errors.New("a job is waiting or running")
	until(c.t, time.Minute, "no job is waiting or running", func() bool {
		err := pgx.BeginFunc(c.t.Context(), c.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(c.t.Context(), `LOCK TABLE river.river_job`); err != nil {
				return err
			}
			var busy bool
			err := tx.QueryRow(c.t.Context(), `SELECT EXISTS (SELECT FROM river.river_job WHERE finalized_at IS NULL)`).Scan(&busy)
			if err != nil {
				return err
			}
			if busy {
				return errBusy
			}
			_, err = tx.Exec(c.t.Context(), `TRUNCATE river.river_job `+options)
			return err
		})
		if errors.Is(err, errBusy) {
			return false
		}
		require.NoError(c.t, err)
		return true
	})
}

// truncateAndReuse deletes all jobs and gives their IDs to others, so that the IDs stored in the rows of schedules
// belong to other jobs.
func truncateAndReuse(c *cluster) {
	truncateJobs(c, "RESTART IDENTITY")
	execSQL(c.t, c.pool, `INSERT INTO river.river_job (id, args, kind, max_attempts, state)
		SELECT last_job_id, '{}', 'nobodys.job', 1, 'available' FROM river.everytick_schedule WHERE last_job_id IS NOT NULL`)
	execSQL(c.t, c.pool, `SELECT setval('river.river_job_id_seq', (SELECT max(id) FROM river.river_job))`)
}

// dueNow makes the tick before a schedule's next one due.
func (c *cluster) dueNow(j job) {
	c.t.Helper()
	require.Positive(c.t, execSQL(c.t, c.pool, `UPDATE river.everytick_schedule SET next_tick = next_tick - $2::interval WHERE name = $1`,
		j.Name, j.Every))
}

// status returns the status of a job as a process that is not started reports it.
func (c *cluster) status(j job) jobs.Status {
	c.t.Helper()
	s, err := newScheduler(c.pool, []job{j}, quiet, 0)
	require.NoError(c.t, err)
	all, err := s.Jobs(c.t.Context())
	require.NoError(c.t, err)
	require.Len(c.t, all, 1)
	return all[0]
}

// outcomeOf measures a job and checks that no tick was doubled, and that a later run stands for each tick without a run
// of its own.
func (c *cluster) outcomeOf(fault string, j job, from, to time.Time) outcome {
	c.t.Helper()
	o := c.measure(j, from, to)
	o.fault = fault
	c.t.Log(o)
	require.Zero(c.t, o.doubled, "doubled: %s", o)
	require.Equal(c.t, o.stoodFor, o.lost, "lost: %s", o)
	return o
}

// shortRetention keeps jobs for a minute, which is shorter than the schedule's interval.
func shortRetention(t *testing.T, fault string) []outcome {
	c := newCluster(t, sharedServer(t), false)
	c.retention = time.Minute
	j := job{Name: "tick.rare", Every: 100 * time.Second}
	for range processesPerService {
		c.launch([]job{j})
	}
	from := c.nextTick(j.Name).Add(-j.Every)
	c.dueNow(j)
	until(t, 10*time.Second, "the job has run", func() bool { return len(c.firstRuns(j.Name)) == 1 })
	next := from.Add(j.Every)
	kept := func() int { return scalar[int](t, c.pool, `SELECT count(*) FROM ticks`) }
	require.Equal(t, 1, kept())
	until(t, 95*time.Second, "River has deleted the job", func() bool { return kept() == 0 || c.now().After(next) })
	check := func(tick time.Time) {
		st := c.status(j)
		require.Equal(t, tick, st.PrevTick)
		require.Equal(t, jobs.StateCompleted, st.PrevState)
		require.Equal(t, tick, st.LastSuccess)
	}
	if c.now().Before(next) {
		check(from)
	}
	until(t, j.Every+10*time.Second, "the job has run again", func() bool { return len(c.firstRuns(j.Name)) == 2 })
	pass(t, 2*time.Second) // until the result is stored
	check(next)
	c.requireNoneDoubled()
	o := c.outcomeOf(fault, j, from, next.Add(time.Second))
	require.Zero(t, o.lost, o.String())
	return []outcome{o}
}

// rollOut rolls a version out and back, several times and in several ways, while processes of both versions run.
func rollOut(t *testing.T, fault string) []outcome {
	c := newCluster(t, sharedServer(t), false)
	execSQL(t, c.pool, `CREATE TABLE claims (n serial, spec text, at timestamptz)`)
	execSQL(t, c.pool, `CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF TG_OP = 'INSERT' OR OLD.spec <> NEW.spec THEN
				INSERT INTO public.claims (spec, at) VALUES (NEW.spec, clock_timestamp());
			END IF;
			RETURN NULL;
		END $$`)
	execSQL(t, c.pool, `CREATE TRIGGER note_claim AFTER INSERT OR UPDATE ON river.everytick_schedule FOR EACH ROW EXECUTE FUNCTION note_claim()`)
	const name = "app.changes"
	older, newer := []job{{Name: name, Every: 2 * time.Second}}, []job{{Name: name, Every: 3 * time.Second}}
	const phase = 8 * time.Second

	var all []outcome
	var want []string
	// continues checks that the version takes the row over, and that its ticks run.
	continues := func(version []job, within time.Duration) {
		spec := "every " + version[0].Every.String()
		want = append(want, spec)
		until(t, within, "the row has the schedule "+spec, func() bool {
			return scalar[string](t, c.pool, `SELECT spec FROM river.everytick_schedule`) == spec
		})
		from := scalar[time.Time](t, c.pool, `SELECT max(at) FROM claims`)
		pass(t, phase)
		to := c.now().Add(-lateAfter)
		o := c.outcomeOf(fmt.Sprintf("%s (%d)", fault, len(want)), version[0], from, to)
		require.Zero(t, o.lost, o.String())
		require.Positive(t, o.expected)
		all = append(all, o)
	}
	for range processesPerService {
		c.launch(older)
	}
	continues(older, time.Second)
	for range 2 {
		first := c.launch(newer)
		continues(newer, time.Second)
		first.terminate()
		continues(older, 5*time.Second)
	}
	crashes := c.launch(newer)
	continues(newer, time.Second)
	crashes.kill()
	continues(older, deadAfter+5*time.Second)
	c.launch(newer)
	continues(newer, time.Second)
	c.launch(older) // rolled back before the newer processes have stopped
	continues(older, time.Second)
	c.launch(newer)
	continues(newer, time.Second)

	rows, err := c.pool.Query(t.Context(), `SELECT spec FROM claims ORDER BY n`)
	require.NoError(t, err)
	claims, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, want, claims, "the row changes with each rollout and each rollback, and at no other time")
	c.requireNoneDoubled()

	sum := outcome{fault: fault, every: older[0].Every}
	for _, o := range all {
		sum.expected += o.expected
		sum.inserted += o.inserted
		sum.late += o.late
		sum.latest = max(sum.latest, o.latest)
	}
	return []outcome{sum}
}

// libfaketime is where Debian's package of that name installs it.
const libfaketime = "/usr/lib/*/faketime/libfaketime.so.1"

// newFakeTimeServer starts a server whose system clock a test can set. It returns nil without libfaketime or Postgres
// binaries to run under it.
func newFakeTimeServer(t testing.TB) *server {
	t.Helper()
	found, _ := filepath.Glob(libfaketime)
	if len(found) == 0 {
		return nil
	}
	real := sharedServer(t).Source
	if _, err := exec.LookPath(filepath.Join(real, "postgres")); err != nil {
		return nil
	}
	// Another user may run the server, and must be able to enter the directory.
	dir, err := os.MkdirTemp("/tmp", "faults-") //nolint:usetesting // others cannot enter t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	offset := filepath.Join(dir, "offset")
	for name, text := range map[string]string{
		"postgres": "LD_PRELOAD=" + found[0] + " FAKETIME_TIMESTAMP_FILE=" + offset +
			" FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1 exec " + real + "/postgres \"$@\"\n",
		"initdb": "exec " + real + "/initdb \"$@\"\n",
	} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755))
		require.NoError(t, os.Chmod(file, 0o755))
	}
	s := &server{fakeTime: offset}
	s.setFakeTime(t, 0)
	s.DB = dbtest.Server(t, devdb.Options{Getenv: func(key string) string {
		switch key {
		case "PGBIN":
			return dir
		case "DATABASE_URL":
			return ""
		}
		return os.Getenv(key)
	}})
	require.NoError(t, s.prepare())
	return s
}

// setFakeTime shifts the server's clock; 0 corrects it.
func (s *server) setFakeTime(t testing.TB, ahead time.Duration) {
	t.Helper()
	next := s.fakeTime + ".next"
	require.NoError(t, os.WriteFile(next, fmt.Appendf(nil, "%+d\n", int(ahead.Seconds())), 0o644))
	require.NoError(t, os.Chmod(next, 0o644))
	require.NoError(t, os.Rename(next, s.fakeTime))
}

// setClock sets the database's clock forward by an hour, back, and forward again. It is the server's own clock if
// libfaketime is installed, and otherwise that of the schema clock.
func setClock(t *testing.T, fault string) []outcome {
	s := newFakeTimeServer(t)
	if s == nil {
		s = sharedServer(t)
	}
	c := newCluster(t, s, s.fakeTime == "")
	set := func(ahead time.Duration) {
		if s.fakeTime == "" {
			c.setClockAhead(ahead)
		} else {
			s.setFakeTime(t, ahead)
		}
	}
	all := append(jobsOf("tick", 2*time.Second, 5*time.Second), held("tick")...)
	for range processesPerService {
		c.launch(all)
	}
	for _, j := range all {
		until(t, time.Minute, j.Name+" has run", func() bool { return len(c.firstRuns(j.Name)) > 0 })
	}
	c.leader()
	onTime := func(from time.Time) {
		to := c.now().Add(-lateAfter)
		for _, j := range all {
			o := c.outcomeOf(fault, j, from, to)
			require.Zero(t, o.lost, o.String())
			require.Zero(t, o.late, o.String())
			require.Greater(t, o.expected, 1, o.String())
		}
	}

	var outcomes []outcome
	from := c.now()
	set(time.Hour)
	pass(t, 18*time.Second)
	to := c.now().Add(-lateAfter)
	for _, j := range all {
		o := c.outcomeOf(fault, j, from, to)
		require.Equal(t, 1, o.late, "one run stands for the hour: %s", o)
		require.GreaterOrEqual(t, o.lost, int(time.Hour/j.Every)-2, o.String())
		outcomes = append(outcomes, o)
	}
	onTime(c.now().Add(-13 * time.Second))

	runs := func() int { return scalar[int](t, c.pool, `SELECT count(*) FROM runs`) }
	set(0)
	pass(t, 3*time.Second) // until running handlers have returned
	before := runs()
	pass(t, 10*time.Second)
	require.Equal(t, before, runs(), "the ticks of the repeated hour have run already")
	for _, j := range all {
		st := c.status(j)
		require.Contains(t, st.OverdueReason, "the database's clock was set back")
		require.Greater(t, st.NextTick.Sub(c.now()), 59*time.Minute)
	}
	c.requireNoneDoubled()

	from = c.now().Add(time.Hour + 2*time.Second)
	set(time.Hour)
	pass(t, 15*time.Second)
	onTime(from)
	c.settle(c.now().Add(-lateAfter))
	c.requireNoneDoubled()
	require.Equal(t, 1, scalar[int](t, c.pool, `SELECT max(attempt) FROM runs`), "no job was rescued")
	return outcomes
}

// longTimeout kills a process during a run whose timeout is an hour.
func longTimeout(t *testing.T, fault string) []outcome {
	c := newCluster(t, sharedServer(t), false)
	j := job{Name: "tick.long", Every: 5 * time.Second, Hold: 3 * time.Second, Timeout: time.Hour}
	for range processesPerService {
		c.launch([]job{j})
	}
	from := c.now()
	id, _, victim := c.awaitRun(j.Name, from, anyNode)
	victim.kill()
	died := c.now()
	c.requireRunAgain(id, died)
	to := c.now()
	c.settle(to)
	c.requireNoneDoubled()
	o := c.outcomeOf(fault, j, from, to)
	require.Zero(t, o.lost, o.String())
	return []outcome{o}
}

// requireRunAgain waits for the second attempt of a job whose process died.
func (c *cluster) requireRunAgain(id int64, died time.Time) {
	c.t.Helper()
	until(c.t, rescueWithin+5*time.Second, "the job runs again", func() bool {
		return scalar[int](c.t, c.pool, `SELECT max(attempt) FROM runs WHERE job = $1`, id) == 2
	})
	again := scalar[time.Time](c.t, c.pool, `SELECT started FROM runs WHERE job = $1 AND attempt = 2`, id)
	c.t.Logf("second attempt %s after the process died", again.Sub(died).Round(time.Millisecond))
	require.Less(c.t, again.Sub(died), rescueWithin)
}

// longOutage takes the database down for many times DeadAfter while a job runs.
func longOutage(t *testing.T, fault string) []outcome {
	c := newCluster(t, newServer(t), false)
	const away = 90 * time.Second
	j := job{Name: "tick.often", Every: 5 * time.Second}
	all := []job{j}
	const processes = 4
	for n := range processes {
		all = append(all, job{Name: fmt.Sprintf("tick.long-%d", n), Every: time.Hour, Hold: away + 4*deadAfter, Timeout: time.Hour})
	}
	// Each process runs a job, because the first to see the database again could take those for dead whose last
	// heartbeat was before its own.
	ids := map[*node]int64{}
	for _, long := range all[1:] {
		n := c.launch(all)
		for other := range ids {
			other.freeze()
		}
		since := c.now()
		c.dueNow(long)
		id, _, runner := c.awaitRun(long.Name, since, anyNode)
		require.Equal(t, n, runner)
		for other := range ids {
			other.thaw()
		}
		ids[n] = id
	}
	c.leader()
	from := c.now()
	takePostgresDown(c, j.Every, 2500*time.Millisecond, away)
	for n, id := range ids {
		until(t, time.Minute, "the job has completed", func() bool {
			return scalar[string](t, c.pool, `SELECT state::text FROM river.river_job WHERE id = $1`, id) == "completed"
		})
		require.True(t, n.alive())
		require.Equal(t, 1, scalar[int](t, c.pool, `SELECT attempt::int FROM river.river_job WHERE id = $1`, id))
		require.Equal(t, 1, scalar[int](t, c.pool, `SELECT count(*) FROM runs WHERE job = $1`, id), "the process keeps its job")
	}
	to := c.now().Truncate(j.Every)
	c.settle(to)
	c.requireNoneDoubled()
	o := c.outcomeOf(fault, j, from, to)
	require.Equal(t, 1, o.late, "one late run: %s", o)
	return []outcome{o}
}

// wokenLate freezes a process until its job has been given to another, and wakes it while the other runs the job or
// after that has run it.
func wokenLate(t *testing.T, fault string) []outcome {
	c := newCluster(t, sharedServer(t), false)
	// The first attempt ends when its process is woken, by success or by its timeout.
	j := job{Name: "tick.held", Every: 20 * time.Second, Hold: 5 * time.Second, Timeout: 6 * time.Second}
	for range processesPerService {
		c.launch([]job{j})
	}
	from := c.now()
	type row struct {
		State     string
		Attempt   int
		Finalized *time.Time
		Errors    int
	}
	read := func(id int64) row {
		rows, err := c.pool.Query(t.Context(), `SELECT state::text, attempt::int, finalized_at, coalesce(cardinality(errors), 0)
			FROM river.river_job WHERE id = $1`, id)
		require.NoError(t, err)
		r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
		require.NoError(t, err)
		return r
	}
	for round := range 4 {
		id, _, victim := c.awaitRun(j.Name, c.now(), anyNode)
		victim.freeze()
		c.requireRunAgain(id, c.now())
		again := scalar[time.Time](t, c.pool, `SELECT started FROM runs WHERE job = $1 AND attempt = 2`, id)
		during := round%2 == 0
		if during {
			pass(t, time.Second)
			victim.thaw()
			pass(t, 2*time.Second)
			require.Equal(t, row{State: "running", Attempt: 2, Errors: 1}, read(id), "the late result changes nothing")
		}
		until(t, 15*time.Second, "the job has completed", func() bool { return read(id).State == "completed" })
		stored := read(id)
		if !during {
			victim.thaw()
		}
		require.GreaterOrEqual(t, stored.Finalized.Sub(again), j.Hold, "the second attempt's result is stored")
		pass(t, 4*time.Second)
		require.Equal(t, stored, read(id))
		require.Equal(t, 1, stored.Errors)
		require.Equal(t, 2, scalar[int](t, c.pool, `SELECT count(*) FROM runs WHERE job = $1`, id), "there is no third run")
	}
	to := c.now()
	c.settle(to)
	c.requireNoneDoubled()
	o := c.outcomeOf(fault, j, from, to)
	require.Zero(t, o.lost, o.String())
	return []outcome{o}
}
