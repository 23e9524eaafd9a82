// Package bench compares everytick with River's own client: the same work, in the same run, on the same Postgres with
// durable settings.
//
//	make bench                                        # everything except scaling, with a table at the end
//	make bench-scaling                                # scaling; draws docs/scaling.svg
//	go test -run='^$' -bench=Latency/idle ./bench     # one row of the table
//	go test -run='^$' -bench=. -skip=Scaling ./bench -scale=0.05
//
// Each iteration of a benchmark measures both, several times in turns if the figures are noisy, so -benchtime=1x is
// enough. With -benchtime=5x, figures are medians of five iterations. They are reported as metrics that benchstat can
// read, such as river-jobs/s, everytick-jobs/s and ratio-jobs/s, which is everytick's figure divided by River's.
//
// Benchmarks do not fail if a figure is poor; the table shows which targets are met. They fail if a job is lost
// according to the database.
//
// Both clients run in the process of the benchmark, and the server on the same machine, so the figures include the
// work of all three.
package bench
