// Measures a library as measure.go does, with the same steps and results as in main.go. A library has enqueue(n),
// enqueueAfter(n, ms), enqueueMany(n, at), start(handle), which returns a function to stop it, unfinished(), sql(text)
// and close().
import { setTimeout as sleep } from 'node:timers/promises'

const leadTime = 10_000
const delay = 2_000

export const step = JSON.parse(process.argv[2])

export async function measure(library) {
  const result = step.do === 'enqueue' ? await measureEnqueue(library) : await measureWork(library)
  await library.close()
  console.log(JSON.stringify(result))
}

async function measureEnqueue(library) {
  let stored = 0
  const enqueueFor = async (ms) => {
    const before = stored
    const end = performance.now() + ms
    await Promise.all(Array.from({ length: step.callers }, async () => {
      while (performance.now() < end) {
        await library.enqueue(0)
        stored++
      }
    }))
    return stored - before
  }
  await enqueueFor(step.seconds * 250) // opens the connections and warms up
  const begin = performance.now()
  const jobs = await enqueueFor(step.seconds * 1000)
  const seconds = (performance.now() - begin) / 1000
  const left = await library.unfinished()
  if (left !== stored) throw new Error(`${stored} jobs enqueued, ${left} stored`)
  return { jobs, seconds }
}

async function measureWork(library) {
  const result = {}
  const { jobs } = step
  const limit = step.seconds * 1000
  const due = step.do === 'due' ? performance.now() + leadTime : undefined
  if (step.do === 'drain' || step.do === 'due') {
    const begin = performance.now()
    await library.enqueueMany(jobs, due && new Date(performance.timeOrigin + due))
    result.fill = (performance.now() - begin) / 1000
    const stored = await library.unfinished()
    if (stored !== jobs) throw new Error(`${jobs} jobs enqueued, ${stored} stored`)
    await library.sql('VACUUM ANALYZE')
    await library.sql('CHECKPOINT')
    if (performance.now() > due) throw new Error('enqueueing took too long')
  }

  const started = new Float64Array(jobs)
  const sent = new Float64Array(jobs)
  let count = 0
  const handle = (n) => {
    if (started[n] === 0) {
      started[n] = performance.now()
      count++
    }
  }
  const wait = async (want, ms) => {
    for (const end = performance.now() + ms; count < want && performance.now() < end;) await sleep(1)
  }

  const begin = performance.now()
  const stop = await library.start(handle)
  switch (step.do) {
    case 'drain':
      await wait(jobs, limit)
      // Jobs are finished only when the database says so.
      while (performance.now() - begin < limit && await library.unfinished() > 0) await sleep(5)
      result.jobs = count
      result.seconds = (performance.now() - begin) / 1000
      break
    case 'due':
      sent.fill(due)
      await wait(jobs, due - performance.now() + limit)
      break
    case 'idle':
    case 'delayed':
      await sleep(1000)
      for (let n = 0; n < jobs; n++) {
        await sleep(Math.random() * limit)
        sent[n] = performance.now() + (step.do === 'delayed' ? delay : 0)
        await (step.do === 'delayed' ? library.enqueueAfter(n, delay) : library.enqueue(n))
        await wait(n + 1, delay + 10_000)
      }
      break
    case 'rate': {
      await sleep(1000)
      const sends = []
      const first = performance.now()
      for (let n = 0; n < jobs;) {
        if (performance.now() < first + n * 1000 / step.rate) {
          await sleep(1)
          continue
        }
        sent[n] = performance.now()
        sends.push(library.enqueue(n++))
      }
      await Promise.all(sends)
      await wait(jobs, limit)
    }
  }
  await stop()
  const left = await library.unfinished()
  // The sum may be greater: when stopped, graphile-worker may leave a job that ran to run again.
  if (count + left < jobs) throw new Error(`of ${jobs} jobs, ${count} ran and ${left} are left`)
  if (step.do !== 'drain') {
    const late = [...started].flatMap((at, n) => at === 0 ? [] : [at - sent[n]]).sort((a, b) => a - b)
    result.jobs = late.length
    if (late.length > 0) {
      result.p50 = late[Math.floor(late.length / 2)]
      result.p99 = late[Math.floor(late.length * 99 / 100)]
      result.max = late[late.length - 1]
    }
  }
  return result
}
