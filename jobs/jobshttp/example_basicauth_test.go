package jobshttp_test

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

func newAdmin(s jobs.Scheduler, user, password string) http.Handler {
	mayEnter := func(r *http.Request) bool {
		u, p, _ := r.BasicAuth()
		sameUser := subtle.ConstantTimeCompare([]byte(u), []byte(user))
		return subtle.ConstantTimeCompare([]byte(p), []byte(password))&sameUser == 1
	}
	admin := jobshttp.New(s, &jobshttp.Options{
		Authorize: func(r *http.Request, action jobshttp.Action, _ string) error {
			if action == jobshttp.ActionProbe || mayEnter(r) {
				return nil
			}
			return errors.New("wrong user or password")
		},
		Who: func(r *http.Request) string { u, _, _ := r.BasicAuth(); return u },
	})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if !mayEnter(r) { // a browser then asks for the password
			w.Header().Set("WWW-Authenticate", `Basic realm="jobs", charset="UTF-8"`)
			http.Error(w, "wrong user or password", http.StatusUnauthorized)
			return
		}
		admin.ServeHTTP(w, r)
	})
	for _, probe := range []string{"GET /livez", "GET /readyz", "GET /healthz"} {
		mux.Handle(probe, admin)
	}
	return mux
}

// The probes are open, so that Kubernetes can call them. Everything else needs a password.
func ExampleNew_basicAuth() {
	scheduler, err := memory.New(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	admin := newAdmin(scheduler, "ann", "secret")
	ask := func(path, password string) {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		if password != "" {
			r.SetBasicAuth("ann", password)
		}
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		fmt.Println(path, w.Code)
	}
	ask("/livez", "")
	ask("/readyz", "") // not started
	ask("/", "")
	ask("/jobs", "wrong")
	ask("/", "secret")
	// Output:
	// /livez 200
	// /readyz 503
	// / 401
	// /jobs 401
	// / 200
}
