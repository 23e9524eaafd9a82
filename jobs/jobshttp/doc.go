// Package jobshttp is the admin API and the status page of any [jobs.Scheduler]: what
// ran, what did not and why, what comes next, and the buttons to act on it.
//
//	admin := jobshttp.New(scheduler, &jobshttp.Options{Authorize: onlyOperators})
//	mux.Handle("/admin/jobs/", http.StripPrefix("/admin/jobs", requireLogin(admin)))
//
// It is closed unless [Options].Authorize opens it. All its links are relative, so it
// works at "/", under a prefix, and behind a proxy that takes a prefix away.
//
// # Routes
//
// Pages for people, which work without JavaScript too. Their forms post
// application/x-www-form-urlencoded, from the same origin alone, and lead back.
//
//	GET  /                               read        every job: the status page; ?q= filters by name
//	GET  /job/{name}                     read, job   one job with its last 50 runs; ?runs=n for others
//	POST /job/{name}/trigger             trigger     the field data is a JSON object, or empty
//	POST /job/{name}/pause               pause
//	POST /job/{name}/resume              pause
//	POST /job/{name}/runs/{id}/cancel    cancel
//	POST /job/{name}/runs/{id}/retry     retry
//	GET  /assets/…                       read        the style sheet, the script and the icon
//
// JSON for programs. Requests that change something need Content-Type
// application/json, even without a body. Every error is {"error": "…"}.
//
//	GET  /jobs                           read        200 [Status…], those that may be read
//	GET  /jobs/{name}                    read, job   200 {"job": Status, "runs": [Run…]}; ?runs=n, from 1 to 1,000, is 20
//	GET  /jobs/{name}/size               read, job   200 {"name": …, "queue_size": n}
//	POST /jobs/{name}/trigger            trigger     202 {"id": …}; the body is a JSON object, or empty
//	POST /jobs/{name}/pause              pause       200 {"name": …, "paused": true}
//	POST /jobs/{name}/resume             pause       200 {"name": …, "paused": false}
//	POST /jobs/{name}/runs/{id}/cancel   cancel      202 {"id": …}
//	POST /jobs/{name}/runs/{id}/retry    retry       202 {"id": …}
//	GET  /activity                       read        200 Activity: 60 minutes, or with ?span=day 24 hours
//
// Probes. What may not be read otherwise is left out of what they tell.
//
//	GET  /livez                          probe       200 while the process serves; asks nobody
//	GET  /readyz                         probe       200 if started and the database answers, else 503
//	GET  /healthz                        probe       200 if healthy, else 503; Health with its reasons
//
// The second column is the [Action] that Authorize is asked for, with the name of the
// job where the path has one, else "". Anything else, such as an unknown path or a
// wrong method, asks for ActionRead and "".
//
// # Answers
//
//	400  data or a parameter that is wrong         413  a body of more than 2 MiB
//	403  not authorized, or from another origin    415  another Content-Type
//	404  no such page, job or run                  501  the scheduler has not got that role
//	405  no such method                            503  the database does not answer
//	409  that run cannot be retried
//
// A job that may not be read and one that does not exist give the same answer: 404 to
// those who may read the status page, 403 to all others.
//
// While the database does not answer, the pages come with status 503 and show the last
// state they know with its age. A call of the scheduler is given up after 3 seconds;
// what pages show is shared by all who look, and asked for at most once a second,
// activity every 10 seconds.
package jobshttp
