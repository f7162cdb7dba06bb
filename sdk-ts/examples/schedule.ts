/** A job every night, and what became of the last nights. */

import { Client } from 'batonq';

const client = await new Client({ addresses: process.env['BATONQ_URL'] ?? '127.0.0.1:6789' }).connect();

await client.schedules.put('nightly-report', {
  schedule: '0 30 3 * * *',
  timezone: 'Europe/Berlin',
  overlap: 'skip',
  job: { queue: 'reports', data: { kind: 'full' }, maxAttempts: 5 },
});
const { nextAt } = await client.schedules.get('nightly-report');
console.log(`next: ${nextAt?.toISOString()}`);
for (const fire of await client.schedules.fires('nightly-report')) {
  console.log(`${fire.slot.toISOString()} ${fire.outcome} job ${fire.job}`);
}

await client.close();
