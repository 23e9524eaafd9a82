package jobshttp

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
)

// ErrUnauthenticated is returned by [Options].Authorize for a request whose sender has not
// logged in, or whose credentials are wrong. The answer has status 401 and the header
// WWW-Authenticate with [Options].Challenge.
var ErrUnauthenticated = errors.New("jobshttp: not authenticated")

// BasicAuth returns a function for [Options].Authorize that allows everything to the given
// users, whose names map to their passwords, by basic authentication. It allows the probes to
// everyone, and returns [ErrUnauthenticated] for all other requests. A user whose password is
// empty is never let in.
//
// Names and passwords are compared in constant time, whether a name exists or not. The
// function does not slow down guessing, so let a computer draw the passwords. Use it over TLS
// only. To restrict what a user may do, call it from a function of your own.
func BasicAuth(passwords map[string]string) func(r *http.Request, action Action, job string) error {
	var users [][sha256.Size]byte
	for user, password := range passwords {
		if password != "" {
			users = append(users, credentials(user, password))
		}
	}
	return func(r *http.Request, action Action, _ string) error {
		if action == ActionProbe {
			return nil
		}
		user, password, _ := r.BasicAuth()
		given, found := credentials(user, password), 0
		for _, want := range users {
			found |= subtle.ConstantTimeCompare(given[:], want[:])
		}
		if found == 0 {
			return ErrUnauthenticated
		}
		return nil
	}
}

// credentials returns a hash, so that the time to compare reveals no length.
func credentials(user, password string) [sha256.Size]byte {
	hash := sha256.Sum256([]byte(user))
	return sha256.Sum256(append(hash[:], password...))
}

// authorize returns why the request may not perform action on job, or nil.
func (h *handler) authorize(r *http.Request, action Action, job string) error {
	if h.Authorize == nil {
		return errors.New("no Authorize is set")
	}
	err := h.Authorize(r, action, job)
	if err != nil {
		h.Logger.DebugContext(r.Context(), "not authorized", "action", action, "job", job, "error", err)
	}
	return err
}

const errForbidden = "you are not allowed to do this"

// deny answers a request for which authorize returned err.
func (h *handler) deny(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, ErrUnauthenticated) {
		w.Header().Set("WWW-Authenticate", h.Challenge)
		h.problem(w, r, http.StatusUnauthorized, "this needs a login, or the credentials are wrong")
		return
	}
	h.problem(w, r, http.StatusForbidden, errForbidden)
}

// refuse answers a request for a job that does not exist or that the caller may not act on.
// Only a caller who may read the job can tell the two apart.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, action Action) {
	name := r.PathValue("name")
	switch {
	case name == "",
		action != ActionRead && !h.allowed(r, action, name) && h.allowed(r, ActionRead, name) && h.known(r.Context(), name),
		!h.allowed(r, ActionRead, ""):
		h.problem(w, r, http.StatusForbidden, errForbidden)
	default:
		h.report(w, r, errUnknownJob)
	}
}

var errUnknownJob = &fault{status: http.StatusNotFound, code: "unknown_job", text: "no such job"}
