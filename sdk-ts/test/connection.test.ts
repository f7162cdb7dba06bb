/** What becomes of calls, leases and subscriptions when connections come and go, against a scripted node. */

import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';

import { BatonqError, Client, Worker, type ClientOptions } from '../src/index.js';
import { ErrorCode, Outcome, PushResult, SettleResult, SettleStatus, State } from '../src/messages.js';
import type { Message } from '../src/call.js';
import { until } from './harness.js';
import { leased, leaseNumber, ScriptedNode, type Peer } from './scripted-node.js';

let node: ScriptedNode;
let client: Client;

beforeEach(async () => {
  node = await ScriptedNode.start();
});
afterEach(async () => {
  await client.close();
  node.stop();
});

/** A connected client, and the node's end of its connection. */
async function given(options: ClientOptions = {}): Promise<Peer> {
  client = new Client({ port: node.port, reconnectMinMs: 1, reconnectMaxMs: 10, standIn: false, ...options });
  const connecting = client.connect();
  const peer = await node.peer();
  await peer.welcomes();
  await connecting;
  return peer;
}

/** The next connection, welcomed with these leases. */
async function again(leases: number[] = []): Promise<Peer> {
  const peer = await node.peer();
  const hello = await peer.welcomes({ resumed: true, leases: leases.map(leaseNumber) });
  assert.equal(hello.session, '9007199254740993', 'the session is named, whole');
  return peer;
}

const done: Message = { $case: 'done', value: {} };

function refusal(code: ErrorCode): Message {
  return { $case: 'error', value: { code, detail: 'no', field: '' } };
}

function pushed(id: number): Message {
  const result = PushResult.create({ id, outcome: Outcome.INSERTED, state: State.READY });
  return { $case: 'pushed', value: { results: [result] } };
}

function settled(...statuses: SettleStatus[]): Message {
  return { $case: 'settled', value: { results: statuses.map((status) => SettleResult.create({ status })) } };
}

async function code(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => assert.fail('it was expected to fail'),
    (error: unknown) => error,
  );
  assert.ok(error instanceof BatonqError, String(error));
  return `${error.code}${error.retryable ? ' (retryable)' : ''}`;
}

test('a push without a key whose answer is lost has an unknown outcome', async () => {
  const peer = await given();
  const pushing = code(client.push('q', 1));
  await peer.hears('push');
  peer.close();
  assert.equal(await pushing, 'OUTCOME_UNKNOWN');
});

test('a push with a key is asked again over the next connection, with the same key', async () => {
  const peer = await given();
  const pushing = client.push('q', 1, { idempotencyKey: true });
  const first = await peer.hears('push');
  const key = first.value.jobs[0]?.idempotencyKey;
  assert.match(String(key), /^[0-9a-f-]{36}$/);
  peer.close();
  const next = await again();
  const second = await next.hears('push');
  assert.equal(second.value.jobs[0]?.idempotencyKey, key);
  next.says(second.id, pushed(7));
  assert.equal((await pushing).id, 7);
});

test('a push with a key is tried again while the node can not serve it, one without is refused', async () => {
  const peer = await given();
  const keyed = client.push('q', 1, { idempotencyKey: 'k' });
  for (const passing of [ErrorCode.UNAVAILABLE, ErrorCode.OVERLOADED, ErrorCode.OUTCOME_UNKNOWN]) {
    peer.says((await peer.hears('push')).id, refusal(passing));
  }
  peer.says((await peer.hears('push')).id, pushed(7));
  assert.equal((await keyed).id, 7);

  const plain = code(client.push('q', 1));
  peer.says((await peer.hears('push')).id, refusal(ErrorCode.UNAVAILABLE));
  assert.equal(await plain, 'UNAVAILABLE (retryable)');
});

test('when a repeated push runs out of time, the last refusal is told', async () => {
  const peer = await given();
  const keyed = code(client.push('q', 1, { idempotencyKey: 'k', deadlineMs: 30 }));
  peer.says((await peer.hears('push')).id, refusal(ErrorCode.OVERLOADED));
  assert.equal(await keyed, 'OVERLOADED (retryable)');
});

test('questions that change nothing are asked again', async () => {
  const peer = await given();
  const asking = client.queues.list();
  await peer.hears('listQueues');
  peer.close();
  const next = await again();
  next.says((await next.hears('listQueues')).id, { $case: 'queues', value: { queues: [] } });
  assert.deepEqual(await asking, []);
});

