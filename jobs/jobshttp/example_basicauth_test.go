package jobshttp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

func newAdmin(s jobs.Scheduler, passwords map[string]string) http.Handler {
	login := jobshttp.BasicAuth(passwords) // leaves the probes open
	return jobshttp.New(s, &jobshttp.Options{
		Authorize: func(r *http.Request, action jobshttp.Action, job string) error {
			if err := login(r, action, job); err != nil {
				return err
			}
			user, _, _ := r.BasicAuth()
			if user == "guest" && action != jobshttp.ActionRead && action != jobshttp.ActionProbe {
				return errors.New("guests may only look")
			}
			return nil
		},
		Who: func(r *http.Request) string { user, _, _ := r.BasicAuth(); return user },
	})
}

// The probes are open, so that Kubernetes can call them. Everything else needs a password, and guests may only look.
func ExampleBasicAuth() {
	scheduler, err := memory.New(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	send := func(context.Context, *jobs.Job) error { return nil }
	if err := scheduler.RegisterDelayed("email.send", 0, send); err != nil {
		fmt.Println(err)
		return
	}
	admin := newAdmin(scheduler, map[string]string{"ann": "secret", "guest": "welcome"})
	ask := func(method, path, user, password string) {
		r := httptest.NewRequest(method, path, nil)
		r.Header.Set("Content-Type", "application/json")
		if user != "" {
			r.SetBasicAuth(user, password)
		}
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		fmt.Println(path, user, w.Code)
	}
	ask("GET", "/livez", "", "")
	ask("GET", "/readyz", "", "") // not started
	ask("GET", "/", "", "")       // a browser asks for the password
	ask("GET", "/api/jobs", "ann", "wrong")
	ask("GET", "/api/jobs", "ann", "secret")
	ask("GET", "/api/jobs", "guest", "welcome")
	ask("POST", "/api/jobs/email.send/pause", "guest", "welcome")
	ask("POST", "/api/jobs/email.send/pause", "ann", "secret")
	// Output:
	// /livez  200
	// /readyz  503
	// /  401
	// /api/jobs ann 401
	// /api/jobs ann 200
	// /api/jobs guest 200
	// /api/jobs/email.send/pause guest 403
	// /api/jobs/email.send/pause ann 200
}
