package jobshttp_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs/jobshttp"
)

// Everyone with the password may see and do everything. Kubernetes may call the probes without it.
func ExampleNew() {
	scheduler, err := memory.New(nil)
	if err != nil {
		panic(err)
	}
	admin := jobshttp.New(scheduler, &jobshttp.Options{
		Authorize: func(r *http.Request, action jobshttp.Action, _ string) error {
			if _, password, _ := r.BasicAuth(); password == "secret" || action == jobshttp.ActionProbe {
				return nil
			}
			return errors.New("wrong password")
		},
		Who: func(r *http.Request) string {
			user, _, _ := r.BasicAuth()
			return user
		},
	})
	mux := http.NewServeMux()
	mux.Handle("/admin/jobs/", http.StripPrefix("/admin/jobs", admin))

	for _, path := range []string{"/admin/jobs/", "/admin/jobs/livez"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		fmt.Println(path, w.Code)
	}
	// Output:
	// /admin/jobs/ 403
	// /admin/jobs/livez 200
}