test('a pull that is asked again waits only for what is left', async () => {
  const peer = await given();
  const pulling = client.pull('q', { waitMs: 60_000 });
  assert.equal((await peer.hears('pull')).value.waitMs, 60_000);
  await new Promise((resolve) => setTimeout(resolve, 5));
  peer.close();
  const next = await again();
  const pull = await next.hears('pull');
  assert.ok(pull.value.waitMs < 60_000 && pull.value.waitMs > 0, String(pull.value.waitMs));
  next.says(pull.id, { $case: 'pulled', value: { jobs: [leased(1)] } });
  assert.equal((await pulling)[0]?.id, 1);
});

test('calls made while there is no connection wait for one, within their time', async () => {
  const peer = await given();
  const noticed = new Promise((resolve) => client.once('disconnected', resolve));
  peer.close();
  await noticed;
  const late = code(client.push('q', 1, { deadlineMs: 20 }));
  const patient = client.push('q', 2);
  assert.equal(await late, 'TIMEOUT (retryable)');
  const next = await again();
  const push = await next.hears('push');
  assert.equal(Buffer.from(push.value.jobs[0]?.payload ?? []).toString(), '2');
  next.says(push.id, pushed(1));
  await patient;
});

test('what was sent and not answered in time is unknown, what changes nothing is a timeout', async () => {
  await given();
  assert.equal(await code(client.push('q', 1, { deadlineMs: 20 })), 'OUTCOME_UNKNOWN');
  assert.equal(await code(client.queues.list({ deadlineMs: 20 })), 'TIMEOUT (retryable)');
});

test('a settlement is repeated over the next connection', async () => {
  const peer = await given();
  const pulling = client.pull('q');
  peer.says((await peer.hears('pull')).id, { $case: 'pulled', value: { jobs: [leased(1)] } });
  const [job] = await pulling;
  const acking = job?.ack('r');
  await peer.hears('ack');
  peer.close();
  const next = await again([1]);
  next.says((await next.hears('ack')).id, settled(SettleStatus.OK));
  await acking;
  assert.equal(job?.isLost, false);
});

test('leases that the node does not list are lost, those that nobody here holds are given back', async () => {
  const peer = await given();
  const pulling = client.pull('q', { count: 2 });
  peer.says((await peer.hears('pull')).id, { $case: 'pulled', value: { jobs: [leased(1), leased(2)] } });
  const [kept, lost] = await pulling;
  const { signal } = lost!;
  peer.close();
  const next = await again([1, 9]);
  assert.deepEqual((await next.hears('release')).value.leases.map((lease) => lease[3]), [9]);
  assert.deepEqual([kept?.isLost, lost?.isLost], [false, true]);
  assert.equal((signal.reason as BatonqError).code, 'LEASE_LOST');
});

test('work that was done is said before leases are given back', async () => {
  client = new Client({ port: node.port, standIn: false });
  const connecting = client.connect();
  const peer = await node.peer();
  await peer.welcomes({ reconnectGraceMs: 10 });
  await connecting;
  const pulling = client.pull('q', { count: 2 });
  peer.says((await peer.hears('pull')).id, { $case: 'pulled', value: { jobs: [leased(1), leased(2)] } });
  const [done, other] = await pulling;
  peer.close();
  const next = await node.peer();
  const acking = done!.ack();
  await until('the leases are given up for lost', () => done!.isLost && other!.isLost);
  // The node has borne the silence for longer.
  await next.welcomes({ resumed: true, leases: [1, 2].map(leaseNumber) });
  const ack = await next.hears('ack');
  assert.deepEqual((await next.hears('release')).value.leases.map((lease) => lease[3]), [2]);
  next.says(ack.id, settled(SettleStatus.OK));
  await acking;
});

test('leases that no connection takes up in time are lost', async () => {
  client = new Client({ port: node.port, reconnectMinMs: 60_000, reconnectMaxMs: 60_000, standIn: false });
  const connecting = client.connect();
  const peer = await node.peer();
  await peer.welcomes({ reconnectGraceMs: 10 });
  await connecting;
  const pulling = client.pull('q');
  peer.says((await peer.hears('pull')).id, { $case: 'pulled', value: { jobs: [leased(1)] } });
  const [job] = await pulling;
  peer.close();
  await until('the lease is lost', () => job?.isLost === true);
});

