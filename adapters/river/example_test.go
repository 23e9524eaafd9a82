package river_test

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// A complete application that runs jobs. It is only compiled, because it runs until it is interrupted.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	check(err)
	check(river.Migrate(ctx, pool, nil)) // River's tables, in the schema "river"
	scheduler, err := river.New(pool, nil)
	check(err)

	// Usually, each module of the application has its own RegisterXJobs(scheduler).
	check(scheduler.RegisterCron("audit.retention", "0 3 * * *", func(ctx context.Context, job *jobs.Job) error {
		tag, err := job.DB.Exec(ctx, "DELETE FROM audit WHERE at < now() - interval '1 year'")
		if err != nil {
			return err // retried after 5 s, then 10 s
		}
		job.Logger.Info("retention done", "tick", job.Tick, "deleted", tag.RowsAffected())
		return nil
	}, jobs.Timeout(time.Minute)))
	type greeting struct{ Name string }
	const greet jobs.Kind[greeting] = "users.greet"
	check(greet.Register(scheduler, func(_ context.Context, job *jobs.Job, args greeting) error {
		job.Logger.Info("hello " + args.Name)
		return nil
	}))

	check(scheduler.Start(ctx))
	id, err := greet.Trigger(ctx, scheduler, greeting{"Ann"}, jobs.Delay(2*time.Second))
	check(err)
	slog.Info("triggered", "id", id)
	<-ctx.Done()
	last, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	check(scheduler.Shutdown(last)) // waits for running jobs, and interrupts those that take longer
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
