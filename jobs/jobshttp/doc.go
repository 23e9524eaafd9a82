// Package jobshttp serves the status page and admin API of a [jobs.Scheduler]. The page
// shows when each job last ran, when it runs next, and why it hasn't, and has buttons to
// trigger, cancel, retry, pause and resume.
//
//	admin := jobshttp.New(scheduler, &jobshttp.Options{Authorize: onlyOperators})
//	mux.Handle("/admin/jobs/", http.StripPrefix("/admin/jobs", requireLogin(admin)))
//
// Every request is refused unless [Options].Authorize allows it. All links are relative, so
// the handler works at "/", under a prefix, and behind a proxy that strips a prefix.
//
// # Routes
//
// Pages for people. They work without JavaScript. Their forms post
// application/x-www-form-urlencoded, are accepted only from the same origin, and redirect
// back to the page.
//
//	GET  /                               read        the status page: every job, and first what is wrong
//	GET  /job/{name}                     read, job   one job with its last 50 runs; ?runs=n shows n
//	POST /job/{name}/trigger             trigger     the field data is a JSON object, or empty
//	POST /job/{name}/pause               pause
//	POST /job/{name}/resume              pause
//	POST /job/{name}/runs/{id}/cancel    cancel
//	POST /job/{name}/runs/{id}/retry     retry
//	GET  /runs                           read        the runs of all jobs, by the filters below
//	GET  /runs/{id}                      read        one run, with the error of every attempt
//	GET  /runs/retry                     retry       asks whether to retry all runs that the filters match, and how many
//	POST /runs/retry                     retry       retries them
//	GET  /runs/cancel                    cancel      asks whether to cancel all runs that the filters match, and how many
//	POST /runs/cancel                    cancel      cancels them
//	GET  /processes                      read        the processes that run jobs
//	GET  /assets/…                       read        the style sheet, the script and the icon
//
// The status page takes ?q=, a part of a job's name or the ID of a run, and ?show=, one of failing, hung, without-a-process,
// overdue, paused, retrying, running and waiting. The page of runs takes ?name=, which has names of jobs, or parts of
// them, separated by spaces; ?state=, once for each state; and ?since= and ?until=, times such as 2026-01-31T22:00Z that
// bound when a run ended or, if it has not, when it is due. Forms have these as fields; other fields, and parameters in the
// URL of a form, are refused. What needs a role that the scheduler lacks, such as
// [jobs.RunFinder], [jobs.BulkRetrier], [jobs.BulkCanceller] or [jobs.ProcessLister], is left out.
//
// JSON for programs. POST requests need Content-Type application/json, even without a body.
// GET answers have an ETag. Parameters that a path does not know are refused.
//
//	GET  /api/jobs                           read        200 the jobs that the caller may read
//	GET  /api/jobs/{name}                    read, job   200 a job and its latest runs; ?runs=n, default 20, at most 1,000
//	GET  /api/jobs/{name}/size               read, job   200 how many runs wait
//	GET  /api/jobs/{name}/runs/{id}          read, job   200 a run, with the errors of all attempts
//	POST /api/jobs/{name}/trigger            trigger     202 the ID; the body is the data; ?delay=, at, priority, unique,
//	                                                     unique_waiting, latest; header Idempotency-Key
//	POST /api/jobs/{name}/pause              pause       200
//	POST /api/jobs/{name}/resume             pause       200
//	POST /api/jobs/{name}/runs/{id}/cancel   cancel      202 the ID
//	POST /api/jobs/{name}/runs/{id}/retry    retry       202 the ID
//	GET  /api/runs                           read        200 a page of runs; ?name=, state, since, until, after, limit
//	GET  /api/runs/{id}                      read        200 a run
//	POST /api/runs/cancel                    cancel      200 a count; ?name=, state, since, until, dry_run
//	POST /api/runs/retry                     retry       200 a count, with the same parameters
//	GET  /api/processes                      read        200 the processes that run jobs
//	GET  /api/activity                       read        200 counts of ended runs: 60 minutes, or 24 hours with ?span=day
//	GET  /api/openapi.json                   read        200 all of this as an OpenAPI 3.1 description
//
// A trigger with the header Idempotency-Key can be repeated until its answer arrives; see
// [jobs.IdempotencyKey].
//
// Paths that concern several jobs ask Authorize first about "", then about each job with the
// same action. They leave out the jobs that it refuses; naming such a job is an error.
//
// Probes. They omit what the caller may not read.
//
//	GET  /livez                          probe       200 while the process serves requests; checks nothing
//	GET  /readyz                         probe       200 if started and the database answers, otherwise 503
//	GET  /healthz                        probe       200 if healthy, otherwise 503; Health with its reasons
//
// The second column is the [Action] passed to Authorize, together with the job's name where
// the path has one, otherwise "". Any other request, such as an unknown path or a wrong
// method, is authorized as ActionRead and "".
//
// # Errors
//
//	400  invalid data or parameter      413  body over 2 MiB
//	401  [ErrUnauthenticated]           415  wrong Content-Type
//	403  not authorized, or from        501  the scheduler lacks the role
//	     another origin                 503  the database does not answer
//	404  no such page, job or run
//	405  wrong method
//	409  the run cannot be retried
//	422  [jobs.ErrKeyReused]
//
// In JSON, an error is {"error": {"code": "unknown_job", "message": "no such job"}}. Programs
// compare the code; the description lists all of them.
//
// A job the caller may not read and a job that does not exist give the same answer: 404 to
// callers who may read the status page, 403 to all others.
//
// While the database does not answer, pages have status 503 and show the last known state and
// its age. A call of the scheduler times out after 3 seconds, a bulk action after 30. All
// viewers share what the pages show, which is loaded at most once a second, activity at most
// every 10 seconds. /healthz always answers with reasons, also while the database refuses
// connections or does not answer.
//
// Lists of runs have at most 4 MiB. Other answers grow only with the number of registered jobs
// and processes.
//
// # Who may enter
//
// Authorize decides about each request. [BasicAuth] is an Authorize for names and passwords.
// With a login of your own, return [ErrUnauthenticated] for requests without a session, or
// redirect them before they reach the handler.
//
// POST requests that a browser sends from a page of another origin are refused, so that other
// sites cannot use the login of your users. Behind a proxy that changes the Host header, list
// the public origin in [Options].TrustedOrigins.
package jobshttp
