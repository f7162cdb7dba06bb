/**
 * A call on its way to a connection, and what is known of it without an answer.
 *
 * A call that a lost connection has not answered is asked again over the next one, if to ask twice
 * does no more than to ask once; otherwise it ends with `OUTCOME_UNKNOWN`.
 */

import { asBatonqError, BatonqError } from './error.js';
import type { Envelope } from './messages.js';
import { onAbort } from './on-abort.js';
import { Pauses } from './pauses.js';
import type { Feed } from './session.js';

/** The shortest and the longest pause after a passing refusal. */
const AGAIN_MIN_MS = 50;
const AGAIN_MAX_MS = 1000;

/** What an envelope holds. */
export type Message = NonNullable<Envelope['message']>;

/** The name of a message. */
export type Case = Message['$case'];

/** The message of a name. */
export type MessageOf<C extends Case> = Extract<Message, { $case: C }>['value'];

/** For every call: until when, and who may call it off. */
export interface CallOptions {
  /**
   * How long the call may take, in milliseconds; the client's `callTimeoutMs` unless given. The wait
   * of a call that waits is added to it. The time to connect again is part of it.
   */
  deadlineMs?: number | undefined;
  /** Calls it off. What was sent before is not recalled: a push may be done nevertheless. */
  signal?: AbortSignal | undefined;
}

/** What to ask twice does more than to ask once: everything that is not here. */
const HARMLESS: ReadonlySet<Case> = new Set<Case>([
  // Jobs and subscriptions whose answer is lost are given back.
  'pull',
  'subscribe',
  'ping',
  'getJob',
  'waitJob',
  'listJobs',
  'getTimeline',
  'explain',
  'listQueues',
  'getStats',
  'listWorkers',
  'listNodes',
  'listKeys',
  'listDecisions',
  'listSchedules',
  'listFires',
]);

/** What changes something, and is answered in the same way when it is repeated. */
const SETTLING: ReadonlySet<Case> = new Set<Case>(['ack', 'fail', 'release', 'extend', 'progress']);

/** Refusals after which a repeatable change is tried again by itself. */
const PASSING: ReadonlySet<string> = new Set(['UNAVAILABLE', 'OVERLOADED', 'OUTCOME_UNKNOWN']);

/** Whether each job of a push has a key by which the node knows a repetition. */
function isKeyed(message: Message): boolean {
  if (message.$case !== 'push' && message.$case !== 'pushFlow') return false;
  return message.value.jobs.every((job) => job.idempotencyKey !== '');
}

/** What comes of a call: an answer of the node, or what the session has made of it. */
export type Answer = Message | { readonly $case: 'held'; readonly value: unknown };

export class Call {
  readonly changes: boolean;
  /** A change that may be repeated as it is. */
  readonly isRepeatable: boolean;
  /** The leases that the call is about, and whether it ends them. */
  readonly leases: readonly string[];
  readonly endsLeases: boolean;
  /** Who gets the jobs, if it subscribes. */
  readonly feed: Feed | undefined;

  #wasSent = false;
  #isOver = false;
  /** Why it was not done at the last try. */
  #refusal: BatonqError | undefined;
  /** Between its tries after passing refusals. */
  readonly pauses = new Pauses(AGAIN_MIN_MS, AGAIN_MAX_MS);
  readonly #settle: { resolve: (answer: Answer) => void; reject: (error: BatonqError) => void };
  readonly #waitUntil: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly answer: Promise<Answer>;
  readonly #signal: AbortSignal | undefined;
  #forgetSignal: () => void = () => {};

