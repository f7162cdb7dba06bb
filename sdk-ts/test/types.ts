/** What the compiler must accept and refuse of the package's types. It is compiled, not run. */

import type {
  BatonqError,
  Client,
  ErrorCode,
  Job,
  JobDetail,
  JobState,
  NodeErrorCode,
  Pushed,
  PushResult,
  Subscription,
} from '../src/index.js';
import { Worker } from '../src/index.js';

type Equal<A, B> = (<X>() => X extends A ? 1 : 2) extends <X>() => X extends B ? 1 : 2 ? true : false;

/** Refuses to compile unless the value has exactly this type. */
function is<Expected>() {
  return <Actual>(_value: Actual, ..._same: Equal<Actual, Expected> extends true ? [] : ['another type']): void => {};
}

interface Email {
  to: string;
  subject?: string;
}
interface Sent {
  messageId: string;
}

export async function queuesCarryTypes(client: Client): Promise<void> {
  const emails = client.queue<Email, Sent>('emails');
  is<Pushed>()(await emails.push({ to: 'ada' }));
  is<PushResult[]>()(await emails.pushBatch([{ to: 'ada' }, { to: 'bob', subject: 'hi' }]));
  // @ts-expect-error: an email needs somebody to send it to
  await emails.push({ subject: 'hi' });
  // @ts-expect-error: and nothing else
  await emails.push({ to: 'ada', cc: 'bob' });
  is<Job<Email>[]>()(await emails.pull());
  is<Subscription<Email>>()(await emails.subscribe());
  for await (const job of await emails.subscribe()) is<Email>()(job.data);
  const done = await emails.waitFor(1);
  is<JobDetail<Email, Sent>>()(done);
  is<Sent | undefined>()(done.result);
}

export async function whatIsNotSaidIsUnknown(client: Client): Promise<void> {
  const [job] = await client.pull('emails');
  is<Job | undefined>()(job);
  // @ts-expect-error: unknown until it is looked at
  job?.data.to;
}

export async function optionsAreChecked(client: Client): Promise<void> {
  await client.push('q', 1, { unique: { key: 'k', windowMs: 1 } });
  await client.push('q', 1, { unique: 'k', idempotencyKey: true, signal: AbortSignal.timeout(1), deadlineMs: 1 });
  await client.push('q', 1, { backoff: { type: 'list', delaysMs: [1, 2] } });
  // @ts-expect-error: no such option
  await client.push('q', 1, { prority: 1 });
  // @ts-expect-error: an exponential backoff has a base
  await client.push('q', 1, { backoff: { type: 'exponential', maxMs: 1 } });
  // @ts-expect-error: there is no such state
  await client.jobs.list({ state: 'running' });
}

export function workersCarryTypes(client: Client): void {
  const worker = new Worker<Email, Sent>('emails', async (job, self) => {
    is<Job<Email>>()(job);
    is<AbortSignal>()(job.signal);
    is<Client>()(self.client);
    return Promise.resolve({ messageId: job.data.to });
  });
  worker.on('completed', (job, result) => {
    is<Job<Email>>()(job);
    is<Sent>()(result);
  });
  worker.on('error', (error, job) => {
    is<BatonqError>()(error);
    is<Job<Email> | undefined>()(job);
  });
  // @ts-expect-error: no such event
  worker.on('stalled', () => {});
  // @ts-expect-error: a result that is not what was said
  new Worker<Email, Sent>('emails', () => 'sent', { client });
}

export function codesAreWords(error: BatonqError, state: JobState, result: PushResult): void {
  is<ErrorCode>()(error.code);
  is<boolean>()(error.retryable);
  const node: NodeErrorCode = 'LEASE_LOST';
  const code: ErrorCode = node;
  is<ErrorCode>()(code as ErrorCode);
  // @ts-expect-error: there is no such code
  if (error.code === 'LEASE_GONE') return;
  // @ts-expect-error: there is no such state
  if (state === 'done') return;
  if (result.ok) is<number>()(result.id);
  else is<BatonqError>()(result.error);
}
