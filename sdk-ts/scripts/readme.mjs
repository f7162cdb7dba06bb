// Takes the programs out of README.md, so that the compiler looks at them too.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const out = join(root, 'readme-blocks');
rmSync(out, { recursive: true, force: true });
mkdirSync(out);

const blocks = [...readFileSync(join(root, 'README.md'), 'utf8').matchAll(/^```ts\n(.*?)^```$/gms)];
if (blocks.length === 0) throw new Error('README.md has no programs');
blocks.forEach(([, text], place) => writeFileSync(join(out, `block-${place + 1}.ts`), text));