test('a job that comes for a pull that was given up is given back', async () => {
  const peer = await given();
  const pulling = code(client.pull('q', { deadlineMs: 10 }));
  const pull = await peer.hears('pull');
  assert.equal(await pulling, 'TIMEOUT (retryable)');
  peer.says(pull.id, { $case: 'pulled', value: { jobs: [leased(5)] } });
  assert.deepEqual((await peer.hears('release')).value.leases.map((lease) => lease[3]), [5]);
});

test('a subscription is set up again with the credit that is left, and gets the rest as jobs are settled', async () => {
  const peer = await given();
  const subscribing = client.subscribe('q', { credit: 3 });
  const first = await peer.hears('subscribe');
  peer.says(first.id, done);
  const subscription = await subscribing;
  peer.says(0, { $case: 'delivery', value: { subscription: first.id, jobs: [leased(1), leased(2)] } });
  const one = (await subscription.next()).value;
  peer.close();

  const next = await again([1, 2]);
  const second = await next.hears('subscribe');
  assert.equal(second.value.credit, 1);
  next.says(second.id, done);
  const acking = one?.ack();
  next.says((await next.hears('ack')).id, settled(SettleStatus.OK));
  await acking;
  assert.deepEqual((await next.hears('addCredit')).value, { subscription: second.id, credit: 1 });

  next.says(0, { $case: 'delivery', value: { subscription: second.id, jobs: [leased(3)] } });
  const three = [(await subscription.next()).value, (await subscription.next()).value].map((job) => job?.id);
  assert.deepEqual(three, [2, 3]);
});

test('a subscription that is refused later on ends with the reason', async () => {
  const peer = await given();
  const subscribing = client.subscribe('q');
  peer.says((await peer.hears('subscribe')).id, done);
  const subscription = await subscribing;
  peer.close();
  const next = await again();
  next.says((await next.hears('subscribe')).id, refusal(ErrorCode.UNAVAILABLE));
  next.says((await next.hears('subscribe')).id, refusal(ErrorCode.FORBIDDEN));
  assert.equal(await code(subscription.next()), 'FORBIDDEN');
  assert.equal((await subscription.next()).done, true);
});

test('jobs for a subscription that is closed are given back', async () => {
  const peer = await given();
  const subscribing = client.subscribe('q');
  const { id } = await peer.hears('subscribe');
  peer.says(id, done);
  const subscription = await subscribing;
  const closing = subscription.close();
  const unsubscribe = await peer.hears('unsubscribe');
  peer.says(0, { $case: 'delivery', value: { subscription: id, jobs: [leased(1)] } });
  peer.says(unsubscribe.id, done);
  await closing;
  assert.deepEqual((await peer.hears('release')).value.leases.map((lease) => lease[3]), [1]);
});

test('a job whose lease was lost while it waited for a handler is not begun', async () => {
  const peer = await given();
  const begun: number[] = [];
  let release = (): void => {};
  const released = new Promise<void>((resolve) => (release = resolve));
  const handler = async ({ id }: { id: number }): Promise<void> => {
    begun.push(id);
    if (id === 1) await released;
  };
  const worker = new Worker('q', handler, { client, concurrency: 1, prefetch: 1 });
  const { id: subscription, value } = await peer.hears('subscribe');
  assert.equal(value.credit, 2);
  peer.says(subscription, done);
  peer.says(0, { $case: 'delivery', value: { subscription, jobs: [leased(1), leased(2)] } });
  peer.says(0, { $case: 'leasesLost', value: { leases: [leaseNumber(2)] } });
  peer.says(0, { $case: 'delivery', value: { subscription, jobs: [leased(3)] } });
  await until('the first is begun', () => begun.length === 1);
  release();
  const acked: (number | undefined)[] = [];
  while (acked.length < 2) {
    const { id, value } = await peer.hears('ack');
    acked.push(...value.items.map(({ lease }) => lease[3]));
    peer.says(id, settled(...value.items.map(() => SettleStatus.OK)));
  }
  assert.deepEqual(acked, [1, 3]);
  const closing = worker.close();
  peer.says((await peer.hears('unsubscribe')).id, done);
  await closing;
  assert.deepEqual(begun, [1, 3]);
});

