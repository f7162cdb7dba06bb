// Makes src/messages.ts from the descriptors of the protocol; with --check only says whether it is fresh.
//
// The descriptors are written beside the .proto by `BATONQ_BLESS=1 cargo test -p batonq-protocol`, so that
// no compiler for .proto files is needed here.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire';

const root = fileURLToPath(new URL('..', import.meta.url));
const committed = join(root, 'src', 'messages.ts');

// Plain objects, numbers for what fits into them, and no code for JSON or services.
const OPTIONS = [
  'env=browser',
  'forceLong=number',
  'useJsTypeOverride=true',
  'importSuffix=.js',
  'oneof=unions-value',
  'outputJsonMethods=false',
  'outputServices=none',
  'removeEnumPrefix=true',
  'unrecognizedEnum=false',
  'useExactTypes=false',
  'esModuleInterop=true',
];

/** The bytes of each field with this number, of a message of which no other is of interest. */
function fields(message, number) {
  const reader = new BinaryReader(message);
  const found = [];
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === number) found.push(reader.bytes());
    else reader.skip(type);
  }
  return found;
}

/** A plugin of protoc reads a CodeGeneratorRequest and writes a CodeGeneratorResponse. */
function generate() {
  const set = readFileSync(join(root, '..', 'protocol', 'proto', 'batonq.descriptors.bin'));
  const request = new BinaryWriter();
  request.uint32((1 << 3) | 2).string('batonq.proto');
  request.uint32((2 << 3) | 2).string(OPTIONS.join(','));
  for (const file of fields(set, 1)) request.uint32((15 << 3) | 2).bytes(file);

  const plugin = join(root, 'node_modules', 'ts-proto', 'protoc-gen-ts_proto');
  const answer = execFileSync(process.execPath, [plugin], { input: request.finish(), maxBuffer: 2 ** 26 });
  const [error] = fields(answer, 1);
  if (error !== undefined) throw new Error(Buffer.from(error).toString());
  const [file] = fields(answer, 15);
  const [content] = fields(file, 15);
  return Buffer.from(content).toString();
}

const fresh = generate();
if (!process.argv.includes('--check')) {
  writeFileSync(committed, fresh);
} else if (readFileSync(committed, 'utf8') !== fresh) {
  console.error('src/messages.ts is stale: npm run generate');
  process.exit(1);
}
