/** A program that wants something done, and waits for the result. */

import { Client } from 'batonq';

interface Resize {
  image: string;
  width: number;
}
interface Resized {
  url: string;
}

const client = await new Client({ addresses: process.env['BATONQ_URL'] ?? '127.0.0.1:6789' }).connect();
const resizes = client.queue<Resize, Resized>('resize');

const { id } = await resizes.push(
  { image: 'cat.png', width: 200 },
  { maxAttempts: 3, idempotencyKey: 'resize:cat.png:200' },
);
const done = await resizes.waitFor(id, { waitMs: 30_000 });
console.log(`job ${id}: ${done.state}, ${done.result?.url}`);

await client.close();
if (done.state !== 'completed') process.exitCode = 1;
