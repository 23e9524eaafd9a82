package jobstest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobstest"
)

// The examples of docs/testing.md: a module and the tests of its jobs.

// WelcomeArgs is the data of Welcome.
type WelcomeArgs struct {
	User int `json:"user"`
}

// Welcome sends an email to a new user.
const Welcome jobs.Kind[WelcomeArgs] = "users.welcome"

// Users is the module. It sends email through the jobs of another module.
type Users struct{ Jobs jobs.Triggerer }

// RegisterUserJobs registers the module's jobs.
func RegisterUserJobs(s jobs.Scheduler) error {
	users := &Users{Jobs: s}
	return errors.Join(
		Welcome.Register(s, users.welcome),
		s.RegisterCron("users.cleanup", "0 3 * * *", users.cleanUp),
		s.RegisterDelayed("email.send", 0, func(context.Context, *jobs.Job) error { return nil }),
	)
}

func (u *Users) welcome(ctx context.Context, job *jobs.Job, args WelcomeArgs) error {
	switch {
	case args.User == 0:
		return jobs.Permanent(errors.New("no user"))
	case job.Attempt == 1:
		return errors.New("mail server is busy")
	}
	_, err := u.Jobs.Trigger(ctx, "email.send", map[string]string{"to": fmt.Sprintf("user%d@example.com", args.User)})
	return err
}

func (u *Users) cleanUp(_ context.Context, job *jobs.Job) error {
	job.Logger.Info("cleaned up", "tick", job.Tick)
	return nil
}

func TestWelcomeNeedsAUser(t *testing.T) {
	t.Parallel()
	users := &Users{}
	job := &jobs.Job{Attempt: 1, MaxAttempts: 3, Logger: slog.New(slog.DiscardHandler)}
	err := users.welcome(t.Context(), job, WelcomeArgs{User: 0})
	require.EqualError(t, err, "no user")
	require.False(t, job.Retries(err), "nothing gets better by waiting")
}

func TestWelcomeIsRetried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		scheduler, err := memory.New(nil)
		require.NoError(t, err)
		rec := jobstest.Record(scheduler)
		require.NoError(t, RegisterUserJobs(rec))
		require.NoError(t, rec.Start(t.Context()))
		outcome := rec.TriggerAndWait(t, "users.welcome", WelcomeArgs{User: 7})
		require.NoError(t, outcome.Err)
		require.Equal(t, 2, outcome.Attempts)
		rec.RequireEnqueued(t, "email.send", jobstest.DataWith("to", "user7@example.com"))
		require.NoError(t, rec.Shutdown(t.Context()))
	})
}

// newUsers starts the module's jobs and stops them at the end of the test. It must be called in a bubble.
func newUsers(t *testing.T) *jobstest.Recorder {
	t.Helper()
	scheduler, err := memory.New(nil)
	require.NoError(t, err)
	rec := jobstest.Record(scheduler)
	rec.Wait = 24 * time.Hour // of the bubble's time
	require.NoError(t, RegisterUserJobs(rec))
	require.NoError(t, rec.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, rec.Shutdown(context.Background())) })
	return rec
}

func TestTheSecondAttemptComesAfterFiveSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newUsers(t)
		start := time.Now()
		outcome := rec.TriggerAndWait(t, "users.welcome", WelcomeArgs{User: 7}, jobs.Delay(time.Hour))
		require.NoError(t, outcome.Err)
		require.InDelta(t, 5, (time.Since(start) - time.Hour).Seconds(), 0.5) // ± 10 %, the same in every bubble
	})
}

func TestCleanUpRunsAtThreeEachDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newUsers(t) // at midnight: a bubble begins on 1 January 2000
		time.Sleep(48 * time.Hour)
		synctest.Wait()
		ran := rec.Outcomes("users.cleanup")
		require.Len(t, ran, 2)
		require.Equal(t, time.Date(2000, 1, 2, 3, 0, 0, 0, time.UTC), ran[1].Job.Tick)
		require.Zero(t, ran[1].Job.Late())
	})
}

func TestASecondRunReplacesTheFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		scheduler, err := memory.New(nil)
		require.NoError(t, err)
		rec := jobstest.Record(scheduler)
		rec.Repeat = true             // runs each handler that succeeds once more
		welcomed := map[string]bool{} // by run, as a table with the run's ID as its key would be
		require.NoError(t, Welcome.Register(rec, func(_ context.Context, job *jobs.Job, _ WelcomeArgs) error {
			welcomed[job.ID] = true
			return nil
		}))
		require.NoError(t, rec.Start(t.Context()))
		require.NoError(t, jobstest.Of(rec, Welcome).TriggerAndWait(t, WelcomeArgs{User: 7}).Err)
		require.Len(t, welcomed, 1)
		require.NoError(t, rec.Shutdown(t.Context()))
	})
}

func TestSchedulesMakeSense(t *testing.T) {
	t.Parallel()
	jobstest.Lint(t, RegisterUserJobs)
}

func TestARefusedWelcomeSendsNoMail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newUsers(t)
		id, err := Welcome.Trigger(t.Context(), rec, WelcomeArgs{User: 0})
		require.NoError(t, err)
		outcome := rec.Await(t, id)
		require.EqualError(t, outcome.Err, "no user")
		require.Equal(t, 1, outcome.Attempts)
		rec.RequireNotEnqueued(t, "email.send")
	})
}

// signUp stores a user and triggers Welcome, or does neither.
func signUp(ctx context.Context, db jobs.DB, t jobs.Triggerer, user int) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := Welcome.TriggerTx(ctx, t, tx, WelcomeArgs{User: user}); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO users (id) VALUES ($1)", user)
		return err
	})
}

// usersDB is a database whose statements do nothing, or fail with err.
type usersDB struct {
	jobs.DB
	err error
}

func (db *usersDB) Begin(context.Context) (pgx.Tx, error) { return &memory.Tx{DB: db}, nil }

func (db *usersDB) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, db.err
}

func TestAUserWhoIsNotStoredIsNotWelcomed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rec := newUsers(t)
		db := &usersDB{err: errors.New("disk is full")}
		require.ErrorIs(t, signUp(t.Context(), db, rec, 7), db.err)
		db.err = nil
		require.NoError(t, signUp(t.Context(), db, rec, 8))
		time.Sleep(time.Minute) // the welcome is retried
		welcomed := rec.Outcomes("users.welcome")
		require.Len(t, welcomed, 1)
		require.JSONEq(t, `{"user":8}`, string(welcomed[0].Job.Data))
	})
}
