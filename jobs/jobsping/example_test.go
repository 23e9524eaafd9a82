package jobsping_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobsping"
)

// A dead man's switch hears of each run. This one is a server of the example's own.
func ExampleNew() {
	ended := make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.URL.Path)
		if r.URL.Path == "/retention" {
			close(ended)
		}
	}))
	defer service.Close()

	ping, err := jobsping.New(service.URL+"/retention", nil)
	check(err)
	s, err := memory.New(nil)
	check(err)
	retain := func(context.Context, *jobs.Job) error { return nil }
	check(s.RegisterCron("audit.retention", "0 3 * * *", retain, jobs.Use(ping)))
	check(s.Start(context.Background()))
	_, err = s.Trigger(context.Background(), "audit.retention", nil)
	check(err)
	<-ended
	check(s.Shutdown(context.Background()))
	// Output:
	// /retention/start
	// /retention
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
