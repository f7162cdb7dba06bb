/** A job that this client may work on. */

import type { CallOptions } from './call.js';
import { decodeData, decodeResult } from './data.js';
import type { Fate } from './fate.js';
import type { LeasedJob, Need as WireNeed } from './messages.js';
import type { FailOptions } from './settle.js';
import { stateOf, type JobState } from './state.js';

/**
 * The number of a job: the same on all nodes, never used twice.
 *
 * It is a plain number because the broker keeps ids below 2^53, where numbers are exact.
 */
export type JobId = number;

/**
 * The right to work on a job. What is in it is the node's affair; it is the same text that the HTTP
 * API shows, so it may be kept, sent, and settled elsewhere.
 */
export type Lease = string;

export function leaseText(bytes: Uint8Array): Lease {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64url');
}

export function leaseBytes(lease: Lease): Uint8Array {
  return Buffer.from(lease, 'base64url');
}

/** A job that another one waited for. */
export interface Need<R = unknown> {
  readonly id: JobId;
  /** How it ended; `unknown`: nothing is known of it any more. */
  readonly state: JobState;
  /** What came of it; undefined: nothing, or more than 64 KiB, to be asked for. */
  readonly result: R | undefined;
}

/** What a job needs of its client. */
export interface Settling {
  ack(lease: Lease, result?: unknown, options?: CallOptions): Promise<void>;
  fail(lease: Lease, options: FailOptions & CallOptions): Promise<void>;
  release(lease: Lease, options?: CallOptions): Promise<void>;
  snooze(lease: Lease, delayMs: number, options?: CallOptions): Promise<void>;
  extend(lease: Lease, leaseMs: number, options?: CallOptions): Promise<Date>;
  progress(lease: Lease, percent: number, message?: string, options?: CallOptions): Promise<void>;
}

/**
 * A job and the lease on it.
 *
 * To forget it settles nothing: the lease is held as long as the client lives, or as long as the
 * pull asked for.
 */
export class Job<T = unknown> {
  readonly id: JobId;
  /** The queue it was pushed to. */
  readonly queue: string;
  /** To be handed back when the job is settled. */
  readonly lease: Lease;
  /** The work, as it was pushed. */
  readonly payload: Uint8Array;
  /** What the payload is. */
  readonly contentType: string;
  /** The attempt that begins; 1 is the first. */
  readonly attempt: number;
  /** The last attempt there may be. */
  readonly maxAttempts: number;
  /** How often the job has been leased, this time included. */
  readonly delivery: number;
  /** Higher first. */
  readonly priority: number;
  /** How long this attempt may run, in milliseconds; undefined: no limit. */
  readonly timeoutMs: number | undefined;
  /** Words to find it by. */
  readonly tags: readonly string[];

  readonly #leased: LeasedJob;
  readonly #fate: Fate;
  readonly #settling: Settling;
  #data: { readonly value: T } | undefined;

  /** @internal */
  constructor(leased: LeasedJob, queue: string, fate: Fate, settling: Settling) {
    this.id = leased.id;
    this.queue = leased.queue === '' ? queue : leased.queue;
    this.lease = leaseText(leased.lease);
    this.payload = leased.payload;
    this.contentType = leased.contentType === '' ? 'application/json' : leased.contentType;
    this.attempt = leased.attempt;
    this.maxAttempts = leased.maxAttempts;
    this.delivery = leased.delivery;
    this.priority = leased.priority;
    this.timeoutMs = leased.timeoutMs > 0 ? leased.timeoutMs : undefined;
    this.tags = leased.tags;
    this.#leased = leased;
    this.#fate = fate;
    this.#settling = settling;
  }

  /**
   * What was pushed: JSON is read when it is first asked for, anything else are the payload's bytes.
   * That it is a `T` is the word of whoever pushed it.
   *
   * @throws BatonqError `INVALID` if it is said to be JSON and is not.
   */
  get data(): T {
    this.#data ??= { value: decodeData(this.payload, this.contentType) as T };
    return this.#data.value;
  }

  /** When it was pushed. */
  get createdAt(): Date {
    return new Date(this.#leased.createdAtMs);
  }

  /** When the lease ends unless it is kept, as it was when the job came. */
  get leaseUntil(): Date {
    return new Date(this.#leased.leaseUntilMs);
  }

  /** The jobs that it waited for, by id. */
  get needs(): readonly Need[] {
    return this.#leased.needs.map(needOf);
  }

  /**
   * Fires when there is no more use in going on: the lease is lost (`LEASE_LOST`), somebody asks for
   * the end of the job (`CANCEL_REQUESTED`), and in a worker's handler also when the attempt's time
   * is over (`ATTEMPT_TIMEOUT`) or the worker can not wait any longer (`CLOSED`). The reason of the
   * signal is a BatonqError with that code.
   *
   * Only leases that last as long as the client are watched, not those of a pull with a `leaseMs`.
   */
  get signal(): AbortSignal {
    return this.#fate.signal;
  }

  /** Whether the lease is lost, as far as the client knows: somebody else may work on the job now. */
  get isLost(): boolean {
    return this.#fate.isLost;
  }

  /** Whether somebody has asked for the end of this job. Unless it is acked it does not go round again. */
  get isCancelRequested(): boolean {
    return this.#fate.isCancelRequested;
  }

  /** The job is done; the result is kept with it. See {@link Client.ack}. */
  ack(result?: unknown, options?: CallOptions): Promise<void> {
    return this.#settling.ack(this.lease, result, options);
  }

  /** The attempt went wrong. See {@link Client.fail}. */
  fail(options: FailOptions & CallOptions = {}): Promise<void> {
    return this.#settling.fail(this.lease, options);
  }

  /** Gives the job back unharmed: the attempt does not count. */
  release(options?: CallOptions): Promise<void> {
    return this.#settling.release(this.lease, options);
  }

  /** Gives the job back, to be worked on later: the attempt does not count. */
  snooze(delayMs: number, options?: CallOptions): Promise<void> {
    return this.#settling.snooze(this.lease, delayMs, options);
  }

  /** Lets a lease of a pull with a `leaseMs` end this long after now, and answers when that is. */
  extend(leaseMs: number, options?: CallOptions): Promise<Date> {
    return this.#settling.extend(this.lease, leaseMs, options);
  }

  /** Notes how far the work is, `percent` from 0 to 100. */
  progress(percent: number, message?: string, options?: CallOptions): Promise<void> {
    return this.#settling.progress(this.lease, percent, message, options);
  }

  /** @internal */
  get fate(): Fate {
    return this.#fate;
  }
}

function needOf({ id, state, result }: WireNeed): Need {
  return { id, state: stateOf(state), result: result === undefined ? undefined : decodeResult(result) };
}
