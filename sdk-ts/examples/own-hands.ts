/** Without a worker: jobs are taken by a subscription and settled one by one. */

import { Client } from 'batonq';

await using client = await new Client({ addresses: process.env['BATONQ_URL'] ?? '127.0.0.1:6789' }).connect();

await client.pushBatch(['ada', 'bob', 'cyd'].map((to) => ({ queue: 'letters', data: { to } })));

let count = 0;
for await (const job of await client.subscribe<{ to: string }>('letters', { credit: 2 })) {
  console.log(`to ${job.data.to}`);
  await job.ack();
  count += 1;
  if (count === 3) break;
}
