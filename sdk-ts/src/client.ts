/**
 * A connection to the cluster: hand jobs in, work on them, look at them.
 *
 * One socket carries all calls of a client; they are sent together and answered as they are ready.
 * When the connection is lost, the client connects again by itself and takes up its session:
 * subscriptions go on and leases are kept, if it comes back in time. Calls made while there is no
 * connection wait for one, within their time.
 */

import { EventEmitter } from 'node:events';

import { readPlaces, type Address, type Places } from './address.js';
import { expect, type Ask } from './asking.js';
import { Call, type Answer, type CallOptions, type Message } from './call.js';
import { Cluster } from './cluster.js';
import { Dialer, type Opened, type Visitor } from './dial.js';
import { BatonqError, unexpected } from './error.js';
import { Heartbeat } from './heartbeat.js';
import type { JobDetail } from './inspect.js';
import { leaseBytes, type Job, type JobId, type Settling } from './job.js';
import { Jobs } from './jobs.js';
import { LoopWatch } from './loop-watch.js';
import type { PushResult as WireResult } from './messages.js';
import { onAbort } from './on-abort.js';
import {
  pushedOne,
  pushResultOf,
  wireJob,
  type FlowJob,
  type JobOptions,
  type NewJob,
  type Pushed,
  type PushResult,
} from './push.js';
import { Queue } from './queue.js';
import { Queues } from './queues.js';
import { Schedules } from './schedules.js';
import { Session, type NodeInfo } from './session.js';
import {
  ackItem,
  failItem,
  leaseOf,
  one,
  settledOf,
  wholeMs,
  type Ack,
  type Fail,
  type FailOptions,
  type LeaseLike,
  type Settled,
} from './settle.js';
import { StandIn, type ThreadNotice } from './stand-in.js';
import { Subscription, type Source } from './subscription.js';
import { Supervisor, type Watcher } from './supervisor.js';
import { PROGRAM } from './version.js';

/** How a client connects. */
export interface ClientOptions extends Places {
  /** Says who the client is; none unless given. */
  token?: string | undefined;
  /** The worker's name in timelines and lists, at most 128 bytes. */
  worker?: string | undefined;
  /** Name and version of the program, as `shop/1.0`, for the node's logs. */
  program?: string | undefined;
  /** How long one try of all addresses may take; 5 s unless given. */
  connectTimeoutMs?: number | undefined;
  /** How long a call may take unless it says otherwise; 10 s unless given. */
  callTimeoutMs?: number | undefined;
  /**
   * The shortest and the longest pause between two tries to connect again; 50 ms and 5 s unless given.
   * A pause doubles from try to try, and half of it is left to chance.
   */
  reconnectMinMs?: number | undefined;
  reconnectMaxMs?: number | undefined;
  /**
   * Whether a thread keeps the leases while the event loop is blocked; true unless given. The thread
   * is started with the first job that is held.
   */
  standIn?: boolean | undefined;
}

/** What a client tells. None of it needs an answer: it stays connected by itself. */
export interface ClientEvents {
  /** A node has let the client in. */
  connected: [node: NodeInfo];
  /** The connection is lost; the client connects again. */
  disconnected: [reason: string];
  /** A node did not let the client in; the client tries on. */
  notConnected: [error: BatonqError];
  /** The node is about to stop; the client moves to another one, with its leases. */
  goingAway: [reason: string];
  /** The event loop was blocked for longer than a heartbeat. Without a listener it is a process warning. */
  blocked: [blockedMs: number];
  /** The client can not be used any more; `CLOSED` if that was its user's wish. */
  closed: [error: BatonqError];
}

/** How many jobs to pull, and how. */
export interface PullOptions extends CallOptions {
  /** The most jobs to get; 1 unless given. */
  count?: number | undefined;
  /** How long to wait for a first job; not at all unless given. */
  waitMs?: number | undefined;
  /** Holds the jobs for this time whatever becomes of the client, unless extended; else as long as it is connected. */
  leaseMs?: number | undefined;
}

/** What must be known of a call beside its message. */
type About = Pick<ConstructorParameters<typeof Call>[1], 'waitMs' | 'leases' | 'feed'>;

const CONNECT_TIMEOUT_MS = 5000;
const CALL_TIMEOUT_MS = 10_000;
const RECONNECT_MIN_MS = 50;
const RECONNECT_MAX_MS = 5000;

