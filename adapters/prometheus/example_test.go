package prometheus_test

import (
	"context"
	"fmt"

	client "github.com/prometheus/client_golang/prometheus"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/adapters/prometheus"
	"github.com/everytick/everytick/jobs"
)

func Example() {
	metrics := prometheus.New(nil)
	scheduler, err := memory.New(&memory.Config{Defaults: metrics.Options()}) // or river.New
	check(err)
	check(scheduler.RegisterCron("audit.retention", "0 3 * * *", func(context.Context, *jobs.Job) error { return nil }))

	registry := client.NewRegistry()
	registry.MustRegister(metrics.Collector(scheduler)) // serve it with promhttp.HandlerFor
	families, err := registry.Gather()
	check(err)
	for _, family := range families {
		fmt.Println(family.GetName())
	}
	// Output:
	// everytick_healthy
	// everytick_job_attempts_total
	// everytick_job_last_success_timestamp_seconds
	// everytick_job_paused
	// everytick_job_skips_total
	// everytick_job_triggers_total
	// everytick_jobs
	// everytick_oldest_waiting_seconds
	// everytick_schedule_overdue_seconds
	// everytick_up
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
