/**
 * What a node shows of jobs, queues, workers and nodes, in words: times are Dates, durations are
 * milliseconds, what is not there is undefined.
 */

import { decodeData, decodeResult } from './data.js';
import type { JobId } from './job.js';
import type {
  Attempt as WireAttempt,
  Cause as WireCause,
  Decision as WireDecision,
  Explanation as WireExplanation,
  Fire as WireFire,
  Job as WireJob,
  JobEvent as WireJobEvent,
  KeyUse as WireKeyUse,
  Node as WireNode,
  Queue as WireQueue,
  Stats as WireStats,
  Timeline as WireTimeline,
  Worker as WireWorker,
} from './messages.js';
import type { Backoff } from './push.js';
import { hasEnded, policyOf, stateOf, type FailurePolicy, type JobState } from './state.js';

/** A job as a node shows it. Lists and timelines leave `data`, `payload` and `result` out. */
export interface JobDetail<T = unknown, R = unknown> {
  readonly id: JobId;
  readonly queue: string;
  readonly state: JobState;
  /** Whether it is completed, dead or cancelled. */
  readonly hasEnded: boolean;
  readonly priority: number;
  /** What was pushed: JSON is read, anything else are bytes. */
  readonly data: T | undefined;
  readonly payload: Uint8Array;
  readonly contentType: string;
  readonly attempt: number;
  readonly maxAttempts: number;
  readonly delivery: number;
  readonly crashes: number;
  readonly createdAt: Date;
  readonly runAt: Date | undefined;
  readonly expiresAt: Date | undefined;
  readonly timeoutMs: number | undefined;
  readonly tags: readonly string[];
  readonly backoff: Backoff | undefined;
  /** Of the lease, while it is leased. */
  readonly leaseUntil: Date | undefined;
  readonly worker: string | undefined;
  readonly progress: { readonly percent: number; readonly message: string } | undefined;
  readonly finishedAt: Date | undefined;
  /** What the worker left: JSON is read, anything else are bytes. */
  readonly result: R | undefined;
  /** Why it is dead, as MAX_ATTEMPTS_EXCEEDED. */
  readonly reason: string | undefined;
  /** What the last failed attempt said. */
  readonly error: { readonly code: string; readonly message: string } | undefined;
  /** The job this one is a copy of, and the copy made of this one. */
  readonly replayOf: JobId | undefined;
  readonly replayedAs: JobId | undefined;
  readonly unique:
    | { readonly key: string; readonly windowMs: number | undefined; readonly debounce: boolean }
    | undefined;
  readonly idempotencyKey: string | undefined;
  readonly concurrency: { readonly key: string; readonly max?: number | undefined } | undefined;
  readonly rate:
    | { readonly key: string; readonly limit: number; readonly perMs: number; readonly burst?: number | undefined }
    | undefined;
  readonly dependsOn: readonly JobId[];
  readonly onFailure: FailurePolicy;
  readonly cancelRequestedAt: Date | undefined;
  readonly cancelForceAt: Date | undefined;
  /** Payload and result have been dropped: the queue keeps them less long than the job. */
  readonly isPayloadDropped: boolean;
}

/** One page of a list. */
export interface JobPage {
  readonly jobs: readonly JobDetail[];
  /** Put into the filter, it leads to the next page; undefined: that was all. */
  readonly cursor: number | undefined;
}

/** One lease and how it ended. */
export interface Attempt {
  readonly delivery: number;
  readonly attempt: number;
  readonly node: string;
  readonly worker: string;
  readonly startedAt: Date;
  /** undefined while it runs. */
  readonly endedAt: Date | undefined;
  /** As completed, failed, crashed: see `docs/codes.md`. */
  readonly ending: string;
  readonly code: string;
  readonly message: string;
}

/** One thing that happened to a job. */
export interface JobEvent {
  readonly at: Date;
  /** As pushed, leased, lease_ended, cancel_requested, ended. */
  readonly kind: string;
  readonly delivery: number | undefined;
  readonly attempt: number | undefined;
  readonly node: string;
  readonly who: string;
  readonly ending: string;
  readonly code: string;
  readonly message: string;
  readonly waitedMs?: number | undefined;
  readonly ranMs?: number | undefined;
  /** The other job of a replay. */
  readonly job: JobId | undefined;
}

/** What happened to a job, oldest first. */
export interface Timeline {
  readonly job: JobDetail | undefined;
  readonly attempts: readonly Attempt[];
  readonly events: readonly JobEvent[];
}

