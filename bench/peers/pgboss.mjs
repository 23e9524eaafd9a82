import { PgBoss } from 'pg-boss'

import { measure, step } from './measure.mjs'

const queue = 'bench'

// From its pages "Workers" and "Constructor": LISTEN and NOTIFY, fetching without a pause while batches are full,
// several workers, and the shortest poll interval that it accepts. The pages recommend no values; these were the best
// of those tried.
const best = {
  batchSize: 1000,
  burstWhenBatchFull: true,
  localConcurrency: 2,
  pollingIntervalSeconds: 0.5,
  notifyPollingIntervalSeconds: 0.5,
}

const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, max: 50, useListenNotify: step.tuned })
boss.on('error', (err) => console.error(`pgboss: ${err.message}`))
await boss.start()
await boss.createQueue(queue, { notify: step.tuned })

const sql = (text) => boss.getDb().executeSql(text)

await measure({
  enqueue: (n) => boss.send(queue, { n }),
  enqueueAfter: (n, ms) => boss.send(queue, { n }, { startAfter: new Date(Date.now() + ms) }),
  enqueueMany: async (jobs, startAfter) => {
    const batch = 5_000
    for (let first = 0; first < jobs; first += batch) {
      const length = Math.min(batch, jobs - first)
      await boss.insert(queue, Array.from({ length }, (_, i) => ({ data: { n: first + i }, startAfter })))
    }
  },
  start: async (handle) => {
    const work = async (jobs) => {
      for (const job of jobs) handle(job.data.n)
    }
    await boss.work(queue, step.tuned ? best : {}, work)
    return () => boss.offWork(queue)
  },
  unfinished: async () => {
    const { rows } = await sql(`SELECT count(*)::int AS n FROM pgboss.job WHERE name = '${queue}' AND state < 'completed'`)
    return rows[0].n
  },
  sql,
  close: () => boss.stop(),
})
