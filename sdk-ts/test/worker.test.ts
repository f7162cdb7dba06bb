/** Workers against a node on its embedded database. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';

import { BatonqError, Client, Failure, Snooze, Worker, type Job } from '../src/index.js';
import { Node, program, SOON_MS, until } from './harness.js';

/** What the node of these tests waits for a sign of life, in milliseconds. */
const HEARTBEAT_TIMEOUT_MS = 1000;

let node: Node;
let client: Client;
let queues = 0;

before(async () => {
  node = await Node.start({
    BATONQ_HEARTBEAT_INTERVAL: '200ms',
    BATONQ_HEARTBEAT_TIMEOUT: `${HEARTBEAT_TIMEOUT_MS}ms`,
  });
  client = await new Client({ port: node.port }).connect();
});
after(async () => {
  await client.close();
  await node.kill();
});

function newQueue(): string {
  queues += 1;
  return `w${queues}`;
}

/** The first event of a kind, with what it tells. */
function first(worker: Worker<never, never> | Worker, event: string): Promise<unknown[]> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`no ${event} in time`)), SOON_MS);
    (worker as NodeJS.EventEmitter).once(event, (...told: unknown[]) => {
      clearTimeout(late);
      resolve(told);
    });
  });
}

function block(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

test('a worker works, and what its handler returns is the result', async () => {
  const queue = client.queue<{ n: number }, { doubled: number }>(newQueue());
  const worker = new Worker<{ n: number }, { doubled: number }>(
    queue.name,
    async (job) => {
      await job.progress(50, 'half');
      return { doubled: job.data.n * 2 };
    },
    { client },
  );
  const completed = first(worker as Worker, 'completed');
  const { id } = await queue.push({ n: 21 });
  const done = await queue.waitFor(id);
  assert.deepEqual([done.state, done.result], ['completed', { doubled: 42 }]);
  assert.deepEqual((await completed)[1], { doubled: 42 });
  await worker.close();
  assert.ok((await client.cluster.ping()) >= 0, 'a client that is shared stays open');
});

test('as many handlers run at once as are allowed, and no more', async () => {
  const queue = client.queue<number>(newQueue());
  await queue.pushBatch(Array.from({ length: 60 }, (_, n) => n));
  let running = 0;
  let most = 0;
  const done = new Set<number>();
  const worker = new Worker<number>(
    queue.name,
    async (job) => {
      running += 1;
      most = Math.max(most, running);
      await new Promise((resolve) => setTimeout(resolve, 2));
      running -= 1;
      done.add(job.data);
    },
    { client, concurrency: 7, prefetch: 5 },
  );
  await until('all is done', async () => (await queue.detail()).completed === 60);
  assert.deepEqual([most, done.size], [7, 60]);
  await worker.close();
});

test('a handler says what is to follow from a failure', async () => {
  const queue = client.queue<string>(newQueue());
  const backoff = { type: 'fixed', delayMs: 3_600_000 } as const;
  const ids: Record<string, number> = {};
  for (const data of ['retry', 'reject', 'snooze', 'throw']) ids[data] = (await queue.push(data, { backoff })).id;
  const seen: string[] = [];
  const worker = new Worker<string>(
    queue.name,
    (job) => {
      seen.push(`${job.data} ${job.attempt}.${job.delivery}`);
      if (job.delivery > 1) return;
      if (job.data === 'retry') throw new Failure('BUSY', 'again at once', { retryInMs: 0 });
      if (job.data === 'reject') throw new Failure('NO_SUCH_USER', 'never', { reject: true });
      if (job.data === 'snooze') throw new Snooze(1);
      throw Object.assign(new Error('boom'), { code: 'EBOOM' });
    },
    { client },
  );
  const events: string[] = [];
  worker.on('completed', (job) => events.push(`completed ${job.data}`));
  worker.on('failed', (job, failure) => events.push(`failed ${job.data} ${failure.code}`));
  worker.on('snoozed', (job, delayMs) => events.push(`snoozed ${job.data} ${delayMs}`));
  await until('all is told', () => events.length === 6);
  assert.deepEqual(events.sort(), [
    'completed retry',
    'completed snooze',
    'failed reject NO_SUCH_USER',
    'failed retry BUSY',
    'failed throw EBOOM',
    'snoozed snooze 1',
  ]);
  assert.deepEqual(seen.sort(), ['reject 1.1', 'retry 1.1', 'retry 2.2', 'snooze 1.1', 'snooze 1.2', 'throw 1.1']);
  const { state, error } = await queue.get(ids['throw']!);
  assert.deepEqual([state, error?.code], ['scheduled', 'EBOOM']);
  assert.match(String(error?.message), /Error: boom\n/);
  assert.equal((await queue.get(ids['reject']!)).reason, 'REJECTED');
  await worker.close();
});

test('a result that the node refuses fails its job, not its neighbours', async () => {
  const queue = client.queue<number>(newQueue());
  await queue.pushBatch([0, 1, 2, 3, 4, 5, 6, 7], { maxAttempts: 1 });
  // Together more than a frame holds; the first alone more than a result may have.
  const result = (n: number): Uint8Array => new Uint8Array(1024 * 1024 + (n === 0 ? 1 : 0));
  const worker = new Worker<number, Uint8Array>(queue.name, (job) => result(job.data), { client });
  const [job, failure] = await first(worker as unknown as Worker, 'failed');
  assert.deepEqual([(job as Job).data, (failure as Failure).code], [0, 'PAYLOAD_TOO_LARGE']);
  await until('the others are done', async () => (await queue.detail()).completed === 7);
  await worker.close();
});

test('a result for which there is no JSON fails its job', async () => {
  const queue = client.queue(newQueue());
  const worker = new Worker(queue.name, () => 10n, { client });
  const failed = first(worker as unknown as Worker, 'failed');
  await queue.push(1, { maxAttempts: 1 });
  assert.equal(((await failed)[1] as Failure).code, 'INVALID');
  await worker.close();
});

test('a payload that is no JSON fails the handler that reads it', async () => {
  const queue = newQueue();
  const worker = new Worker<{ to: string }, string>(queue, (job) => job.data.to, { client });
  const failed = first(worker as unknown as Worker, 'failed');
  await client.push(queue, Buffer.from('{'), { contentType: 'application/json', maxAttempts: 1 });
  assert.equal(((await failed)[1] as Failure).code, 'INVALID');
  await worker.close();
});

test('a cancelled job tells its handler, which ends it', async () => {
  const queue = client.queue(newQueue());
  const worker = new Worker(
    queue.name,
    (job) =>
      new Promise((_, reject) => {
        job.signal.addEventListener('abort', () => reject(job.signal.reason as Error), { once: true });
      }),
    { client },
  );
  const active = first(worker, 'active');
  const failed = first(worker, 'failed');
  const { id } = await queue.push(1);
  await active;
  await client.jobs.cancel(id, { graceMs: 60_000 });
  assert.equal(((await failed)[1] as Failure).code, 'CANCEL_REQUESTED');
  assert.equal((await queue.waitFor(id)).state, 'cancelled');
  await worker.close();
});

test('a lease that is taken away is told, and nothing is settled', async () => {
  const queue = client.queue(newQueue());
  let release = (): void => {};
  const released = new Promise<void>((resolve) => (release = resolve));
  const worker = new Worker(queue.name, () => released, { client });
  const [active, lost] = [first(worker, 'active'), first(worker, 'leaseLost')];
  const settled: string[] = [];
  for (const event of ['completed', 'failed', 'error'] as const) worker.on(event, () => settled.push(event));
  const { id } = await queue.push(1);
  const [job] = (await active) as [Job];
  await client.jobs.cancel(id, { graceMs: 1 });
  await lost;
  assert.equal(job.isLost, true);
  release();
  await worker.close();
  assert.deepEqual(settled, []);
});

test('an attempt that runs longer than its job allows is told', async () => {
  const queue = client.queue(newQueue());
  const reasons: string[] = [];
  const worker = new Worker(
    queue.name,
    (job) =>
      new Promise<void>((resolve) => {
        job.signal.addEventListener('abort', () => {
          reasons.push((job.signal.reason as BatonqError).code);
          resolve();
        });
      }),
    { client },
  );
  await queue.push(1, { timeoutMs: 100, maxAttempts: 1 });
  await until('the signal fires', () => reasons.length > 0);
  // The node takes the lease at the same time: one of the two is first.
  assert.match(reasons[0]!, /^(ATTEMPT_TIMEOUT|LEASE_LOST)$/);
  await worker.close();
});

test('closing lets the running handlers end, and begins no more', async () => {
  const queue = client.queue<number>(newQueue());
  await queue.pushBatch([1, 2, 3, 4, 5, 6]);
  let begun = 0;
  let release = (): void => {};
  const released = new Promise<void>((resolve) => (release = resolve));
  const worker = new Worker<number>(
    queue.name,
    async () => {
      begun += 1;
      await released;
    },
    { client, concurrency: 2, prefetch: 2 },
  );
  await until('two run', () => begun === 2);
  const closing = worker.close();
  release();
  await closing;
  // What was fetched ahead is sent back; the worker does not wait until it is there.
  await until('the others are ready', async () => (await queue.detail()).ready === 4);
  const { completed, leased } = await queue.detail();
  assert.deepEqual([begun, completed, leased], [2, 2, 0]);
});

test('what still runs when closing can wait no longer is given back unharmed', async () => {
  const queue = client.queue(newQueue());
  const worker = new Worker(queue.name, () => new Promise(() => {}), { client, closeWithinMs: 1 });
  const active = first(worker, 'active');
  const { id } = await queue.push(1);
  const [job] = (await active) as [Job];
  await worker.close();
  assert.equal((job.signal.reason as BatonqError).code, 'CLOSED');
  const { attempts } = await client.jobs.timeline(id);
  assert.deepEqual(attempts.map(({ ending, attempt }) => [ending, attempt]), [['released', 1]]);
  assert.equal((await queue.get(id)).state, 'ready');
});

test('a worker with a client of its own waits for a node, and says what is wrong', async () => {
  const other = await Node.start();
  await other.kill();
  const queue = newQueue();
  const worker = new Worker(queue, () => 'done', { port: other.port, concurrency: 1 });
  const [error] = (await first(worker, 'error')) as [BatonqError];
  worker.on('error', () => {});
  assert.deepEqual([error.code, error.retryable], ['UNREACHABLE', true]);
  const ready = first(worker, 'ready');
  await other.resume();
  await ready;
  const { id } = await worker.client.push(queue, 1);
  assert.equal((await worker.client.waitFor(id)).result, 'done');
  await worker.close();
  await other.kill();
});

test('a worker that is closed before it is connected is closed', async () => {
  const worker = new Worker(newQueue(), () => {}, { port: 1 });
  worker.on('error', () => {});
  await worker.close();
});

test('a worker that is refused ends, and says why', async () => {
  const worker = new Worker('no such name!', () => {}, { client, autorun: false });
  await assert.rejects(worker.run(), { code: 'INVALID' });
  const loud = new Worker('no such name!', () => {}, { client });
  assert.equal(((await first(loud, 'error'))[0] as BatonqError).code, 'INVALID');
});

test('a worker whose shared client is closed ends without an error', async () => {
  const own = await new Client({ port: node.port }).connect();
  const worker = new Worker(newQueue(), () => {}, { client: own });
  await first(worker, 'ready');
  const closed = first(worker, 'closed');
  await own.close();
  await closed;
});

test('a worker needs a sensible concurrency', () => {
  for (const concurrency of [0, -1, 1.5, Number.NaN]) {
    assert.throws(() => new Worker('q', () => {}, { client, concurrency }), { code: 'INVALID' });
  }
});

test('a job keeps its lease while the event loop is blocked for longer than the node waits', async () => {
  const queue = client.queue(newQueue());
  const worker = new Worker(queue.name, () => block(3 * HEARTBEAT_TIMEOUT_MS), { port: node.port });
  const blocked: number[] = [];
  worker.client.on('blocked', (ms) => blocked.push(ms));
  const lost: Job[] = [];
  worker.on('leaseLost', (job) => lost.push(job));
  const { id } = await queue.push(1);
  const done = await queue.waitFor(id);
  const { attempts } = await client.jobs.timeline(id);
  assert.deepEqual([done.state, attempts.map(({ ending }) => ending), lost.length], ['completed', ['completed'], 0]);
  assert.ok(blocked.length > 0, 'and it is told that the loop was blocked');

  // It goes on as before.
  const again = await queue.push(2);
  assert.equal((await queue.waitFor(again.id)).state, 'completed');
  await worker.close();
});

test('that a job is to be cancelled is told after the loop was blocked', async () => {
  const queue = client.queue(newQueue());
  const reasons: string[] = [];
  const worker = new Worker(
    queue.name,
    async (job) => {
      // By then the thread stands in; if not, the wish waits in the socket.
      const cancel = `sleep ${1.5 * (HEARTBEAT_TIMEOUT_MS / 1000)}; exec "$1" cancel "$2" --url "$3" --grace 1m`;
      const env = { PATH: process.env['PATH'] ?? '' };
      const args = ['-c', cancel, 'sh', program(), String(job.id), `tcp://${node.address}`];
      const ended = new Promise((resolve) => spawn('sh', args, { env, stdio: 'ignore' }).once('close', resolve));
      block(3 * HEARTBEAT_TIMEOUT_MS);
      await ended;
      await until('it is told', () => job.signal.aborted);
      reasons.push((job.signal.reason as BatonqError).code);
      job.signal.throwIfAborted();
    },
    { port: node.port },
  );
  worker.client.on('blocked', () => {});
  const { id } = await queue.push(1);
  assert.equal((await queue.waitFor(id)).state, 'cancelled');
  assert.deepEqual(reasons, ['CANCEL_REQUESTED']);
  await worker.close();
});

test('without the thread that stands in such a lease is lost, which the worker tells', async () => {
  const queue = client.queue(newQueue());
  let times = 0;
  const handler = (): void => {
    times += 1;
    if (times === 1) block(3 * HEARTBEAT_TIMEOUT_MS);
  };
  const worker = new Worker(queue.name, handler, { port: node.port, standIn: false });
  worker.client.on('blocked', () => {});
  const lost = first(worker, 'leaseLost');
  const { id } = await queue.push(1);
  const [job] = (await lost) as [Job];
  assert.equal(job.id, id);
  assert.equal((await queue.waitFor(id)).state, 'completed');
  const { attempts } = await client.jobs.timeline(id);
  // In between the node may have given it to the connection that it was about to close.
  assert.deepEqual([attempts.at(0)?.ending, attempts.at(-1)?.ending], ['crashed', 'completed']);
  await worker.close();
});

test('a blocked loop is a warning of the process if nobody listens', async () => {
  const warned = new Promise<Error>((resolve) => process.once('warning', resolve));
  const worker = new Worker(newQueue(), () => block(2 * HEARTBEAT_TIMEOUT_MS), { port: node.port });
  await worker.client.connect();
  await client.push(worker.queue, 1);
  assert.match((await warned).message, /event loop was blocked for \d+\.\d s/);
  await worker.close();
});
