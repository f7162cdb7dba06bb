// Everything that must hold of this package. It wants `npm ci` before, and the broker's program:
// BATONQ_PROGRAM, or a debug build of the repository.

import { execFileSync } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const tsc = join(root, 'node_modules', '.bin', 'tsc');

function step(what, program, args) {
  const begun = performance.now();
  console.log(`-- ${what}`);
  try {
    execFileSync(program, args, { cwd: root, stdio: 'inherit' });
  } catch (error) {
    console.error(`-- ${what}: failed`);
    process.exit(error.status || 1);
  }
  console.log(`-- ${what}: ${((performance.now() - begun) / 1000).toFixed(1)} s`);
}

function testFiles() {
  const names = readdirSync(join(root, 'build', 'test')).filter((name) => name.endsWith('.test.js'));
  return names.map((name) => join('build', 'test', name));
}

rmSync(join(root, 'build'), { recursive: true, force: true });
step('generated messages are fresh', process.execPath, ['scripts/generate.mjs', '--check']);
step('what is published builds', process.execPath, ['scripts/build.mjs']);
step('programs of README.md', process.execPath, ['scripts/readme.mjs']);
step('types, tests, examples, programs of README.md compile', tsc, ['-p', '.']);
step('tests', process.execPath, ['--test', '--test-reporter=spec', ...testFiles()]);
step('what would be published', process.execPath, ['scripts/pack.mjs']);
