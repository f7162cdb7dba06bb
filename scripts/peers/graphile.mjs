// graphile-worker in steady state: pushes in batches of 500 while handlers run, and counts those
// that have ended. node graphile.mjs POSTGRES_URL SECONDS [hold]
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';

const [connectionString, seconds, hold] = process.argv.slice(2);
const BATCH = 500;
// Enough that handlers never wait, few enough that it is no backlog.
const WAITING_MAX = 5000;
const WARM_UP_MS = 2000;

const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ connectionString, logger });
await utils.migrate();

const session = new pg.Client({ connectionString });
await session.connect();
if (hold === 'hold') {
  await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
  await session.query('SELECT count(*) FROM pg_class');
}

let pushed = 0;
let done = 0;
await run({
  preset: {
    worker: {
      connectionString,
      logger,
      concurrentJobs: 24,
      maxPoolSize: 25,
      localQueue: { size: 500 },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  },
  taskList: { nothing: async () => { done++; } },
  noHandleSignals: true,
});

const job = { identifier: 'nothing', payload: { text: 'x'.repeat(49) } };
const batch = Array.from({ length: BATCH }, () => job);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const begin = Date.now();
let counting;
while (Date.now() - begin < WARM_UP_MS + seconds * 1000) {
  if (!counting && Date.now() - begin >= WARM_UP_MS) counting = { at: Date.now(), done };
  if (pushed - done >= WAITING_MAX) {
    await pause(2);
    continue;
  }
  await utils.addJobs(batch);
  pushed += BATCH;
}
const rate = (done - counting.done) / ((Date.now() - counting.at) / 1000);
console.log(`PEER_RESULT jobs_per_sec=${Math.round(rate)}`);
process.exit(0);
