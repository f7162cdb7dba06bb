/** The parts of the client that need no node. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { readPlaces, showAddress } from '../src/address.js';
import { BatonqError, errorOf, nodeCodes } from '../src/error.js';
import { Failure, failureOf } from '../src/failure.js';
import { Fate } from '../src/fate.js';
import { Heartbeat } from '../src/heartbeat.js';
import { LoopWatch } from '../src/loop-watch.js';
import { Pauses } from '../src/pauses.js';
import { PACKAGE_VERSION } from '../src/version.js';
import { repository } from './harness.js';

test('addresses name one or several nodes', () => {
  for (const [places, read] of [
    [{}, '127.0.0.1:6789'],
    [{ host: 'queue', port: 7000 }, 'queue:7000'],
    [{ host: '::1' }, '[::1]:6789'],
    [{ addresses: 'tcp://a:1,b:2' }, 'a:1 b:2'],
    [{ addresses: 'tcp://a, b:2/' }, 'a:6789 b:2'],
    [{ addresses: ['a', 'b:2'] }, 'a:6789 b:2'],
    [{ addresses: '[::1]:7000,[::2]' }, '[::1]:7000 [::2]:6789'],
  ] as const) {
    assert.equal(readPlaces(places).map(showAddress).join(' '), read, JSON.stringify(places));
  }
});

test('what names no node is refused', () => {
  const texts = ['', 'tcp://', 'http://a:1', 'a:', 'a:99999', ':1', 'a:1,,b:1', '[::1', 'a b:1', 'a:0'];
  for (const addresses of texts) {
    assert.throws(() => readPlaces({ addresses }), { code: 'ADDRESS' }, addresses);
  }
  for (const places of [{ addresses: [] }, { addresses: 'a', port: 1 }, { port: 0.5 }, { host: '' }]) {
    assert.throws(() => readPlaces(places), { code: 'ADDRESS' }, JSON.stringify(places));
  }
  const many = (count: number): string => Array<string>(count).fill('a').join(',');
  assert.equal(readPlaces({ addresses: many(64) }).length, 64);
  assert.throws(() => readPlaces({ addresses: many(65) }), { code: 'ADDRESS' });
});

test('pauses double up to the longest, and a half is left to chance', () => {
  const pauses = new Pauses(50, 1000);
  assert.deepEqual(Array.from({ length: 7 }, () => pauses.next(1)), [50, 100, 200, 400, 800, 1000, 1000]);
  pauses.reset();
  assert.equal(pauses.next(0), 25);
  for (let tries = 0; tries < 5000; tries += 1) pauses.next(1);
  assert.equal(pauses.next(1), 1000);
});

test('a ping is due every interval, and a silent node is dead after the timeout', () => {
  const heartbeat = new Heartbeat({ heartbeatIntervalMs: 1000, heartbeatTimeoutMs: 3500 }, 0);
  for (const now of [1000, 2000, 3000]) {
    assert.equal(heartbeat.next(), now);
    assert.equal(heartbeat.beat(now), 'ping');
    assert.equal(heartbeat.beat(now), 'wait');
  }
  assert.equal(heartbeat.next(), 3500);
  assert.equal(heartbeat.beat(3499), 'wait');
  assert.equal(heartbeat.beat(3500), 'dead');
  heartbeat.heard(3500);
  assert.equal(heartbeat.beat(4000), 'ping');
});

test('a fate only gets worse, and its signal fires whenever it is asked for', () => {
  const [early, late] = [new Fate(), new Fate()];
  const { signal } = early;
  for (const fate of [early, late]) fate.cancel();
  assert.deepEqual([early.isCancelRequested, early.isLost], [true, false]);
  for (const reason of [signal.reason, late.signal.reason] as BatonqError[]) {
    assert.equal(reason.code, 'CANCEL_REQUESTED');
  }
  let told = 0;
  early.onLost = () => (told += 1);
  early.lose();
  early.lose();
  early.cancel();
  assert.deepEqual([early.isCancelRequested, early.isLost, told], [false, true, 1]);
  assert.equal((early.signal.reason as BatonqError).code, 'CANCEL_REQUESTED', 'the first reason stays');
});

test('a blocked loop is noticed, with how long it was', async () => {
  const blocked = await new Promise<number>((resolve) => {
    const watch = new LoopWatch(50, (ms) => {
      watch.stop();
      resolve(ms);
    });
    // The watch does not keep a program alive by itself.
    setTimeout(() => {
      const until = performance.now() + 200;
      while (performance.now() < until);
      setTimeout(() => {}, 1000).unref();
    }, 20);
    const alive = setInterval(() => {}, 1000);
    process.once('exit', () => clearInterval(alive));
    setTimeout(() => clearInterval(alive), 500);
  });
  assert.ok(blocked >= 50, String(blocked));
});

test('what a handler throws becomes a failure with a code', () => {
  const own = new Failure('SMTP_BUSY', 'later', { retryInMs: 5 });
  assert.equal(failureOf(own), own);
  assert.deepEqual([failureOf('text').code, failureOf('text').message], ['ERROR', 'text']);
  const system = Object.assign(new Error('refused'), { code: 'ECONNREFUSED' });
  assert.equal(failureOf(system).code, 'ECONNREFUSED');
  assert.equal(failureOf(Object.assign(new Error('odd'), { code: 'not a code' })).code, 'ERROR');
  assert.match(failureOf(new TypeError('x is not a function')).message, /TypeError: x is not a function\n.*parts\.test/s);
});

test('codes and what is retryable are as in docs/codes.md', () => {
  const text = readFileSync(repository('docs', 'codes.md'), 'utf8');
  const section = text.split('## Errors')[1]?.split('\n## ')[0] ?? '';
  const rows = [...section.matchAll(/^\| ([A-Z_]+) \| \d+ \| (yes|no) \|/gm)];
  const documented = Object.fromEntries(rows.map(([, code, again]) => [code, again === 'yes']));
  assert.deepEqual(nodeCodes, documented);
});

test('a code of a newer node is an internal error', () => {
  assert.equal(errorOf({ code: 999 as never, detail: 'new', field: '' }).code, 'INTERNAL');
});

test('the version is that of the package', () => {
  const manifest = JSON.parse(readFileSync(repository('sdk-ts', 'package.json'), 'utf8')) as { version: string };
  assert.equal(PACKAGE_VERSION, manifest.version);
});
