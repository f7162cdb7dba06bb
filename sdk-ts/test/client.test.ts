/** The calls of a client against a node on its embedded database. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { BatonqError, Client, type Job } from '../src/index.js';
import { Node, until } from './harness.js';

let node: Node;
let client: Client;
let queues = 0;

before(async () => {
  node = await Node.start({
    BATONQ_TOKENS: 's3cret:admin+produce+consume+observe,maker:produce',
    BATONQ_HEARTBEAT_INTERVAL: '200ms',
    BATONQ_HEARTBEAT_TIMEOUT: '1s',
    BATONQ_BIND: '127.0.0.1',
  });
  client = await connected();
});
after(async () => {
  await client.close();
  await node.kill();
});

function connected(): Promise<Client> {
  return new Client({ host: '127.0.0.1', port: node.port, token: 's3cret', worker: 'tester' }).connect();
}

function newQueue(): string {
  queues += 1;
  return `q${queues}`;
}

async function pulled<T>(queue: string): Promise<Job<T>> {
  const [job] = await client.pull<T>(queue, { waitMs: 10_000 });
  assert.ok(job, 'a job came');
  return job;
}

async function code(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => assert.fail('it was expected to fail'),
    (error: unknown) => error,
  );
  assert.ok(error instanceof BatonqError, String(error));
  return error.code;
}

test('what is pushed is pulled, acked with a result, and found again', async () => {
  const queue = client.queue<{ to: string }, { sent: boolean }>(newQueue());
  const { id, outcome, state } = await queue.push({ to: 'ada' }, { priority: 5, tags: ['welcome'], maxAttempts: 3 });
  assert.deepEqual([outcome, state], ['inserted', 'ready']);

  const [job] = await queue.pull();
  assert.ok(job);
  assert.deepEqual([job.id, job.data.to, job.attempt, job.maxAttempts, job.priority], [id, 'ada', 1, 3, 5]);
  assert.deepEqual(job.tags, ['welcome']);
  await job.progress(50, 'half');
  assert.deepEqual((await queue.get(id)).progress, { percent: 50, message: 'half' });
  await job.ack({ sent: true });

  const done = await queue.waitFor(id);
  assert.equal(done.state, 'completed');
  assert.deepEqual(done.result, { sent: true });
  assert.deepEqual(done.data, { to: 'ada' });
  assert.equal(done.hasEnded, true);
});

test('bytes and other content types pass as they are', async () => {
  const queue = newQueue();
  await client.push(queue, Uint8Array.of(1, 2, 255));
  const bytes = await pulled(queue);
  assert.deepEqual([bytes.contentType, [...(bytes.data as Uint8Array)]], ['application/octet-stream', [1, 2, 255]]);
  await bytes.ack(Uint8Array.of(7, 255));
  assert.deepEqual([...((await client.jobs.get(bytes.id)).result as Uint8Array)], [7, 255]);

  await client.push(queue, Buffer.from('{broken'), { contentType: 'application/json' });
  const broken = await pulled(queue);
  assert.throws(() => broken.data, { code: 'INVALID' });
  await broken.ack();
});

test('a batch has an answer for each of its jobs', async () => {
  const queue = newQueue();
  const results = await client.pushBatch([
    { queue, data: 1 },
    { queue: 'no such name!', data: 2 },
    { queue, data: 3, unique: 'k' },
    { queue, data: 4, unique: 'k' },
  ]);
  assert.deepEqual(
    results.map((result) => (result.ok ? result.outcome : result.error.code)),
    ['inserted', 'INVALID', 'inserted', 'duplicate'],
  );
  const [first, , third] = results;
  const jobs = await client.pull(queue, { count: 10 });
  assert.deepEqual(
    jobs.map((job) => job.id),
    [first, third].map((result) => result?.ok === true && result.id),
  );
  const settled = await client.ackBatch([{ lease: jobs[0]! }, { lease: 'AAAA' }, { lease: jobs[1]!, result: 'r' }]);
  assert.deepEqual(
    settled.map((result) => (result.ok ? 'ok' : result.error.code)),
    ['ok', 'INVALID', 'ok'],
  );
});

test('a batch of a thousand jobs is one call, one more is refused', async () => {
  const queue = client.queue<number>(newQueue());
  const results = await queue.pushBatch(Array.from({ length: 1000 }, (_, n) => n));
  assert.ok(results.every((result) => result.ok));
  assert.equal((await queue.detail()).ready, 1000);
  assert.equal(await code(queue.pushBatch(Array.from({ length: 1001 }, (_, n) => n))), 'INVALID');
});

test('jobs of a flow wait for each other, and are given the results', async () => {
  const queue = newQueue();
  const [first, second] = await client.pushFlow([
    { queue, data: 'a' },
    { queue, data: 'b', after: [0] },
  ]);
  assert.deepEqual([first?.state, second?.state], ['ready', 'blocked']);
  await (await pulled(queue)).ack({ n: 1 });
  const last = await pulled(queue);
  assert.equal(last.id, second?.id);
  assert.deepEqual(last.needs, [{ id: first?.id, state: 'completed', result: { n: 1 } }]);
  await last.ack();
});

test('a failed attempt comes back, a rejected one is dead, a released one is not charged', async () => {
  const queue = newQueue();
  const { id } = await client.push(queue, 'x', { backoff: { type: 'fixed', delayMs: 0 } });
  await (await pulled(queue)).fail({ code: 'SMTP', message: 'busy', retryInMs: 0 });
  const second = await pulled(queue);
  assert.equal(second.attempt, 2);
  await second.release();
  const again = await pulled(queue);
  assert.deepEqual([again.attempt, again.delivery], [2, 3]);
  await again.snooze(1);
  const later = await pulled(queue);
  assert.equal(later.attempt, 2);
  await later.fail({ code: 'NEVER', reject: true });

  const dead = await client.jobs.get(id);
  assert.deepEqual([dead.state, dead.reason, dead.error?.code], ['dead', 'REJECTED', 'NEVER']);
  const { attempts, events } = await client.jobs.timeline(id);
  assert.deepEqual(attempts.map(({ ending }) => ending), ['failed', 'released', 'snoozed', 'rejected']);
  assert.equal(events[0]?.kind, 'pushed');
});

test('a lease that was settled is lost, and the same settlement may be repeated', async () => {
  const queue = newQueue();
  await client.push(queue, 'x');
  const job = await pulled(queue);
  await job.ack();
  await client.ack(job.lease);
  assert.equal(await code(client.fail(job.lease)), 'LEASE_LOST');
});

test('a lease with a time of its own is extended', async () => {
  const queue = newQueue();
  await client.push(queue, 'x');
  const [job] = await client.pull(queue, { leaseMs: 5000 });
  assert.ok(job);
  const until = await job.extend(60_000);
  assert.ok(until.getTime() > job.leaseUntil.getTime() + 30_000);
  await job.ack();
});

test('a pull waits for a job, and an empty one says so', async () => {
  const queue = newQueue();
  assert.deepEqual(await client.pull(queue), []);
  const waiting = client.pull(queue, { waitMs: 20_000 });
  await client.push(queue, 'late');
  const [job] = await waiting;
  assert.equal(job?.data, 'late');
  await job?.ack();
});

test('a subscription sends as many jobs as there is credit for', async () => {
  const queue = client.queue<number>(newQueue());
  await queue.pushBatch([1, 2, 3, 4, 5]);
  const subscription = await queue.subscribe({ credit: 2 });
  await until('two are leased', async () => (await queue.detail()).leased === 2);
  const seen: number[] = [];
  for await (const job of subscription) {
    seen.push(job.data);
    await job.ack();
    if (seen.length === 4) break;
  }
  assert.deepEqual(seen, [1, 2, 3, 4]);
  await until('the last one is given back', async () => {
    const { ready, leased } = await queue.detail();
    return ready === 1 && leased === 0;
  });
});

test('a subscription to a queue that can not be is refused', async () => {
  assert.equal(await code(client.subscribe('no such name!')), 'INVALID');
});

test('a signal calls a call off, and ends a subscription', async () => {
  const queue = newQueue();
  const controller = new AbortController();
  const waiting = client.pull(queue, { waitMs: 20_000, signal: controller.signal });
  controller.abort('enough');
  const error: unknown = await waiting.catch((error: unknown) => error);
  assert.ok(error instanceof BatonqError);
  assert.deepEqual([error.code, error.cause], ['ABORTED', 'enough']);
  assert.equal(await code(client.push(queue, 1, { signal: AbortSignal.abort() })), 'ABORTED');

  // The node still answers the pull: the job that comes of it is given back.
  await client.push(queue, 'x');
  const job = await pulled(queue);
  await job.ack();

  const later = new AbortController();
  const subscription = await client.subscribe(queue, { signal: later.signal });
  later.abort();
  assert.equal((await subscription.next()).done, true);
});

test('one signal may be handed to many calls', async () => {
  const warnings: Error[] = [];
  const note = (warning: Error): void => void warnings.push(warning);
  process.on('warning', note);
  const queue = newQueue();
  const controller = new AbortController();
  const { signal } = controller;
  await Promise.all(Array.from({ length: 100 }, (_, n) => client.push(queue, n, { signal })));
  const waiting = Array.from({ length: 100 }, () => code(client.pull(newQueue(), { waitMs: 20_000, signal })));
  controller.abort();
  assert.deepEqual(new Set(await Promise.all(waiting)), new Set(['ABORTED']));
  process.off('warning', note);
  assert.deepEqual(warnings.filter(({ name }) => name === 'MaxListenersExceededWarning'), []);
});

test('the wait of a call that waits is added to its deadline', async () => {
  assert.deepEqual(await client.pull(newQueue(), { waitMs: 300, deadlineMs: 5000 }), []);
});

test('errors have codes, and say whether to try again', async () => {
  assert.equal(await code(client.jobs.get(4_000_000_000)), 'NOT_FOUND');
  assert.equal(await code(client.queues.get('nothing')), 'NOT_FOUND');
  assert.equal(await code(client.push('q', 1, { maxAttempts: 0 })), 'INVALID');
  assert.equal(await code(client.push('q', 1, { delayMs: Number.NaN })), 'INVALID');
  assert.equal(await code(client.push('q', 1, { priority: 1.5 })), 'INVALID');
  assert.equal(await code(client.push('q', 10n)), 'INVALID');
  assert.equal(await code(client.push('q', () => 1)), 'INVALID');
  assert.equal(await code(client.push('q', new Uint8Array(1024 * 1024 + 1))), 'PAYLOAD_TOO_LARGE');
  assert.equal(await code(client.push('q', new Uint8Array(5 * 1024 * 1024))), 'PAYLOAD_TOO_LARGE');
  const refused: unknown = await client.push('no such name!', 1).catch((error: unknown) => error);
  assert.ok(refused instanceof BatonqError);
  assert.deepEqual([refused.retryable, refused.field], [false, 'queue']);
});

test('jobs are listed, explained, promoted, edited, cancelled, retried, replayed and deleted', async () => {
  const queue = newQueue();
  const { id } = await client.push(queue, 'later', { delayMs: 3_600_000 });
  assert.equal((await client.jobs.explain(id)).causes[0]?.code, 'SCHEDULED');
  await client.jobs.edit(id, { priority: 7, data: { n: 2 } });
  await client.jobs.promote(id);
  const job = await pulled<{ n: number }>(queue);
  assert.deepEqual([job.id, job.priority, job.data.n], [id, 7, 2]);
  await job.fail({ reject: true });
  await client.jobs.retry(id);
  await (await pulled(queue)).fail({ reject: true });
  const copy = await client.jobs.replay(id, { priority: 1 });
  assert.equal((await client.jobs.get(copy)).replayOf, id);
  assert.deepEqual(await client.jobs.cancel(copy), { isDone: true });
  assert.deepEqual(await client.queues.replayDead(queue), []);

  const listed: number[] = [];
  for await (const one of client.jobs.each({ queue, limit: 1 })) listed.push(one.id);
  assert.deepEqual(listed, [copy, id]);
  assert.equal((await client.jobs.list({ queue, state: 'dead' })).jobs.length, 1);
  const { matched } = await client.jobs.bulk({ action: 'delete', filter: { queue, state: 'cancelled' }, dry_run: true });
  assert.equal(matched, 1);
  await client.jobs.delete(copy);
  assert.equal(await code(client.jobs.get(copy)), 'NOT_FOUND');
  assert.equal(await code(client.jobs.promote(id)), 'WRONG_STATE');
});

test('a cancelled job tells who works on it', async () => {
  const queue = newQueue();
  await client.push(queue, 'x');
  const job = await pulled(queue);
  const { signal } = job;
  const cancelled = await client.jobs.cancel(job.id, { graceMs: 60_000 });
  assert.equal(cancelled.isDone, false);
  await until('the signal fires', () => signal.aborted);
  assert.equal((signal.reason as BatonqError).code, 'CANCEL_REQUESTED');
  assert.deepEqual([job.isCancelRequested, job.isLost], [true, false]);
  await job.fail();
  assert.equal((await client.jobs.get(job.id)).state, 'cancelled');
});

test('queues are paused, resumed, set and guarded', async () => {
  const queue = client.queue(newQueue());
  await queue.push(1, { concurrency: { key: 'tenant', max: 2 } });
  await queue.pause();
  assert.equal((await queue.detail()).isPaused, true);
  assert.deepEqual(await queue.pull(), []);
  await queue.resume();
  assert.deepEqual(
    (await client.queues.keys(queue.name)).map(({ key, waiting, concurrency }) => [key, waiting, concurrency?.max]),
    [['tenant', 1, 2]],
  );
  await client.queues.setSettings(queue.name, { depth_max: 1 });
  assert.equal((await queue.detail()).settings['depth_max'], 1);
  assert.equal(await code(queue.push(2)), 'RATE_LIMITED');
  assert.equal((await client.queues.decisions({ queue: queue.name }))[0]?.guard, 'depth_max');
  assert.ok((await client.queues.list()).some(({ name }) => name === queue.name));
});

test('schedules are put, run, listed, paused and deleted', async () => {
  const queue = newQueue();
  await client.schedules.put('nightly', {
    schedule: '0 30 3 * * *',
    timezone: 'Europe/Berlin',
    overlap: 'skip',
    catchUp: { all: { cap: 5, windowMs: 3_600_000 } },
    job: { queue, data: { kind: 'full' }, priority: 3 },
  });
  const nightly = await client.schedules.get('nightly');
  assert.deepEqual([nightly.timezone, nightly.overlap, nightly.catchUp, nightly.queue], ['Europe/Berlin', 'skip', 'all', queue]);
  assert.ok(nightly.nextAt);
  const { id } = await client.schedules.run('nightly');
  const job = await pulled<{ kind: string }>(queue);
  assert.deepEqual([job.id, job.data.kind, job.priority], [id, 'full', 3]);
  await job.ack();
  await client.schedules.pause('nightly');
  assert.ok((await client.schedules.get('nightly')).pausedAt);
  await client.schedules.resume('nightly');
  assert.deepEqual((await client.schedules.fires('nightly')).map(({ outcome, job }) => [outcome, job]), [['manual', id]]);
  assert.ok((await client.schedules.list()).some(({ name }) => name === 'nightly'));
  await client.schedules.delete('nightly');
  assert.equal(await code(client.schedules.delete('nightly')), 'NOT_FOUND');
});

test('nodes, workers and figures are shown', async () => {
  assert.equal((await client.cluster.nodes()).length, 1);
  assert.ok((await client.cluster.workers()).some(({ name, isConnected }) => name === 'tester' && isConnected));
  assert.ok((await client.cluster.stats()).pushed > 0);
  assert.ok((await client.cluster.ping()) >= 0);
  assert.equal(client.node?.limits.batchMax, 1000);
});

test('who may not come in is told why, and who may do less is refused', async () => {
  const stranger = new Client({ addresses: [node.address], token: 'wrong' });
  assert.equal(await code(stranger.connect()), 'UNAUTHENTICATED');
  assert.equal(await code(new Client({ port: 1 }).connect()), 'UNREACHABLE');
  assert.equal(await code(new Client().push('q', 1)), 'CLOSED');
  const maker = await new Client({ addresses: node.address, token: 'maker' }).connect();
  await maker.push(newQueue(), 1);
  assert.equal(await code(maker.pull('q')), 'FORBIDDEN');
  await maker.close();
  assert.equal(await code(maker.push('q', 1)), 'CLOSED');
});

test('closing gives the jobs back that are held', async () => {
  const queue = newQueue();
  await client.push(queue, 'x');
  const other = await connected();
  const [job] = await other.pull(queue);
  assert.ok(job);
  await other.close();
  assert.equal(job.isLost, true);
  const again = await pulled(queue);
  assert.deepEqual([again.id, again.attempt, again.delivery], [job.id, 1, 2]);
  assert.deepEqual((await client.jobs.timeline(job.id)).attempts[0]?.ending, 'released');
  await again.ack();
});

test('thousands of calls at once are all answered', async () => {
  const queue = newQueue();
  const pushed = await Promise.all(Array.from({ length: 5000 }, (_, n) => client.push(queue, n)));
  assert.equal(new Set(pushed.map(({ id }) => id)).size, 5000);
  assert.equal((await client.queues.get(queue)).ready, 5000);
});
