/** Handing jobs in: what a job can have, and what became of it. */

import { randomUUID } from 'node:crypto';

import { encodeData } from './data.js';
import { BatonqError, errorOf } from './error.js';
import type { JobId } from './job.js';
import type { Backoff as WireBackoff, NewJob as WireJob, PushResult as WireResult } from './messages.js';
import { NewJob as WireNewJob } from './messages.js';
import { wholeMs } from './settle.js';
import { outcomeOf, stateOf, wirePolicy, type FailurePolicy, type JobState, type PushOutcome } from './state.js';

/** How long to wait after a failure. */
export type Backoff =
  /** `baseMs`, doubled after each failure up to `maxMs`; `jitter`, 0 to 1, is the share left to chance. */
  | { readonly type: 'exponential'; readonly baseMs: number; readonly maxMs: number; readonly jitter?: number }
  | { readonly type: 'fixed'; readonly delayMs: number }
  /** One delay after the other; the last is used from there on. */
  | { readonly type: 'list'; readonly delaysMs: readonly number[] };

/** At most one job of the queue with this key. */
export type Unique =
  /** While it lives; with a window, for so long after the push, whatever becomes of it. */
  | { readonly key: string; readonly windowMs?: number }
  /** The last one wins: a waiting job with this key gets this payload and this time. */
  | { readonly key: string; readonly debounce: true };

/** What a job can have. All of it is optional; a job pays only for what it asks for. */
export interface JobOptions {
  /** Higher first; 0 unless given. */
  priority?: number | undefined;
  /** Not before this long after the push. */
  delayMs?: number | undefined;
  /** Not before this time. Instead of a delay. */
  runAt?: Date | number | undefined;
  /** Not later than this long after the push: else it is dead, with the reason EXPIRED. */
  ttlMs?: number | undefined;
  /** After so many failed attempts the job is dead; 25 unless given. */
  maxAttempts?: number | undefined;
  /** How long to wait after a failure. */
  backoff?: Backoff | undefined;
  /** How long one attempt may run. */
  timeoutMs?: number | undefined;
  /** Only one job with this key; a text stands for `{ key }`. */
  unique?: string | Unique | undefined;
  /** Words to find it by. */
  tags?: readonly string[] | undefined;
  /**
   * A push that is repeated with this key within a day is not done again. So the client repeats it by
   * itself when its answer is lost. `true`: a key is made for this push.
   */
  idempotencyKey?: string | true | undefined;
  /** At most `max` jobs of the queue with this key are worked on at once; without it, they take turns. */
  concurrency?: { readonly key: string; readonly max?: number } | undefined;
  /** At most `limit` jobs of the queue with this key are given out in `perMs`. */
  rate?: { readonly key: string; readonly limit: number; readonly perMs: number; readonly burst?: number } | undefined;
  /** Only after these jobs have been completed. */
  dependsOn?: readonly JobId[] | undefined;
  /** What becomes of it if one of those dies or is cancelled; `fail` unless given. */
  onFailure?: FailurePolicy | undefined;
  /** What the data is; JSON unless given, or bytes where the data is a Uint8Array. */
  contentType?: string | undefined;
}

/** A job to be pushed together with others. */
export interface NewJob<T = unknown> extends JobOptions {
  readonly queue: string;
  readonly data: T;
}

/** A job of a flow. */
export interface FlowJob<T = unknown> extends NewJob<T> {
  /** Only after the jobs at these places of the flow have been completed. */
  readonly after?: readonly number[] | undefined;
}

/** What became of a pushed job. */
export interface Pushed {
  /** The new job, or the one that has the key. */
  readonly id: JobId;
  /** Which of them. */
  readonly outcome: PushOutcome;
  /** Where the job stands. */
  readonly state: JobState;
}

/** What became of one of many. */
export type PushResult = ({ readonly ok: true } & Pushed) | { readonly ok: false; readonly error: BatonqError };

export function wireJob(queue: string, data: unknown, options: JobOptions, after: readonly number[] = []): WireJob {
  const { payload, contentType } = encodeData(data, options.contentType);
  const job = WireNewJob.create();
  job.queue = queue;
  job.payload = payload;
  job.contentType = contentType;
  job.priority = options.priority ?? 0;
  job.delayMs = optionalMs(options.delayMs, 'delayMs');
  job.runAtMs = options.runAt === undefined ? undefined : timeMs(options.runAt);
  job.ttlMs = optionalMs(options.ttlMs, 'ttlMs');
  job.maxAttempts = options.maxAttempts;
  job.backoff = options.backoff === undefined ? undefined : wireBackoff(options.backoff);
  job.timeoutMs = optionalMs(options.timeoutMs, 'timeoutMs');
  job.unique = options.unique === undefined ? undefined : wireUnique(options.unique);
  job.tags = [...(options.tags ?? [])];
  job.idempotencyKey = options.idempotencyKey === true ? randomUUID() : (options.idempotencyKey ?? '');
  job.concurrency = options.concurrency && { key: options.concurrency.key, max: options.concurrency.max };
  job.rate = options.rate && { ...options.rate, perMs: wholeMs(options.rate.perMs, 'rate.perMs') };
  job.dependsOn = [...(options.dependsOn ?? [])];
  job.dependsOnItems = [...after];
  job.onFailure = wirePolicy(options.onFailure);
  return job;
}

export function pushResultOf(result: WireResult): PushResult {
  if (result.error !== undefined) return { ok: false, error: errorOf(result.error) };
  return { ok: true, ...pushedOf(result) };
}

function pushedOf({ id, outcome, state }: WireResult): Pushed {
  return { id, outcome: outcomeOf(outcome), state: stateOf(state) };
}

/** The answer to a push of one job. */
export function pushedOne([result]: readonly WireResult[]): Pushed {
  if (result === undefined) throw new BatonqError('PROTOCOL', 'unexpected answer: pushed');
  if (result.error !== undefined) throw errorOf(result.error);
  return pushedOf(result);
}

function wireBackoff(backoff: Backoff): WireBackoff {
  switch (backoff.type) {
    case 'exponential': {
      const { baseMs, maxMs, jitter = 0 } = backoff;
      const value = { baseMs: wholeMs(baseMs, 'backoff.baseMs'), maxMs: wholeMs(maxMs, 'backoff.maxMs'), jitter };
      return { rule: { $case: 'exponential', value } };
    }
    case 'fixed':
      return { rule: { $case: 'fixed', value: { delayMs: wholeMs(backoff.delayMs, 'backoff.delayMs') } } };
    case 'list': {
      const delaysMs = backoff.delaysMs.map((delayMs) => wholeMs(delayMs, 'backoff.delaysMs'));
      return { rule: { $case: 'list', value: { delaysMs } } };
    }
  }
}

function wireUnique(unique: string | Unique): NonNullable<WireJob['unique']> {
  if (typeof unique === 'string') return { key: unique, windowMs: undefined, debounce: false };
  if ('debounce' in unique) return { key: unique.key, windowMs: undefined, debounce: unique.debounce };
  return { key: unique.key, windowMs: optionalMs(unique.windowMs, 'unique.windowMs'), debounce: false };
}

/** A time for the wire. */
export function timeMs(time: Date | number): number {
  return wholeMs(typeof time === 'number' ? time : time.getTime(), 'runAt');
}

export function optionalMs(ms: number | undefined, field: string): number | undefined {
  return ms === undefined ? undefined : wholeMs(ms, field);
}