  constructor(
    readonly message: Message,
    options: CallOptions & { deadlineMs: number; waitMs?: number; leases?: readonly string[]; feed?: Feed | undefined },
  ) {
    this.changes = !HARMLESS.has(message.$case);
    this.isRepeatable = SETTLING.has(message.$case) || isKeyed(message);
    this.leases = options.leases ?? [];
    this.feed = options.feed;
    this.endsLeases = message.$case === 'ack' || message.$case === 'fail' || message.$case === 'release';
    let settle: { resolve: (answer: Answer) => void; reject: (error: BatonqError) => void };
    this.answer = new Promise((resolve, reject) => (settle = { resolve, reject }));
    this.#settle = settle!;
    if (options.waitMs) this.#waitUntil = performance.now() + options.waitMs;
    this.#timer = setTimeout(() => this.#giveUp(), options.deadlineMs + (options.waitMs ?? 0));
    this.#signal = options.signal;
    this.#forgetSignal = onAbort(this.#signal, () => this.#abort());
  }

  /** Nobody waits for it any more. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** The message to send now: what is left of a wait shrinks from try to try. */
  get present(): Message {
    const { message } = this;
    if (this.#waitUntil === undefined || !this.#wasSent) return message;
    const waitMs = Math.max(0, Math.round(this.#waitUntil - performance.now()));
    if (message.$case === 'pull') return { ...message, value: { ...message.value, waitMs } };
    if (message.$case === 'waitJob') return { ...message, value: { ...message.value, waitMs } };
    return message;
  }

  /** It is handed to the socket. */
  sent(): void {
    this.#wasSent = true;
  }

  resolve(answer: Answer): void {
    if (this.#end()) this.#settle.resolve(answer);
  }

  reject(error: unknown): void {
    if (this.#end()) this.#settle.reject(asBatonqError(error));
  }

  /** Whether a refusal is passing, and the call may be repeated: then it is noted and asked again. */
  mayRepeatAfter(error: BatonqError): boolean {
    if (!this.isRepeatable || !PASSING.has(error.code) || this.#isOver) return false;
    this.#refusal = error;
    return true;
  }

  /** The connection is lost. Whether it may be asked again; if not, it is over. */
  lost(detail: string): boolean {
    if (this.#isOver) return false;
    if (!this.#wasSent || !this.changes || this.isRepeatable) return true;
    this.reject(new BatonqError('OUTCOME_UNKNOWN', `it may or may not be done: ${detail}`));
    return false;
  }

  /** The client is over. */
  closed(error: BatonqError): void {
    const isUnknown = this.#wasSent && this.changes;
    this.reject(isUnknown ? new BatonqError('OUTCOME_UNKNOWN', 'it may or may not be done: the client is over') : error);
  }

  #giveUp(): void {
    if (this.#refusal !== undefined) return this.reject(this.#refusal);
    if (this.#wasSent && this.changes) {
      return this.reject(new BatonqError('OUTCOME_UNKNOWN', 'it may or may not be done: no answer in time'));
    }
    this.reject(new BatonqError('TIMEOUT', 'no answer in time, nothing was changed'));
  }

  #abort(): void {
    const detail = this.#wasSent && this.changes ? 'called off; it may be done nevertheless' : 'called off';
    this.reject(new BatonqError('ABORTED', detail, { cause: this.#signal?.reason }));
  }

  /** True for the first who asks. */
  #end(): boolean {
    if (this.#isOver) return false;
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#forgetSignal();
    return true;
  }
}

/** Calls that wait for a connection, in their order. */
export class Inbox {
  #calls: Call[] = [];
  #head = 0;

  push(call: Call): void {
    this.#calls.push(call);
  }

  /** Calls that were asked before come first. */
  putBack(calls: readonly Call[]): void {
    this.#calls = [...calls, ...this.#calls.slice(this.#head)];
    this.#head = 0;
  }

  /** The next call that somebody waits for. */
  take(): Call | undefined {
    while (this.#head < this.#calls.length) {
      const call = this.#calls[this.#head];
      this.#head += 1;
      if (this.#head > 1024 && this.#head * 2 > this.#calls.length) {
        this.#calls = this.#calls.slice(this.#head);
        this.#head = 0;
      }
      if (call !== undefined && !call.isOver) return call;
    }
    this.#calls = [];
    this.#head = 0;
    return undefined;
  }
}
