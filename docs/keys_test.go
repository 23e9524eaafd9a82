package docs_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobstest"
)

type Doc struct {
	ID int64 `json:"id"`
}

const Reindex jobs.Kind[Doc] = "docs.reindex"

func saveDoc(ctx context.Context, t jobs.Triggerer, pool *pgxpool.Pool, id int64, body string) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO doc (id, body) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
			id, body)
		if err != nil {
			return err
		}
		_, err = Reindex.TriggerTx(ctx, t, tx, Doc{ID: id}, jobs.UniqueWaiting(strconv.FormatInt(id, 10)))
		return err
	})
}

func reindex(ctx context.Context, job *jobs.Job, doc Doc) error {
	return pgx.BeginFunc(ctx, job.DB, func(tx pgx.Tx) error {
		var body string
		if err := tx.QueryRow(ctx, "SELECT body FROM doc WHERE id = $1 FOR UPDATE", doc.ID).Scan(&body); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO doc_index (doc, words) VALUES ($1, $2) ON CONFLICT (doc) DO UPDATE SET words = excluded.words",
			doc.ID, wordsOf(body))
		return err
	})
}

func wordsOf(body string) string { return "words of " + body }

func TestRunAgain(t *testing.T) {
	t.Parallel()
	rec, pool := start(t, func(s jobs.Scheduler) error { return Reindex.Register(s, reindex) })
	const saves = 30
	for i := range saves {
		require.NoError(t, saveDoc(t.Context(), rec, pool, 7, fmt.Sprint("version ", i)))
	}
	last := fmt.Sprintf("SELECT count(*) FROM doc_index WHERE doc = 7 AND words = 'words of version %d'", saves-1)
	require.Eventually(t, func() bool { return count(t, pool, last) == 1 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, 1, count(t, pool, "SELECT count(*) FROM doc_index"))
}

type Draft struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

const Preview jobs.Kind[Draft] = "drafts.preview"

func draftChanged(ctx context.Context, t jobs.Triggerer, draft Draft) error {
	_, err := Preview.Trigger(ctx, t, draft, jobs.Latest(draft.ID), jobs.Delay(2*time.Second))
	return err
}

func TestDebounce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(nil)
		require.NoError(t, err)
		rec := jobstest.Record(s)
		require.NoError(t, Preview.Register(rec, func(context.Context, *jobs.Job, Draft) error { return nil }))
		require.NoError(t, rec.Start(t.Context()))
		for _, text := range []string{"D", "De", "Dear"} {
			require.NoError(t, draftChanged(t.Context(), rec, Draft{ID: "7", Text: text}))
			time.Sleep(time.Second)
		}
		require.Empty(t, rec.Outcomes("drafts.preview"))
		time.Sleep(time.Minute)
		outcomes := rec.Outcomes("drafts.preview")
		require.Len(t, outcomes, 1)
		require.JSONEq(t, `{"id": "7", "text": "Dear"}`, string(outcomes[0].Job.Data))
		require.NoError(t, rec.Shutdown(t.Context()))
	})
}
