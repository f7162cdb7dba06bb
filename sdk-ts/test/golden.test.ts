/** The bytes of known frames, shared with the tests of the other clients: `protocol/golden`. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';

import { encodeEnvelope, FrameReader, frames, PREFACE } from '../src/frame.js';
import {
  AckItem,
  Envelope,
  ErrorCode,
  FailItem,
  LeasedJob,
  Limits,
  NewJob,
  Outcome,
  PushResult,
  SettleResult,
  SettleStatus,
  State,
  Welcome,
} from '../src/messages.js';
import { repository } from './harness.js';

const lease = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8);
const payload = new TextEncoder().encode('{"to":"ada"}');

const table: Record<string, Envelope> = {
  hello: {
    requestId: 1,
    message: {
      $case: 'hello',
      value: { versionMin: 1, versionMax: 1, token: 's3cret', worker: 'mailer-1', session: '0', client: 'golden/1' },
    },
  },
  welcome: {
    requestId: 1,
    message: {
      $case: 'welcome',
      value: Welcome.create({
        version: 1,
        nodeId: 'node-1',
        serverVersion: '0.1.0',
        session: '8812',
        heartbeatIntervalMs: 5000,
        heartbeatTimeoutMs: 15_000,
        reconnectGraceMs: 3000,
        limits: Limits.create({ frameBytesMax: 4_194_304 }),
      }),
    },
  },
  push: {
    requestId: 2,
    message: {
      $case: 'push',
      value: {
        jobs: [
          NewJob.create({
            queue: 'mail',
            payload,
            priority: -5,
            delayMs: 1500,
            maxAttempts: 3,
            backoff: { rule: { $case: 'exponential', value: { baseMs: 1000, maxMs: 60_000, jitter: 0.5 } } },
            unique: { key: 'ada' },
            tags: ['welcome'],
          }),
        ],
      },
    },
  },
  pushed: {
    requestId: 2,
    message: {
      $case: 'pushed',
      value: {
        results: [
          PushResult.create({ id: 41, outcome: Outcome.INSERTED, state: State.SCHEDULED }),
          PushResult.create({ error: { code: ErrorCode.INVALID, detail: 'longer than 256 bytes', field: 'queue' } }),
        ],
      },
    },
  },
  subscribe: { requestId: 3, message: { $case: 'subscribe', value: { queue: 'mail', credit: 10 } } },
  delivery: {
    requestId: 0,
    message: {
      $case: 'delivery',
      value: {
        subscription: 3,
        jobs: [
          LeasedJob.create({
            id: 41,
            lease,
            payload,
            attempt: 1,
            maxAttempts: 3,
            delivery: 1,
            createdAtMs: 1_790_000_000_000,
            leaseUntilMs: 1_790_000_030_000,
          }),
        ],
      },
    },
  },
  pull: { requestId: 4, message: { $case: 'pull', value: { queue: 'mail', count: 10, waitMs: 30_000, leaseMs: 60_000 } } },
  ack: {
    requestId: 5,
    message: {
      $case: 'ack',
      value: { items: [AckItem.create({ lease, result: new TextEncoder().encode('"sent"') })] },
    },
  },
  fail: {
    requestId: 6,
    message: {
      $case: 'fail',
      value: { items: [FailItem.create({ lease, code: 'SMTP', message: 'connection refused', retryInMs: 0 })] },
    },
  },
  settled: {
    requestId: 5,
    message: { $case: 'settled', value: { results: [SettleResult.create({ status: SettleStatus.OK })] } },
  },
  ping: { requestId: 7, message: { $case: 'ping', value: {} } },
  error: {
    requestId: 8,
    message: {
      $case: 'error',
      value: { code: ErrorCode.OVERLOADED, detail: 'too many bytes are waiting to be stored', field: '' },
    },
  },
  go_away: { requestId: 0, message: { $case: 'goAway', value: { reason: 'shutting down' } } },
};

function golden(name: string): Buffer {
  const lines = readFileSync(repository('protocol', 'golden', `${name}.hex`), 'utf8').split('\n');
  const hex = lines.filter((line) => !line.startsWith('#')).join('');
  return Buffer.from(hex.replace(/\s/g, ''), 'hex');
}

test('every golden file is in the table, and nothing else', () => {
  const files = readdirSync(repository('protocol', 'golden')).map((file) => file.replace('.hex', ''));
  assert.deepEqual(Object.keys(table).sort(), files.sort());
});

for (const [name, envelope] of Object.entries(table)) {
  test(`${name} is encoded and decoded as in its golden file`, () => {
    const bytes = golden(name);
    assert.deepEqual(frames([encodeEnvelope(envelope)]), bytes);
    const reader = new FrameReader();
    reader.push(bytes);
    // Plain, since decoded payloads are views of what was read.
    assert.deepEqual(plain(reader.next()), plain(envelope));
    assert.equal(reader.next(), undefined);
  });
}

function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return [...value];
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)]));
}

test('the preface never changes', () => {
  assert.deepEqual(PREFACE, Uint8Array.of(0x42, 0x41, 0x54, 0x4f, 0x4e, 0x51, 0x00, 0x01));
});

test('a frame cut anywhere waits for the rest', () => {
  const bytes = Buffer.concat([golden('push'), golden('ping')]);
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    const reader = new FrameReader();
    const read: Envelope[] = [];
    for (const part of [bytes.subarray(0, cut), bytes.subarray(cut)]) {
      reader.push(part);
      for (let next = reader.next(); next !== undefined; next = reader.next()) read.push(next);
    }
    assert.deepEqual(plain(read), plain([table['push'], table['ping']]), `cut at ${cut}`);
  }
});

test('bytes one by one make a frame too', () => {
  const reader = new FrameReader();
  const bytes = golden('delivery');
  bytes.forEach((byte, place) => {
    assert.equal(reader.next(), undefined, `before ${place}`);
    reader.push(Buffer.of(byte));
  });
  assert.deepEqual(plain(reader.next()), plain(table['delivery']));
});

test('what can not be a frame is refused on its length', () => {
  for (const length of [0, 4 * 1024 * 1024 + 1, 0xffffffff]) {
    const head = Buffer.alloc(4);
    head.writeUInt32BE(length);
    const reader = new FrameReader();
    reader.push(head);
    assert.throws(() => reader.next(), /frame/);
  }
});

test('bytes that are no envelope are refused', () => {
  const reader = new FrameReader();
  reader.push(Buffer.from('00000003ffffff', 'hex'));
  assert.throws(() => reader.next(), /no envelope/);
});
