package jobshttp_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs/jobshttp"
)

// userOf returns who is logged in, by the login of your application.
func userOf(r *http.Request) string {
	session, err := r.Cookie("session")
	if err != nil {
		return ""
	}
	return session.Value
}

// Operators may see and do everything. Kubernetes may call the probes without a login.
func ExampleNew() {
	scheduler, err := memory.New(nil)
	if err != nil {
		panic(err)
	}
	admin := jobshttp.New(scheduler, &jobshttp.Options{
		Authorize: func(r *http.Request, action jobshttp.Action, _ string) error {
			switch {
			case action == jobshttp.ActionProbe, userOf(r) == "ann":
				return nil
			case userOf(r) == "":
				return jobshttp.ErrUnauthenticated
			}
			return errors.New("only operators may enter")
		},
		Challenge: "Cookie", // for which browsers do not ask for a password
		Who:       userOf,
	})
	mux := http.NewServeMux()
	mux.Handle("/admin/jobs/", http.StripPrefix("/admin/jobs", admin))

	for _, user := range []string{"", "bob", "ann"} {
		for _, path := range []string{"/admin/jobs/", "/admin/jobs/livez"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			if user != "" {
				r.AddCookie(&http.Cookie{Name: "session", Value: user})
			}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			fmt.Printf("%q %s %d\n", user, path, w.Code)
		}
	}
	// Output:
	// "" /admin/jobs/ 401
	// "" /admin/jobs/livez 200
	// "bob" /admin/jobs/ 403
	// "bob" /admin/jobs/livez 200
	// "ann" /admin/jobs/ 200
	// "ann" /admin/jobs/livez 200
}
