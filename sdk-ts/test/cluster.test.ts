/** Workers on a cluster of three nodes whose nodes are killed and drained under them. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Client, Worker, type Job } from '../src/index.js';
import { Cluster, until } from './harness.js';

let cluster: Cluster;
let client: Client;

before(async () => {
  cluster = await Cluster.of(3);
  client = await new Client({ addresses: cluster.addresses }).connect();
});
after(async () => {
  await client.close();
  await cluster.stop();
});

/** Notes what handlers do with each job. */
class Ledger {
  readonly runs = new Map<number, number>();
  readonly completed = new Map<number, number>();
  readonly running = new Map<number, Job<number>>();
  readonly wrong: string[] = [];

  begin(job: Job<number>): void {
    const before = this.running.get(job.id);
    // Two at once only if the first knows that its lease is lost.
    if (before !== undefined && !before.isLost) this.wrong.push(`job ${job.id} is run by two at once`);
    this.running.set(job.id, job);
    this.runs.set(job.id, (this.runs.get(job.id) ?? 0) + 1);
  }

  end(job: Job<number>): void {
    if (this.running.get(job.id) === job) this.running.delete(job.id);
  }

  watch(worker: Worker<number, unknown>): void {
    worker.on('completed', (job) => this.completed.set(job.id, (this.completed.get(job.id) ?? 0) + 1));
    worker.on('error', (error) => {
      if (!error.retryable) this.wrong.push(String(error));
    });
  }
}

/** Works a little on each job, so that there are always some in hand. */
function working(queue: string, ledger: Ledger, name: string): Worker<number, unknown> {
  const handler = async (job: Job<number>): Promise<void> => {
    ledger.begin(job);
    await new Promise((resolve) => setTimeout(resolve, 20));
    ledger.end(job);
  };
  const worker = new Worker<number, unknown>(queue, handler, {
    addresses: cluster.addresses,
    concurrency: 10,
    worker: name,
  });
  ledger.watch(worker);
  return worker;
}

async function nodeOf(worker: Worker<number, unknown>): Promise<string> {
  await until('the worker is connected', () => worker.client.node !== undefined);
  return worker.client.node?.nodeId ?? '';
}

test('nodes are killed under running workers, and nothing is lost', async () => {
  const queue = client.queue<number>('killed');
  const ledger = new Ledger();
  const workers = ['first', 'second'].map((name) => working(queue.name, ledger, name));
  const pushed: number[] = [];
  let isPushing = true;
  const pushing = (async () => {
    for (let n = 0; isPushing; n += 1) pushed.push((await queue.push(n, { idempotencyKey: `n${n}` })).id);
  })();

  for (let kill = 0; kill < 3; kill += 1) {
    const before = ledger.completed.size;
    await until('jobs are done', () => ledger.completed.size > before + 50);
    const name = await nodeOf(workers[kill % 2]!);
    await cluster.named(name).kill();
    await until('jobs are done without it', () => ledger.completed.size > before + 100);
    await cluster.named(name).resume();
  }
  isPushing = false;
  await pushing;

  // The leases of a node that died end after a while.
  await until('every job is done', async () => {
    const { scheduled, ready, leased, completed } = await queue.detail();
    return scheduled + ready + leased === 0 && completed === pushed.length;
  });
  await Promise.all(workers.map((worker) => worker.close()));

  assert.deepEqual(ledger.wrong, []);
  assert.equal(new Set(pushed).size, pushed.length, 'a push that is repeated by its key makes no other job');
  assert.deepEqual([...ledger.runs.keys()].sort(), [...pushed].sort(), 'each job was run, and no other');
  for (const [id, runs] of ledger.runs) {
    if (runs === 1) continue;
    const { attempts } = await client.jobs.timeline(id);
    const lost = attempts.filter(({ ending }) => ending !== 'completed').length;
    assert.ok(runs <= lost + 1, `job ${id} was run ${runs} times and its lease was lost ${lost} times`);
  }
  for (const [id, times] of ledger.completed) assert.equal(times, 1, `job ${id} was completed ${times} times`);
});

test('a node that is drained is left with leases intact: no job is run twice', async () => {
  const queue = client.queue<number>('drained');
  const ledger = new Ledger();
  const worker = working(queue.name, ledger, 'mover');
  const lost: Job[] = [];
  worker.on('leaseLost', (job) => lost.push(job as Job));
  const ids: number[] = [];
  let isPushing = true;
  const pushing = (async () => {
    while (isPushing) ids.push((await queue.push(ids.length, { idempotencyKey: true })).id);
  })();
  await until('jobs are done', () => ledger.completed.size > 50);

  const name = await nodeOf(worker);
  await client.cluster.drain(name, { stay: true });
  await until('the worker has moved', () => worker.client.node?.nodeId !== name);
  const before = ledger.completed.size;
  await until('jobs are done at the other node', () => ledger.completed.size > before + 50);
  isPushing = false;
  await pushing;
  await until('every job is done', () => ledger.completed.size === ids.length);
  await worker.close();

  assert.deepEqual([ledger.wrong, lost], [[], []]);
  for (const [id, runs] of ledger.runs) assert.equal(runs, 1, `job ${id} was run ${runs} times`);
  const { attempts } = await client.jobs.timeline(ids.at(-1)!);
  assert.equal(attempts.length, 1);
});