test('a node that goes away is left with leases intact, and still hears what was begun there', async () => {
  const peer = await given();
  const pulling = client.pull('q');
  peer.says((await peer.hears('pull')).id, { $case: 'pulled', value: { jobs: [leased(1)] } });
  const [job] = await pulling;
  const pushing = client.push('q', 1);
  const push = await peer.hears('push');
  const moved = new Promise((resolve) => client.once('connected', resolve));
  peer.says(0, { $case: 'goAway', value: { reason: 'about to stop' } });
  const next = await again([1]);
  await moved;

  const acking = job?.ack();
  next.says((await next.hears('ack')).id, settled(SettleStatus.OK));
  await acking;
  peer.says(push.id, pushed(7));
  assert.equal((await pushing).id, 7);
  await peer.closed;
  assert.equal(job?.isLost, false);
});

test('until there is another node, one that goes away serves on', async () => {
  const peer = await given({ reconnectMinMs: 60_000, reconnectMaxMs: 60_000 });
  peer.says(0, { $case: 'goAway', value: { reason: 'about to stop' } });
  await new Promise((resolve) => client.once('goingAway', resolve));
  const pushing = client.push('q', 1);
  peer.says((await peer.hears('push')).id, pushed(7));
  assert.equal((await pushing).id, 7);
});

test('a node that says it will never let the client in ends the client', async () => {
  const peer = await given();
  const subscribing = client.subscribe('q');
  peer.says((await peer.hears('subscribe')).id, done);
  const subscription = await subscribing;
  const waiting = code(client.queues.list());
  await peer.hears('listQueues');
  const over = new Promise<BatonqError>((resolve) => client.once('closed', resolve));
  peer.close();
  const next = await node.peer();
  next.says((await next.hears('hello')).id, refusal(ErrorCode.UNAUTHENTICATED));
  assert.equal((await over).code, 'UNAUTHENTICATED');
  assert.equal(await waiting, 'UNAUTHENTICATED');
  assert.equal(await code(subscription.next()), 'UNAUTHENTICATED');
  assert.equal(await code(client.push('q', 1)), 'UNAUTHENTICATED');
});

test('a silent node is left', async () => {
  client = new Client({ port: node.port, reconnectMinMs: 1, reconnectMaxMs: 10, standIn: false });
  const connecting = client.connect();
  const peer = await node.peer();
  await peer.welcomes({ heartbeatIntervalMs: 20, heartbeatTimeoutMs: 60 });
  await connecting;
  await peer.hears('ping');
  await peer.closed;
  await again();
});

test('a ping of the node is answered', async () => {
  const peer = await given();
  peer.says(77, { $case: 'ping', value: {} });
  assert.equal((await peer.hears('pong')).id, 77);
});

test('bytes that are no frame end the connection, not the client', async () => {
  const peer = await given();
  peer.socket.write(Buffer.from('00000000', 'hex'));
  await peer.closed;
  await again();
});

test('no more calls are on their way at once than the node allows', async () => {
  const peer = await given();
  const all = Promise.all(Array.from({ length: 300 }, (_, n) => client.push('q', n)));
  const first = await peer.hears('push');
  await new Promise((resolve) => setTimeout(resolve, 20));
  let onTheirWay = 1;
  while (peer.has('push')) {
    await peer.hears('push');
    onTheirWay += 1;
  }
  assert.equal(onTheirWay, 88, 'an eighth of the hundred is left for the client itself');
  peer.says(first.id, pushed(1));
  await peer.hears('push');
  peer.close();
  assert.equal(await code(all), 'OUTCOME_UNKNOWN');
});

test('closing says what is given back, and ends what waits', async () => {
  const peer = await given();
  const pulling = client.pull('q');
  peer.says((await peer.hears('pull')).id, { $case: 'pulled', value: { jobs: [leased(1)] } });
  await pulling;
  const pushing = code(client.push('q', 1));
  const looking = code(client.queues.list());
  await peer.hears('push');
  peer.socket.on('end', () => peer.close());
  const closing = client.close();
  assert.deepEqual((await peer.hears('release')).value.leases.map((lease) => lease[3]), [1]);
  await closing;
  assert.equal(await pushing, 'OUTCOME_UNKNOWN');
  assert.equal(await looking, 'CLOSED');
});

test('what a listener throws does not harm the client', async () => {
  const peer = await given();
  const thrown = new Promise<unknown>((resolve) => {
    process.removeAllListeners('uncaughtException');
    process.once('uncaughtException', resolve);
  });
  client.on('disconnected', () => {
    throw new Error('mine');
  });
  peer.close();
  assert.equal(String(await thrown), 'Error: mine');
  await again();
});
