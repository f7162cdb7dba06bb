// This client and the Rust client in turn, on the same node on its embedded database.
//
//     BATONQ_PROGRAM=target/release/batonq npm run bench -- [ROUNDS] [SECONDS]
//
// Prints a table of medians, with the extremes in brackets.

import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const program = process.env.BATONQ_PROGRAM ?? join(root, '..', 'target', 'release', 'batonq');
const [rounds = 5, seconds = 3] = process.argv.slice(2).map(Number);

// What the developer has set is not for the broker.
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('BATONQ_')));
const data = mkdtempSync(join(tmpdir(), 'batonq-bench-'));
const node = spawn(program, ['serve', '--port', '0', '--http', '0', '--data-dir', join(data, 'data')], {
  env,
  stdio: ['ignore', 'pipe', 'ignore'],
});
process.on('exit', () => {
  node.kill('SIGKILL');
  rmSync(data, { recursive: true, force: true });
});
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
const line = await new Promise((resolve) => createInterface({ input: node.stdout }).once('line', resolve));
const address = /tcp=(\S+)/.exec(line)[1];

const rust = (mode, ...flags) => [
  program,
  ['bench', '--url', `tcp://${address}`, '--mode', mode, '--seconds', String(seconds), '--connections', '1', ...flags],
];
const typescript = (mode, ...flags) => [
  process.execPath,
  [join(root, 'build', 'bench', 'cycle.js'), '--url', address, '--mode', mode, '--seconds', String(seconds), ...flags],
];
const WHAT = [
  ['batches of 500, Rust', rust('cycle', '--ahead', '4000')],
  ['batches of 500, TypeScript', typescript('cycle')],
  ['batches of 50, Rust', rust('cycle', '--batch', '50', '--ahead', '4000')],
  ['batches of 50, TypeScript', typescript('cycle', '--batch', '50')],
  ['one job a frame, 1 000 in flight, Rust', rust('pipelined', '--ahead', '4000')],
  ['one job a frame, 1 000 in flight, TypeScript with a Worker', typescript('pipelined')],
];

const told = new Map(WHAT.map(([what]) => [what, { rates: [], cpu: [] }]));
for (let round = 1; round <= rounds; round += 1) {
  for (const [what, [run, args]] of WHAT) {
    const out = execFileSync(run, args, { encoding: 'utf8', env, stdio: ['ignore', 'pipe', 'ignore'] });
    const field = (name) => Number(new RegExp(`${name}=([\\d.]+)`).exec(out)?.[1]);
    told.get(what).rates.push(field('jobs_per_sec'));
    told.get(what).cpu.push(field('generator_cpu'));
    console.error(`round ${round}: ${what}: ${field('jobs_per_sec')} jobs/s`);
  }
}

const middle = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const k = (number) => `${(number / 1000).toFixed(1)} k`;
console.log('| what | jobs/s | generator CPU, cores |\n|---|---|---|');
for (const [what, { rates, cpu }] of told) {
  console.log(`| ${what} | ${k(middle(rates))} (${k(Math.min(...rates))}–${k(Math.max(...rates))}) | ${middle(cpu)} |`);
}
process.exit(0);