export class Client extends EventEmitter<ClientEvents> implements Settling {
  /** Looking at jobs, and changing them. */
  readonly jobs: Jobs;
  /** Looking at queues, and setting them. */
  readonly queues: Queues;
  /** Jobs that are made by the clock. */
  readonly schedules: Schedules;
  /** Nodes and workers. */
  readonly cluster: Cluster;

  readonly #callTimeoutMs: number;
  readonly #session: Session;
  readonly #supervisor: Supervisor;
  readonly #standIn: StandIn | undefined;
  #loopWatch: LoopWatch | undefined;
  #connecting: Promise<void> | undefined;

  /** @throws BatonqError `ADDRESS` if no address can be read from the options. */
  constructor(options: ClientOptions = {}) {
    super();
    const addresses: Address[] = readPlaces(options);
    const visitor: Visitor = {
      token: options.token ?? '',
      worker: options.worker ?? '',
      program: options.program ?? PROGRAM,
    };
    this.#callTimeoutMs = options.callTimeoutMs ?? CALL_TIMEOUT_MS;
    this.#session = new Session(this);
    if (options.standIn ?? true) this.#standIn = new StandIn(visitor, (notice) => this.#noticed(notice));
    this.#session.onHold = () => this.#standIn?.start();
    const connectTimeoutMs = options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS;
    const minMs = options.reconnectMinMs ?? RECONNECT_MIN_MS;
    this.#supervisor = new Supervisor(
      this.#session,
      new Dialer(addresses, visitor, connectTimeoutMs, Math.random()),
      this.#watcher(),
      { minMs, maxMs: Math.max(minMs, options.reconnectMaxMs ?? RECONNECT_MAX_MS) },
    );
    const ask: Ask = (message, call, waitMs = 0) => this.#ask(message, call, { waitMs });
    this.jobs = new Jobs(ask);
    this.queues = new Queues(ask);
    this.schedules = new Schedules(ask);
    this.cluster = new Cluster(ask);
  }

  /**
   * Connects: tries each address once. From then on the client connects again by itself, until it is
   * closed or a node says that it will never let this client in.
   *
   * @throws BatonqError `UNREACHABLE` if no node answered in time (and it may be tried again), or
   * `UNAUTHENTICATED` and the like.
   */
  async connect(): Promise<this> {
    if (this.#supervisor.over !== undefined) throw this.#supervisor.over;
    this.#connecting ??= this.#supervisor.start();
    try {
      await this.#connecting;
    } catch (error) {
      this.#connecting = undefined;
      throw error;
    }
    return this;
  }

  /**
   * Gives back the jobs that are held, and closes the connection. Without it, a program that ends
   * leaves its jobs to be missed by the node, which counts that as a crash.
   */
  async close(): Promise<void> {
    await this.#supervisor.close();
    this.#loopWatch?.stop();
    await this.#standIn?.stop();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** The node that the client is, or was last, connected to; undefined before the first connection. */
  get node(): NodeInfo | undefined {
    return this.#session.node;
  }

  /** A queue whose jobs carry a `T` and leave an `R`. */
  queue<T = unknown, R = unknown>(name: string): Queue<T, R> {
    return new Queue<T, R>(this, name);
  }

  // ------------------------------------------------------------------ push

  /**
   * Hands a job in. Once this resolves, the job survives the crash of any node.
   *
   * With an `idempotencyKey` the client repeats the push by itself when its answer is lost. Without one
   * it is `OUTCOME_UNKNOWN` then: the job may have been pushed.
   */
  async push<T>(queue: string, data: T, options: JobOptions & CallOptions = {}): Promise<Pushed> {
    const value = { jobs: [wireJob(queue, data, options)] };
    return pushedOne(expect(await this.#ask({ $case: 'push', value }, options), 'pushed').results);
  }

  /**
   * Hands jobs in with one call, up to 1 000. A refused job does not harm its neighbours; result `i`
   * is that of job `i`.
   */
  async pushBatch<T>(jobs: readonly NewJob<T>[], options: CallOptions = {}): Promise<PushResult[]> {
    const value = { jobs: jobs.map(({ queue, data, ...job }) => wireJob(queue, data, job)) };
    const { results } = expect(await this.#ask({ $case: 'push', value }, options), 'pushed');
    return sameCount(results, jobs.length).map(pushResultOf);
  }

  /** Hands in jobs that wait for each other, by `after`: all of them are stored, or none. */
  async pushFlow(jobs: readonly FlowJob[], options: CallOptions = {}): Promise<Pushed[]> {
    const wire = jobs.map(({ queue, data, after, ...job }) => wireJob(queue, data, job, after));
    const { results } = expect(await this.#ask({ $case: 'pushFlow', value: { jobs: wire } }, options), 'pushed');
    return sameCount(results, jobs.length).map((result) => pushedOne([result]));
  }

  // ------------------------------------------------------------------ pull

  /** Asks for jobs. Empty: nothing came up in time. Jobs that arrive after the call was given up are given back. */
  async pull<T = unknown>(queue: string, options: PullOptions = {}): Promise<Job<T>[]> {
    const waitMs = wholeMs(options.waitMs ?? 0, 'waitMs');
    const leaseMs = options.leaseMs === undefined ? 0 : Math.max(1, wholeMs(options.leaseMs, 'leaseMs'));
    const value = { queue, count: options.count ?? 1, waitMs, leaseMs };
    const answer = await this.#ask({ $case: 'pull', value }, options, { waitMs });
    if (answer.$case !== 'held') throw unexpected(answer.$case);
    return answer.value as Job<T>[];
  }

  /**
   * Has the node send jobs of `queue`, at most `credit` at a time, 10 unless given. The signal also
   * closes the subscription later on.
   */
  async subscribe<T = unknown>(
    queue: string,
    options: CallOptions & { credit?: number | undefined } = {},
  ): Promise<Subscription<T>> {
    const source: Source = {
      unsubscribe: (key) =>
        new Promise((done) => this.#session.control({ kind: 'unsubscribe', key, done })),
      giveBack: (leases) => this.#session.control({ kind: 'release', leases }),
    };
    const subscription = new Subscription<T>(source);
    const value = { queue, credit: options.credit ?? 10 };
    const answer = await this.#ask({ $case: 'subscribe', value }, options, { feed: subscription });
    if (answer.$case !== 'held') throw unexpected(answer.$case);
    subscription.begun(answer.value as number);
    subscription.onEnd = onAbort(options.signal, () => void subscription.close());
    return subscription;
  }

  // ---------------------------------------------------------------- settle

  /**
   * The job is done; the result, JSON or bytes, is kept with it.
   *
   * Like all settling it is repeated by itself when its answer is lost: the node answers the same final
   * call with the same lease in the same way. `LEASE_LOST`: somebody else may work on the job.
   */
  async ack(lease: LeaseLike, result?: unknown, options?: CallOptions): Promise<void> {
    one(await this.ackBatch([{ lease, result }], options));
  }

  /** The jobs are done. Result `i` is that of job `i`. */
  async ackBatch(acks: readonly Ack[], options?: CallOptions): Promise<Settled[]> {
    const value = { items: acks.map(ackItem) };
    return this.#settle({ $case: 'ack', value }, acks.map(({ lease }) => leaseOf(lease)), options);
  }

  /** The attempt went wrong: the job is tried again after its backoff, or dead after its last attempt. */
  async fail(lease: LeaseLike, options: FailOptions & CallOptions = {}): Promise<void> {
    one(await this.failBatch([{ lease, ...options }], options));
  }

  /** The attempts went wrong. Result `i` is that of job `i`. */
  async failBatch(fails: readonly Fail[], options?: CallOptions): Promise<Settled[]> {
    const value = { items: fails.map(failItem) };
    return this.#settle({ $case: 'fail', value }, fails.map(({ lease }) => leaseOf(lease)), options);
  }

  /** Gives a job back unharmed: the attempt does not count. */
  async release(lease: LeaseLike, options?: CallOptions): Promise<void> {
    one(await this.releaseBatch([lease], options));
  }

  /** Gives jobs back unharmed, to be worked on after `delayMs`. Result `i` is that of job `i`. */
  async releaseBatch(
    leases: readonly LeaseLike[],
    options: CallOptions & { delayMs?: number | undefined } = {},
  ): Promise<Settled[]> {
    const texts = leases.map(leaseOf);
    const value = { leases: texts.map(leaseBytes), delayMs: wholeMs(options.delayMs ?? 0, 'delayMs') };
    return this.#settle({ $case: 'release', value }, texts, options);
  }

  /** Gives a job back, to be worked on not before `delayMs` from now: the attempt does not count. */
  async snooze(lease: LeaseLike, delayMs: number, options?: CallOptions): Promise<void> {
    one(await this.releaseBatch([lease], { ...options, delayMs: Math.max(1, delayMs) }));
  }

  /** Lets a lease of a pull with a `leaseMs` end this long after now, and answers when that is. */
  async extend(lease: LeaseLike, leaseMs: number, options?: CallOptions): Promise<Date> {
    const text = leaseOf(lease);
    const value = { items: [{ lease: leaseBytes(text), leaseMs: wholeMs(leaseMs, 'leaseMs') }] };
    const { results } = expect(await this.#ask({ $case: 'extend', value }, options, { leases: [text] }), 'settled');
    one(settledOf(results, 1));
    return new Date(results[0]?.leaseUntilMs ?? 0);
  }

  /** Notes how far the work is, `percent` from 0 to 100. The message is cut after 8 KiB. */
  async progress(lease: LeaseLike, percent: number, message = '', options?: CallOptions): Promise<void> {
    const text = leaseOf(lease);
    const value = { lease: leaseBytes(text), percent: Math.round(percent), message };
    one(await this.#settle({ $case: 'progress', value }, [text], options));
  }

  /** A job once it has ended, or as it is after `waitMs`, a minute unless given: the same as `jobs.wait`. */
  waitFor<T = unknown, R = unknown>(
    id: JobId,
    options?: CallOptions & { waitMs?: number | undefined },
  ): Promise<JobDetail<T, R>> {
    return this.jobs.wait<T, R>(id, options);
  }

  // ---------------------------------------------------------------- inside

  async #settle(message: Message, leases: readonly string[], options?: CallOptions): Promise<Settled[]> {
    const { results } = expect(await this.#ask(message, options, { leases }), 'settled');
    return settledOf(results, leases.length);
  }

  #ask(message: Message, { deadlineMs, signal }: CallOptions = {}, about: About = {}): Promise<Answer> {
    const call = new Call(message, { deadlineMs: deadlineMs ?? this.#callTimeoutMs, signal, ...about });
    if (this.#connecting === undefined) {
      call.reject(this.#supervisor.over ?? new BatonqError('CLOSED', 'not connected: await client.connect() first'));
      return call.answer;
    }
    this.#supervisor.submit(call);
    return call.answer;
  }

  #watcher(): Watcher {
    return {
      connected: (opened) => this.#connected(opened),
      disconnected: (reason) => {
        this.#standIn?.rest();
        this.#tell('disconnected', reason);
      },
      notConnected: (error) => this.#tell('notConnected', error),
      goingAway: (reason) => this.#tell('goingAway', reason),
      wrote: () => this.#standIn?.sign(),
      over: (error) => {
        this.#loopWatch?.stop();
        this.#standIn?.rest();
        this.#tell('closed', error);
      },
    };
  }

  #connected(opened: Opened): void {
    this.#standIn?.watch(opened);
    this.#loopWatch?.stop();
    const { intervalMs } = new Heartbeat(opened.welcome, 0);
    this.#loopWatch = new LoopWatch(intervalMs, (blockedMs) => this.#blocked(blockedMs));
    if (this.#session.node !== undefined) this.#tell('connected', this.#session.node);
  }

  /** Tells whoever listens. What a listener throws is not thrown at the connection. */
  #tell<E extends keyof ClientEvents>(event: E, ...told: ClientEvents[E]): void {
    queueMicrotask(() => (this as EventEmitter).emit(event, ...told));
  }

  #noticed(notice: ThreadNotice): void {
    if (notice.kind === 'cancelRequested') this.#session.cancel(notice.leases);
  }

  #blocked(blockedMs: number): void {
    if (this.emit('blocked', blockedMs)) return;
    const text =
      `the event loop was blocked for ${(blockedMs / 1000).toFixed(1)} s, longer than a heartbeat: ` +
      'signals of jobs come late, and without the stand-in thread leases are lost. ' +
      'Give long computations to a worker thread';
    process.emitWarning(text, { type: 'BatonqWarning', code: 'BATONQ_EVENT_LOOP_BLOCKED' });
  }
}

function sameCount(results: readonly WireResult[], count: number): readonly WireResult[] {
  if (results.length !== count) throw unexpected('pushed');
  return results;
}
