package jobshttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

func logOf(run jobs.Run) string {
	return "https://logs.example.com/search?q=" + url.QueryEscape("job_id="+run.ID)
}

// The page of each run links to its log.
func ExampleOptions_logURL() {
	scheduler, err := memory.New(nil)
	if err != nil {
		panic(err)
	}
	err = scheduler.RegisterDelayed("email.send", 0, func(context.Context, *jobs.Job) error { return nil })
	if err != nil {
		panic(err)
	}
	id, err := scheduler.Trigger(context.Background(), "email.send", nil)
	if err != nil {
		panic(err)
	}
	admin := jobshttp.New(scheduler, &jobshttp.Options{
		Authorize: func(*http.Request, jobshttp.Action, string) error { return nil },
		LogURL:    logOf,
	})

	w := httptest.NewRecorder()
	admin.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/runs/"+id, nil))
	fmt.Println(regexp.MustCompile(`https://[^"]*`).FindString(w.Body.String()))
	// Output:
	// https://logs.example.com/search?q=job_id%3Dmemory-1
}
