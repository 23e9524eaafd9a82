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
//	GET  /                               read        the status page: every job; ?q= filters by name
//	GET  /job/{name}                     read, job   one job with its last 50 runs; ?runs=n shows n
//	POST /job/{name}/trigger             trigger     the field data is a JSON object, or empty
//	POST /job/{name}/pause               pause
//	POST /job/{name}/resume              pause
//	POST /job/{name}/runs/{id}/cancel    cancel
//	POST /job/{name}/runs/{id}/retry     retry
//	GET  /assets/…                       read        the style sheet, the script and the icon
//
// JSON for programs. POST requests need Content-Type application/json, even without a body.
// Every error is {"error": "…"}.
//
//	GET  /jobs                           read        200 [Status…], the jobs the caller may read
//	GET  /jobs/{name}                    read, job   200 {"job": Status, "runs": [Run…]}; ?runs=n, default 20, at most 1,000
//	GET  /jobs/{name}/size               read, job   200 {"name": …, "queue_size": n}
//	POST /jobs/{name}/trigger            trigger     202 {"id": …}; the body is a JSON object, or empty
//	POST /jobs/{name}/pause              pause       200 {"name": …, "paused": true}
//	POST /jobs/{name}/resume             pause       200 {"name": …, "paused": false}
//	POST /jobs/{name}/runs/{id}/cancel   cancel      202 {"id": …}
//	POST /jobs/{name}/runs/{id}/retry    retry       202 {"id": …}
//	GET  /activity                       read        200 Activity: 60 minutes, or 24 hours with ?span=day
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
//	400  invalid data or parameter                 413  body over 2 MiB
//	403  not authorized, or from another origin    415  wrong Content-Type
//	404  no such page, job or run                  501  the scheduler lacks the role
//	405  wrong method                              503  the database does not answer
//	409  the run cannot be retried
//
// A job the caller may not read and a job that does not exist give the same answer: 404 to
// callers who may read the status page, 403 to all others.
//
// While the database does not answer, pages have status 503 and show the last known state and
// its age. A call of the scheduler times out after 3 seconds. All viewers share what the pages
// show, which is loaded at most once a second, activity at most every 10 seconds. /healthz
// always answers with reasons, also while the database refuses connections or does not answer.
package jobshttp
