import { Logger, makeWorkerUtils, run } from 'graphile-worker'

import { measure, step } from './measure.mjs'

const connectionString = process.env.DATABASE_URL
const task = 'bench.noop'

// It logs each job at level info. No library here logs below warnings.
const logger = new Logger(() => (level, message) => {
  if (level === 'error' || level === 'warning') console.error(`graphile: ${message}`)
})

// The settings with which its page "Performance" reached its best figures.
const best = {
  concurrentJobs: 24,
  maxPoolSize: 25,
  localQueue: { size: 500 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
  pollInterval: 200, // as in everytick; the page recommends none
}

const utils = await makeWorkerUtils({ connectionString, logger, maxPoolSize: 50 })
await utils.migrate()

await measure({
  enqueue: (n) => utils.addJob(task, { n }),
  enqueueAfter: (n, ms) => utils.addJob(task, { n }, { runAt: new Date(Date.now() + ms) }),
  // In one call, as on that page.
  enqueueMany: (length, runAt) => utils.addJobs(Array.from({ length }, (_, n) => ({ identifier: task, payload: { n }, runAt }))),
  start: async (handle) => {
    const runner = await run({
      logger,
      noHandleSignals: true,
      preset: { worker: { connectionString, ...(step.tuned ? best : {}) } },
      taskList: { [task]: async ({ n }) => handle(n) },
    })
    return () => runner.stop()
  },
  unfinished: async () => {
    const { rows } = await utils.withPgClient((c) => c.query('SELECT count(*)::int AS n FROM graphile_worker.jobs'))
    return rows[0].n
  },
  sql: (text) => utils.withPgClient((c) => c.query(text)),
  close: () => utils.release(),
})
