/** The examples do what they say, with the package as it is published. */

import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { after, before, test } from 'node:test';

import { Node, repository, until } from './harness.js';

let node: Node;

before(async () => {
  node = await Node.start();
});
after(() => node.kill());

class Program {
  readonly child: ChildProcess;
  output = '';
  readonly ended: Promise<number | null>;

  constructor(name: string) {
    const file = repository('sdk-ts', 'build', 'examples', `${name}.js`);
    const env = { ...process.env, BATONQ_URL: `tcp://${node.address}` };
    this.child = spawn(process.execPath, [file], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    }
    this.ended = new Promise((resolve) => this.child.once('close', resolve));
  }
}

test('a job is pushed, worked on and waited for, and the worker ends when it is told to', async () => {
  const worker = new Program('worker');
  const pusher = new Program('push-and-wait');
  assert.equal(await pusher.ended, 0, pusher.output);
  assert.match(pusher.output, /job \d+: completed, https:\/\/images\.example\.org\/200\/cat\.png/);
  await until('the worker has said so', () => worker.output.includes('cat.png'));
  worker.child.kill('SIGTERM');
  assert.equal(await worker.ended, 0, worker.output);
});

test('jobs are taken and settled without a worker', async () => {
  const program = new Program('own-hands');
  assert.equal(await program.ended, 0, program.output);
  assert.equal(program.output, 'to ada\nto bob\nto cyd\n');
});

test('a schedule is made and looked at', async () => {
  const program = new Program('schedule');
  assert.equal(await program.ended, 0, program.output);
  assert.match(program.output, /^next: \d{4}-/);
});
