// Makes what is published: dist/, modules with their types from src/ alone, and the licences.

import { execFileSync } from 'node:child_process';
import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
rmSync(join(root, 'dist'), { recursive: true, force: true });
execFileSync(join(root, 'node_modules', '.bin', 'tsc'), ['-p', 'tsconfig.dist.json'], { cwd: root, stdio: 'inherit' });
for (const licence of ['LICENSE-APACHE', 'LICENSE-MIT']) copyFileSync(join(root, '..', licence), join(root, licence));
