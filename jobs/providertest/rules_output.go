package providertest

import (
	"context"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

var outputRules = []rule{
	{name: "a run has the output that its handler set last, whether or not the attempt succeeded", check: outputIsStored},
	{name: "output that cannot be stored is refused, and the output before it stays", check: outputIsChecked},
	{name: "output of a transactional job is stored, and so are its snoozes and failures", check: outputOfTransactions},
	{name: "middleware may replace the job and still sees and keeps its output", check: outputPassesMiddleware},
}

func outputIsStored(e *env) {
	role[jobs.RunLister](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		switch do := e.do(job); {
		case do == "nothing":
			return nil
		case do == "once" && job.Attempt > 1:
			return nil
		}
		if err := job.SetOutput("replaced"); err != nil {
			return jobs.Permanent(err)
		}
		if err := job.SetOutput(map[string]any{"attempt": job.Attempt, "text": "<größe>"}); err != nil {
			return jobs.Permanent(err)
		}
		if job.Attempt < 2 {
			return errAgain
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.RetryDelay(0)))
	e.start()
	for _, test := range []struct{ do, want string }{
		{"each", `{"attempt": 2, "text": "<größe>"}`}, {"once", `{"attempt": 1, "text": "<größe>"}`}, {"nothing", ""},
	} {
		id := e.trigger("test.job", map[string]string{"do": test.do})
		e.eventually("the run to complete", func() (any, bool) {
			runs := e.runs("test.job")
			return runs, runs[0].ID == id && runs[0].State == jobs.StateCompleted
		})
		output := e.runs("test.job")[0].Output
		if test.want == "" {
			require.Nil(e, output, "Output of a run whose handler set none")
			continue
		}
		require.JSONEq(e, test.want, string(output), "Output of a run whose handler set it in attempts: %s", test.do)
	}
}

func outputIsChecked(e *env) {
	role[jobs.RunLister](e)
	refused := make(chan error, 10)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if err := job.SetOutput([]int{1, 2}); err != nil {
			return jobs.Permanent(err)
		}
		for _, v := range []any{make(chan int), "a\x00b", "a\xff", strings.Repeat("x", jobs.MaxOutputBytes)} {
			refused <- job.SetOutput(v)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	e.trigger("test.job", nil)
	for range 4 {
		require.ErrorIs(e, receive(e, refused, "the handler to set its output"), jobs.ErrInvalidData)
	}
	e.total(jobs.StateCompleted, 1)
	require.JSONEq(e, `[1, 2]`, string(e.runs("test.job")[0].Output), "Output")
}

func outputPassesMiddleware(e *env) {
	role[jobs.RunLister](e)
	seen := make(chan string, 10)
	late := make(chan *jobs.Job, 10)
	replaces := jobs.Use(func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			other := *job
			err := next(ctx, &other)
			seen <- string(job.Output())
			late <- job
			return err
		}
	})
	p := e.probe(func(_ context.Context, job *jobs.Job) error { return job.SetOutput("done") })
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, replaces))
	e.start()
	e.trigger("test.job", nil)
	require.Equal(e, `"done"`, receive(e, seen, "the middleware"), "Output in the middleware")
	e.total(jobs.StateCompleted, 1)
	require.Error(e, receive(e, late, "the job").SetOutput("too late"), "SetOutput after the attempt")
	require.JSONEq(e, `"done"`, string(e.runs("test.job")[0].Output), "Output")
}

func outputOfTransactions(e *env) {
	role[jobs.RunLister](e)
	opt, failed := failures()
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Snoozes == 0 {
			return jobs.Snooze(0, "not yet")
		}
		if err := job.SetOutput(job.Snoozes); err != nil {
			return jobs.Permanent(err)
		}
		if e.do(job) == "fail" {
			return jobs.Permanent(errAgain)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Transactional(), opt))
	e.start()
	for _, test := range []struct {
		do    string
		state jobs.State
	}{{"complete", jobs.StateCompleted}, {"fail", jobs.StateFailed}} {
		id := e.trigger("test.job", map[string]string{"do": test.do})
		e.total(test.state, 1)
		listed := e.runs("test.job")[0]
		require.Equal(e, id, listed.ID, "ID")
		require.Equal(e, "1", string(listed.Output), "Output of a run that is %s", test.state)
		require.Equal(e, 1, listed.Snoozes, "Snoozes of a run that is %s", test.state)
	}
	require.Equal(e, "1", string(receive(e, failed, "a call of OnFailed").Output), "Output in OnFailed")
	require.Empty(e, failed, "further calls of OnFailed")
}
