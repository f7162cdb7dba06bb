/**
 * Works on the jobs of one queue with a handler.
 *
 * Up to `concurrency` handlers run at once. What a handler returns settles its job; what it throws
 * fails it. Leases are kept by the client however long a handler takes, and by a thread while the
 * event loop is blocked.
 */

import { EventEmitter } from 'node:events';

import { Client, type ClientOptions } from './client.js';
import { asBatonqError, BatonqError } from './error.js';
import { Failure, failureOf, Snooze } from './failure.js';
import type { Job } from './job.js';
import { Pauses } from './pauses.js';
import { ackOf, Settler, type Outcome } from './settler.js';
import type { Subscription } from './subscription.js';

const CONCURRENCY = 10;
const CLOSE_WITHIN_MS = 25_000;
/** How long settling the last jobs may take. */
const SETTLE_MAX_MS = 10_000;
const RECONNECT_MIN_MS = 50;
const RECONNECT_MAX_MS = 5000;

/** Does the work. What it returns is the job's result: nothing, JSON, or bytes. */
export type Handler<T = unknown, R = unknown> = (job: Job<T>, worker: Worker<T, R>) => Promise<R> | R;

/** How a worker works. Without a `client` it has one of its own, made from the rest of the options. */
export interface WorkerOptions extends ClientOptions {
  /** A client to share; it stays open when the worker closes. */
  client?: Client | undefined;
  /** How many handlers run at once; 10 unless given. */
  concurrency?: number | undefined;
  /**
   * How many jobs are held beyond those being worked on; 0 unless given. It saves a round trip between
   * two short jobs; while they wait here no other worker gets them.
   */
  prefetch?: number | undefined;
  /** How long handlers may run on after `close()`; 25 s unless given. Jobs of those that still run are given back. */
  closeWithinMs?: number | undefined;
  /** Whether it begins by itself; true unless given. Else {@link Worker.run} does it. */
  autorun?: boolean | undefined;
}

/** What a worker tells. */
export interface WorkerEvents<T = unknown, R = unknown> {
  /** It is subscribed: jobs come from now on. */
  ready: [];
  /** A handler begins with a job. */
  active: [job: Job<T>];
  /** The job is done, and the node knows it. */
  completed: [job: Job<T>, result: R];
  /** The attempt has failed, and the node knows it. */
  failed: [job: Job<T>, failure: Failure];
  /** The job was put off, and the node knows it. */
  snoozed: [job: Job<T>, delayMs: number];
  /** The lease was lost before the job was settled: somebody else may work on it now. */
  leaseLost: [job: Job<T>];
  /** Something went wrong beside the work: no connection, or a job that could not be settled. */
  error: [error: BatonqError, job?: Job<T>];
  /** All is over. */
  closed: [];
}

export class Worker<T = unknown, R = unknown> extends EventEmitter<WorkerEvents<T, R>> {
  readonly queue: string;
  /** The client that it works with, to push more jobs for example. */
  readonly client: Client;

  readonly #handler: Handler<T, R>;
  readonly #ownsClient: boolean;
  readonly #concurrency: number;
  readonly #prefetch: number;
  readonly #closeWithinMs: number;
  readonly #settler: Settler;
  readonly #running = new Set<Job<T>>();
  readonly #closing = new AbortController();
  #subscription: Subscription<T> | undefined;
  #life: Promise<void> | undefined;
  #onRoom: () => void = () => {};

