// What would be published: the right files, and a package that can be imported, required and typed.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const away = mkdtempSync(join(tmpdir(), 'batonq-pack-'));

function run(program, args, cwd) {
  return execFileSync(program, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
}

function checkFiles(files) {
  const modules = readdirSync(join(root, 'src')).map((name) => name.replace(/\.ts$/, ''));
  const expected = modules.flatMap((name) => [`dist/${name}.js`, `dist/${name}.d.ts`]);
  const rest = ['LICENSE-APACHE', 'LICENSE-MIT', 'README.md', 'package.json'];
  assert.deepEqual(files.map(({ path }) => path).sort(), [...expected, ...rest].sort());
}

/** A program somewhere else that has the package as npm would install it. */
function install(archive) {
  const modules = join(away, 'node_modules');
  mkdirSync(join(modules, 'batonq'), { recursive: true });
  run('tar', ['xzf', archive, '-C', join(modules, 'batonq'), '--strip-components=1'], away);
  for (const name of ['@bufbuild', '@types', 'undici-types']) symlinkSync(join(root, 'node_modules', name), join(modules, name));
  writeFileSync(join(away, 'package.json'), '{"type":"module"}');
}

try {
  const [packed] = JSON.parse(run('npm', ['pack', '--json', '--pack-destination', away], root));
  checkFiles(packed.files);
  install(join(away, packed.filename));

  writeFileSync(join(away, 'import.js'), "import { Client, Worker } from 'batonq';\nnew Client();\nconsole.log(typeof Worker);\n");
  assert.equal(run(process.execPath, ['import.js'], away), 'function\n');

  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19)) {
    writeFileSync(join(away, 'require.cjs'), "const { Client } = require('batonq');\nnew Client();\nconsole.log(typeof Client);\n");
    assert.equal(run(process.execPath, ['--no-warnings', 'require.cjs'], away), 'function\n');
  }

  const program = "import { Client } from 'batonq';\nexport const id: number = (await new Client().push('q', 1)).id;\n";
  writeFileSync(join(away, 'typed.ts'), program);
  const flags = ['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--module', 'nodenext', '--target', 'es2022', '--types', 'node'];
  run(join(root, 'node_modules', '.bin', 'tsc'), [...flags, 'typed.ts'], away);
  console.log(`${packed.filename}: ${packed.files.length} files, ${Math.round(packed.unpackedSize / 1024)} KiB`);
} finally {
  rmSync(away, { recursive: true, force: true });
}
