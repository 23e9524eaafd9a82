// Package bench measures everytick beside River's own client: the same work, in the
// same run, on the same Postgres with durable settings.
//
//	make bench                                        # everything but the scaling, and a table at the end
//	make bench-scaling                                # how it scales, and docs/scaling.svg
//	go test -run='^$' -bench=Latency/idle ./bench     # one row of the table
//	go test -run='^$' -bench=. -skip=Scaling ./bench -scale=0.05
//
// An iteration of a benchmark measures both, in turns where noise warrants it, so
// -benchtime=1x is enough; with -benchtime=5x the figures are the medians of five.
// They are metrics of one line, such as river-jobs/s, everytick-jobs/s and their
// ratio, which is always everytick's divided by River's; benchstat reads them. No
// figure is asserted: the table says which targets are held. What is asserted is that
// no job is lost, by asking the database.
//
// Both run in the process of the benchmark, beside the server on the same machine, so
// a figure counts the work of all three.
package bench
