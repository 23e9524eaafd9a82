-- River deletes all rows in its state cancelled after one period. They mean different things to us: skipped runs are
-- kept as long as completed ones, those that an operator cancelled or that failed for good as long as failed ones.

-- Reads the next rows in that state, in the order of their end after ($3, $4), that ended $2 seconds ago or earlier,
-- and deletes those of the jobs $1 that were skipped or, if $5 is not set, that were not. It reads at most $6 rows, so
-- that the rows to be kept longer are read in small parts, and only once. Rows that are locked may be retried just now.
-- name: DeleteEnded
WITH read AS (
	SELECT id, finalized_at, kind, {{is_skipped}} AS skipped FROM {{schema}}.river_job
	WHERE state = 'cancelled' AND finalized_at IS NOT NULL
		AND finalized_at >= $3 AND (finalized_at, id) > ($3, $4) AND finalized_at < now() - $2::float8 * interval '1 second'
	ORDER BY finalized_at, id LIMIT $6
), found AS (
	SELECT id FROM {{schema}}.river_job
	WHERE id IN (SELECT id FROM read WHERE kind = ANY ($1) AND skipped = $5) AND state = 'cancelled'
	FOR UPDATE SKIP LOCKED
), deleted AS (
	DELETE FROM {{schema}}.river_job WHERE id IN (SELECT id FROM found)
)
SELECT id, finalized_at FROM read ORDER BY finalized_at, id
