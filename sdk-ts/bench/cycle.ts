/**
 * How fast the client is: pushes, deliveries and acks at once, as `batonq bench` does them.
 *
 *     node build/bench/cycle.js --url HOST:PORT [--mode cycle|pipelined] [--seconds 5] [--batch 500] [--clients 1]
 *
 * `cycle`: batches of jobs. `pipelined`: one job a frame, a thousand on their way; a Worker does them.
 * A job counts when its ack is answered. As many clients push as consume.
 */

import { parseArgs } from 'node:util';

import { Client, Worker } from '../src/index.js';

const { values } = parseArgs({
  options: {
    url: { type: 'string', default: '127.0.0.1:6789' },
    mode: { type: 'string', default: 'cycle' },
    seconds: { type: 'string', default: '5' },
    batch: { type: 'string', default: '500' },
    clients: { type: 'string', default: '1' },
  },
});
const seconds = Number(values.seconds);
const batch = Number(values.batch);
const queue = `bench-${process.pid}`;
/** As many jobs may be pushed and not yet acked, for each client: consumers keep up. */
const AHEAD = 4000;
const IN_FLIGHT = 1000;
/** Calls that push at once, of each client, as in `batonq bench`. */
const PUSHES_AT_ONCE = 2;
/** Jobs in one ack: as many as a node takes. */
const ACKS_MAX = 1000;
/** How long what is left may take at the end. */
const DRAIN_MAX_MS = 10_000;
const data = 'x'.repeat(58);

const clients = await Promise.all(
  Array.from({ length: Number(values.clients) * 2 }, () => new Client({ addresses: values.url }).connect()),
);
const producers = clients.slice(0, clients.length / 2);
const consumers = clients.slice(clients.length / 2);

let pushed = 0;
let acked = 0;
const ackMs: number[] = [];
let isOver = false;
let waiting: (() => void)[] = [];

function wake(): void {
  const woken = waiting;
  waiting = [];
  for (const go of woken) go();
}

async function room(): Promise<void> {
  while (!isOver && pushed - acked > AHEAD * producers.length) {
    await new Promise<void>((resolve) => waiting.push(resolve));
  }
}

async function produceBatches(client: Client): Promise<void> {
  const jobs = Array.from({ length: batch }, () => ({ queue, data }));
  const produce = async (): Promise<void> => {
    while (!isOver) {
      await room();
      const results = await client.pushBatch(jobs);
      pushed += results.filter(({ ok }) => ok).length;
    }
  };
  await Promise.all(Array.from({ length: PUSHES_AT_ONCE }, produce));
}

async function consumeBatches(client: Client): Promise<void> {
  const subscription = await client.subscribe(queue, { credit: batch * 4 });
  const ack = async (leases: { lease: string }[]): Promise<void> => {
    const begun = performance.now();
    const settled = await client.ackBatch(leases);
    acked += settled.filter(({ ok }) => ok).length;
    ackMs.push(performance.now() - begun);
    wake();
  };
  for (;;) {
    const first = await subscription.next();
    if (first.done === true) return;
    const leases = [{ lease: first.value.lease }];
    // What is taken is acked: the bound comes first.
    while (leases.length < ACKS_MAX) {
      const job = subscription.take();
      if (job === undefined) break;
      leases.push({ lease: job.lease });
    }
    void ack(leases);
  }
}

async function produceSingles(client: Client): Promise<void> {
  await Promise.all(
    Array.from({ length: IN_FLIGHT / producers.length }, async () => {
      while (!isOver) {
        await room();
        await client.push(queue, data);
        pushed += 1;
      }
    }),
  );
}

function work(client: Client): Worker {
  const worker = new Worker(queue, () => {}, { client, concurrency: IN_FLIGHT });
  worker.on('completed', () => {
    acked += 1;
    wake();
  });
  return worker;
}

const isCycle = values.mode === 'cycle';
const workers = isCycle ? [] : consumers.map(work);
const begun = performance.now();
const cpu = process.cpuUsage();
const consuming = isCycle ? consumers.map(consumeBatches) : [];
const producing = producers.map(isCycle ? produceBatches : produceSingles);
await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const took = (performance.now() - begun) / 1000;
const [done, used] = [acked, process.cpuUsage(cpu)];
isOver = true;
wake();
await Promise.all(producing);
const deadline = performance.now() + DRAIN_MAX_MS;
while (acked < pushed && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
await Promise.all(workers.map((worker) => worker.close()));
await Promise.all(clients.map((client) => client.close()));
await Promise.all(consuming);

ackMs.sort((a, b) => a - b);
const quantile = (share: number): string => (ackMs[Math.floor(ackMs.length * share)] ?? 0).toFixed(2);
const rate = Math.round(done / took);
const cores = ((used.user + used.system) / 1e6 / took).toFixed(2);
console.log(
  `BENCH_RESULT client=ts mode=${values.mode} jobs_per_sec=${rate} p50_ms=${quantile(0.5)} p99_ms=${quantile(0.99)} ` +
    `jobs=${done} seconds=${took.toFixed(1)} generator_cpu=${cores} pushed=${pushed} acked=${acked}`,
);
// What was pushed and not acked is an error of this program, of the client or of the broker.
if (acked !== pushed) process.exitCode = 1;