/** One thing that keeps a job from running. */
export interface Cause {
  /** What to branch on, as QUEUE_PAUSED: see `docs/codes.md`. */
  readonly code: string;
  readonly detail: string;
  readonly since: Date | undefined;
  readonly until: Date | undefined;
  readonly who: string;
  readonly node: string;
  readonly key: string;
  readonly count?: number | undefined;
  readonly limit?: number | undefined;
  readonly jobs: readonly { readonly id: JobId; readonly state: JobState }[];
}

/** Why a job does not run; what has to change first comes first. */
export interface Explanation {
  readonly now: Date;
  readonly causes: readonly Cause[];
  readonly job: JobDetail | undefined;
}

/** What stands in a queue. */
export interface QueueDetail {
  readonly name: string;
  readonly isPaused: boolean;
  readonly pausedAt: Date | undefined;
  readonly scheduled: number;
  readonly blocked: number;
  readonly ready: number;
  readonly leased: number;
  readonly completed: number;
  readonly dead: number;
  readonly cancelled: number;
  /** How long the oldest ready job has been ready. */
  readonly oldestReadyMs?: number | undefined;
  /** In the shape of the HTTP API. */
  readonly settings: Readonly<Record<string, unknown>>;
}

/** What a node did in the last minute. */
export type Stats = Readonly<WireStats>;

/** A worker that a node knows. */
export interface WorkerDetail {
  readonly name: string;
  readonly client: string;
  readonly address: string;
  readonly connectedAt: Date;
  readonly silentMs: number;
  readonly isConnected: boolean;
}

/** A node of the cluster. */
export interface NodeDetail {
  readonly id: string;
  readonly incarnation: number;
  readonly hostname: string;
  readonly host: string;
  readonly tcpPort: number;
  readonly httpPort: number | undefined;
  readonly isLeader: boolean;
  /** active, draining or stale. */
  readonly state: string;
  readonly startedAt: Date;
  readonly lastHeartbeat: Date;
  readonly leased: number;
  readonly version: string;
  readonly fingerprint: string;
}

/** A key that jobs of a queue wait or work for. */
export interface KeyUse {
  readonly key: string;
  readonly waiting: number;
  readonly concurrency: { readonly max?: number | undefined; readonly holders: readonly JobId[] } | undefined;
  readonly rate:
    | {
        readonly limit: number;
        readonly perMs: number;
        readonly burst?: number | undefined;
        /** When the next one may start; undefined: now. */
        readonly opensAt: Date | undefined;
      }
    | undefined;
}

/** Pushes that a queue has refused in one minute, for one reason. */
export interface Decision {
  readonly queue: string;
  /** The setting that said no, and what it allowed, last. */
  readonly guard: string;
  readonly max: number;
  readonly count: number;
  readonly minute: Date;
  readonly lastAt: Date;
}

/** What became of a slot of a schedule, or of several that were missed. */
export interface Fire {
  /** Of several, the first. */
  readonly slot: Date;
  readonly firedAt: Date;
  /** fired, manual, skipped or missed. */
  readonly outcome: string;
  /** The job that was made, or that kept it from being made. */
  readonly job: JobId | undefined;
  readonly count: number;
}

export function jobOf<T = unknown, R = unknown>(job: WireJob): JobDetail<T, R> {
  const state = stateOf(job.state);
  const contentType = job.contentType === '' ? 'application/json' : job.contentType;
  const { unique, progress, error } = partsOf(job);
  return {
    id: job.id,
    queue: job.queue,
    state,
    hasEnded: hasEnded(state),
    priority: job.priority,
    data: readable(job.payload, contentType) as T | undefined,
    payload: job.payload,
    contentType,
    attempt: job.attempt,
    maxAttempts: job.maxAttempts,
    delivery: job.delivery,
    crashes: job.crashes,
    createdAt: new Date(job.createdAtMs),
    runAt: dateOf(job.runAtMs),
    expiresAt: dateOf(job.expiresAtMs),
    timeoutMs: job.timeoutMs,
    tags: job.tags,
    backoff: backoffOf(job),
    leaseUntil: dateOf(job.leaseUntilMs),
    worker: word(job.worker),
    progress,
    finishedAt: dateOf(job.finishedAtMs),
    result: decodeResult(job.result) as R | undefined,
    reason: word(job.reason),
    error,
    replayOf: number(job.replayOf),
    replayedAs: number(job.replayedAs),
    unique,
    idempotencyKey: word(job.idempotencyKey),
    concurrency: job.concurrency,
    rate: job.rate,
    dependsOn: job.dependsOn,
    onFailure: policyOf(job.onFailure),
    cancelRequestedAt: dateOf(job.cancelRequestedAtMs),
    cancelForceAt: dateOf(job.cancelForceAtMs),
    isPayloadDropped: job.payloadDropped,
  };
}

