-- A row of everytick_failed means that the functions of jobs.OnFailed are to be called for a run. It is written before
-- or with the failure, and deleted after the call.

-- The run is about to fail for good. A call that is being made is for an earlier failure.
-- name: NoteFailed
INSERT INTO {{schema}}.everytick_failed AS f (job_id, name) VALUES ($1, $2)
ON CONFLICT (job_id) DO UPDATE SET failures = f.failures + 1

-- Claims calls for jobs in $1 whose runs have failed for good, and that no living process makes. $3 has processes that
-- are known to be dead, and $5 the runs for which $2 makes the calls.
-- name: ClaimFailed
WITH found AS (
	SELECT f.job_id FROM {{schema}}.everytick_failed AS f
	WHERE f.name = ANY ($1) AND EXISTS (SELECT FROM {{schema}}.river_job WHERE id = f.job_id AND {{state}} = 'failed') AND (
		{{is_free}} OR f.claimed_by = ANY ($3) OR f.claimed_by = $2 AND f.job_id <> ALL ($5)
	)
	ORDER BY f.job_id LIMIT $4 FOR UPDATE SKIP LOCKED
)
UPDATE {{schema}}.everytick_failed AS f SET claimed_by = $2 FROM found WHERE f.job_id = found.job_id
RETURNING f.job_id, f.name, f.failures

-- Deletes a claimed call that has been made, unless the run has failed again meanwhile.
-- name: DeleteFailed
DELETE FROM {{schema}}.everytick_failed WHERE job_id = $1 AND claimed_by = $2 AND failures = $3

-- Gives up a claim, so that the call is made again.
-- name: ReleaseFailed
UPDATE {{schema}}.everytick_failed SET claimed_by = NULL WHERE job_id = $1 AND claimed_by = $2

-- Deletes calls whose run has ended in another way, or is gone.
-- name: ForgetFailed
DELETE FROM {{schema}}.everytick_failed AS f WHERE {{is_free}} AND NOT EXISTS (
	SELECT FROM {{schema}}.river_job WHERE id = f.job_id AND (finalized_at IS NULL OR {{state}} = 'failed')
)

-- piece: is_free
(f.claimed_by IS NULL OR NOT EXISTS (SELECT FROM {{schema}}.everytick_process AS p WHERE p.id = f.claimed_by AND p.beat > 0))