  /** @throws BatonqError `ADDRESS` if no address can be read from the options. */
  constructor(queue: string, handler: Handler<T, R>, options: WorkerOptions = {}) {
    super();
    const { client, concurrency, prefetch, closeWithinMs, autorun, ...own } = options;
    this.queue = queue;
    this.#handler = handler;
    this.#ownsClient = client === undefined;
    this.client = client ?? new Client(own);
    this.#concurrency = atLeast(1, concurrency ?? CONCURRENCY, 'concurrency');
    this.#prefetch = atLeast(0, prefetch ?? 0, 'prefetch');
    this.#closeWithinMs = closeWithinMs ?? CLOSE_WITHIN_MS;
    this.#settler = new Settler(this.client);
    if (autorun ?? true) void this.run().catch((error: unknown) => this.#ended(asBatonqError(error)));
  }

  /** How many handlers run now. */
  get runningCount(): number {
    return this.#running.size;
  }

  /**
   * Works until it is closed.
   *
   * @throws BatonqError why the node gives no jobs of this queue out to this client, or why the client
   * ended.
   */
  run(): Promise<void> {
    this.#life ??= this.#live();
    return this.#life;
  }

  /**
   * Takes no more jobs, lets the running handlers end for `closeWithinMs`, settles what they have done
   * and gives back the jobs of those that still run. It closes the client if that is its own.
   */
  async close(): Promise<void> {
    this.#closing.abort();
    // Why it ended is told by run() or by the event.
    await this.#life?.catch(() => {});
    if (this.#ownsClient) await this.client.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #live(): Promise<void> {
    try {
      const subscription = await this.#subscribe();
      if (subscription === undefined) return;
      this.#subscription = subscription;
      this.#tell('ready');
      await this.#over(subscription);
      await this.#windUp(subscription);
      if (subscription.reason !== undefined && !this.#closing.signal.aborted) throw subscription.reason;
    } finally {
      if (this.#ownsClient) await this.client.close();
      this.#tell('closed');
    }
  }

  #ended(error: BatonqError): void {
    // Whoever closes a client that is shared knows it.
    if (error.code !== 'CLOSED') this.#tell('error', error);
  }

  /** Connects if the client is its own, again and again; undefined if it is closed before. */
  async #subscribe(): Promise<Subscription<T> | undefined> {
    const { signal } = this.#closing;
    const pauses = new Pauses(RECONNECT_MIN_MS, RECONNECT_MAX_MS);
    while (!signal.aborted) {
      try {
        if (this.#ownsClient) await this.client.connect();
        const credit = this.#concurrency + this.#prefetch;
        return await this.client.subscribe<T>(this.queue, { credit, signal });
      } catch (thrown) {
        const error = asBatonqError(thrown);
        if (signal.aborted) break;
        if (!error.retryable) throw error;
        this.#tell('error', error);
        await pause(pauses.next(Math.random()), signal);
      }
    }
    return undefined;
  }

  /** Resolves when no more jobs are to be begun. */
  #over(subscription: Subscription<T>): Promise<void> {
    const { signal } = this.#closing;
    return new Promise((resolve) => {
      signal.addEventListener('abort', () => resolve(), { once: true });
      if (signal.aborted) resolve();
      subscription.onArrival = () => {
        this.#fill();
        if (subscription.isOver) resolve();
      };
      subscription.onArrival();
    });
  }

  /** Begins as many jobs as there is room for. What is here when all is over is given back. */
  #fill(): void {
    const subscription = this.#subscription;
    while (this.#running.size < this.#concurrency && !this.#closing.signal.aborted) {
      const job = subscription?.isOver === false ? subscription.take() : undefined;
      if (job === undefined) return;
      // While it waited here, its lease may have been lost.
      if (!job.isLost) void this.#work(job);
    }
  }

  async #work(job: Job<T>): Promise<void> {
    this.#running.add(job);
    job.fate.onLost = () => this.#tell('leaseLost', job);
    this.#tell('active', job);
    const timer = this.#attemptTimer(job);
    let outcome: Outcome;
    let returned: R | undefined;
    try {
      returned = await this.#handler(job, this);
      outcome = ackOf(returned);
    } catch (thrown) {
      outcome = outcomeOf(thrown);
    }
    clearTimeout(timer);
    // Not there any more: the job was given back meanwhile.
    if (!this.#running.delete(job)) return;
    this.#settle(job, outcome, returned as R);
    this.#onRoom();
    this.#fill();
  }

  /** Tells the handler when its time is over; what it does then is waited for nevertheless. */
  #attemptTimer(job: Job<T>): NodeJS.Timeout | undefined {
    if (job.timeoutMs === undefined) return undefined;
    const reason = new BatonqError('ATTEMPT_TIMEOUT', `the attempt has run for ${job.timeoutMs} ms`);
    return setTimeout(() => job.fate.abort(reason), Math.min(job.timeoutMs, 2 ** 31 - 1));
  }

  #settle(job: Job<T>, outcome: Outcome, returned: R): void {
    // It has been told by the lease itself.
    if (job.isLost) return;
    this.#settler.settle(job as Job, outcome, (settled, error) => {
      job.fate.onLost = undefined;
      if (error === undefined) return this.#tellSettled(job, settled, returned);
      if (error.code !== 'LEASE_LOST') return this.#tell('error', error, job);
      // The session may have known it first, and told.
      if (!job.isLost) this.#tell('leaseLost', job);
    });
  }

  #tellSettled(job: Job<T>, outcome: Outcome, returned: R): void {
    switch (outcome.kind) {
      case 'ack':
        return this.#tell('completed', job, returned);
      case 'fail':
        return this.#tell('failed', job, outcome.failure);
      case 'snooze':
        return this.#tell('snoozed', job, outcome.delayMs);
    }
  }

  async #windUp(subscription: Subscription<T>): Promise<void> {
    const closed = subscription.close();
    await within(this.#closeWithinMs, this.#allEnded());
    const unfinished = [...this.#running];
    this.#running.clear();
    for (const job of unfinished) job.fate.abort(new BatonqError('CLOSED', 'the worker is closing'));
    await within(SETTLE_MAX_MS, Promise.all([this.#giveBack(unfinished), this.#settler.idle(), closed]));
  }

  async #allEnded(): Promise<void> {
    while (this.#running.size > 0) await new Promise<void>((resolve) => (this.#onRoom = resolve));
  }

  /** What can not be given back now is given back when the session ends. */
  async #giveBack(jobs: Job<T>[]): Promise<void> {
    if (jobs.length === 0) return;
    for (const job of jobs) job.fate.onLost = undefined;
    try {
      await this.client.releaseBatch(jobs.map((job) => job.lease));
    } catch (error) {
      this.#tell('error', asBatonqError(error));
    }
  }

  /** Tells whoever listens. What a listener throws is not thrown at the client. */
  #tell<E extends keyof WorkerEvents<T, R>>(event: E, ...told: WorkerEvents<T, R>[E]): void {
    queueMicrotask(() => (this as EventEmitter).emit(event, ...(told as unknown[])));
  }
}

function outcomeOf(thrown: unknown): Outcome {
  if (thrown instanceof Snooze) return { kind: 'snooze', delayMs: thrown.delayMs };
  return { kind: 'fail', failure: failureOf(thrown) };
}

function atLeast(min: number, value: number, field: string): number {
  if (Number.isInteger(value) && value >= min) return value;
  throw new BatonqError('INVALID', `not a whole number of at least ${min}: ${value}`, { field });
}

/** Waits, unless the signal fires first. */
function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) return resolve();
    const timer = setTimeout(resolve, Math.max(0, ms));
    signal?.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** Waits for what is being done, but not longer than this. */
async function within(ms: number, done: Promise<unknown>): Promise<void> {
  const ended = new AbortController();
  await Promise.race([done, pause(ms, ended.signal)]);
  ended.abort();
}