function partsOf(job: WireJob): Pick<JobDetail, 'unique' | 'progress' | 'error'> {
  const { uniqueKey: key, uniqueWindowMs: windowMs, uniqueDebounce: debounce } = job;
  const { progressPercent: percent, progressMessage, errorCode: code, errorMessage } = job;
  return {
    unique: key === '' ? undefined : { key, windowMs, debounce },
    progress: percent === undefined ? undefined : { percent, message: progressMessage },
    error: code === '' ? undefined : { code, message: errorMessage },
  };
}

function readable(payload: Uint8Array, contentType: string): unknown {
  if (payload.length === 0) return undefined;
  try {
    return decodeData(payload, contentType);
  } catch {
    // It is said to be JSON and is not: who looks shall see it all the same.
    return payload;
  }
}

function backoffOf({ backoff }: WireJob): Backoff | undefined {
  const rule = backoff?.rule;
  if (rule === undefined) return undefined;
  return { type: rule.$case, ...rule.value } as Backoff;
}

export function timelineOf({ job, attempts, events }: WireTimeline): Timeline {
  return {
    job: job === undefined ? undefined : jobOf(job),
    attempts: attempts.map(attemptOf),
    events: events.map(eventOf),
  };
}

function attemptOf({ startedAtMs, endedAtMs, ...rest }: WireAttempt): Attempt {
  return { ...rest, startedAt: new Date(startedAtMs), endedAt: dateOf(endedAtMs) };
}

function eventOf({ atMs, delivery, attempt, job, ...rest }: WireJobEvent): JobEvent {
  return { ...rest, at: new Date(atMs), delivery: number(delivery), attempt: number(attempt), job: number(job) };
}

export function explanationOf({ nowMs, causes, job }: WireExplanation): Explanation {
  return {
    now: new Date(nowMs),
    causes: causes.map(causeOf),
    job: job === undefined ? undefined : jobOf(job),
  };
}

function causeOf({ sinceMs, untilMs, jobs, ...rest }: WireCause): Cause {
  const states = jobs.map(({ id, state }) => ({ id, state: stateOf(state) }));
  return { ...rest, since: dateOf(sinceMs), until: dateOf(untilMs), jobs: states };
}

export function queueOf({ paused, pausedAtMs, settings, ...rest }: WireQueue): QueueDetail {
  const read = settings === '' ? {} : (JSON.parse(settings) as Record<string, unknown>);
  return { ...rest, isPaused: paused, pausedAt: dateOf(pausedAtMs), settings: read };
}

export function workerOf({ connectedAtMs, connected, ...rest }: WireWorker): WorkerDetail {
  return { ...rest, connectedAt: new Date(connectedAtMs), isConnected: connected };
}

export function nodeOf({ startedAtMs, lastHeartbeatMs, httpPort, ...rest }: WireNode): NodeDetail {
  const times = { startedAt: new Date(startedAtMs), lastHeartbeat: new Date(lastHeartbeatMs) };
  return { ...rest, ...times, httpPort: number(httpPort) };
}

export function keyUseOf({ key, waiting, limit }: WireKeyUse): KeyUse {
  const concurrency = limit?.$case === 'concurrency' ? limit.value : undefined;
  if (limit?.$case !== 'rate') return { key, waiting, concurrency, rate: undefined };
  const { opensAtMs, ...rate } = limit.value;
  return { key, waiting, concurrency, rate: { ...rate, opensAt: dateOf(opensAtMs) } };
}

export function decisionOf({ minuteMs, lastAtMs, ...rest }: WireDecision): Decision {
  return { ...rest, minute: new Date(minuteMs), lastAt: new Date(lastAtMs) };
}

export function fireOf({ slotMs, firedAtMs, job, ...rest }: WireFire): Fire {
  return { ...rest, slot: new Date(slotMs), firedAt: new Date(firedAtMs), job: number(job) };
}

export function dateOf(ms: number | undefined): Date | undefined {
  return ms === undefined ? undefined : new Date(ms);
}

/** A number of which 0 means that there is none. */
export function number(value: number): number | undefined {
  return value === 0 ? undefined : value;
}

function word(text: string): string | undefined {
  return text === '' ? undefined : text;
}
