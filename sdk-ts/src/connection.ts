/**
 * One socket: calls out, answers and deliveries in, heartbeats both ways.
 *
 * A connection is told what to do by the inbox and by the session's controls, and says how it ended
 * by {@link Connection.lost} and that its node is about to stop by {@link Connection.goesAway}.
 */

import type { Socket } from 'node:net';

import type { Call, Inbox, Message } from './call.js';
import type { Opened } from './dial.js';
import { BatonqError, errorOf } from './error.js';
import type { FrameReader } from './frame.js';
import { Heartbeat } from './heartbeat.js';
import { leaseBytes, leaseText, type Job } from './job.js';
import type { Delivery, Envelope, Pulled, Settled } from './messages.js';
import { Outbound } from './outbound.js';
import type { Control, Session } from './session.js';

/** What a node that names no limit gets. */
const IN_FLIGHT_MAX = 1024;
/** How long after the node refused for now to tell it again. */
const AGAIN_AFTER_MS = 500;
/** How long the calls on a node that goes away may take: longer than any wait. */
const DRAIN_MAX_MS = 90_000;
/** How long the last words may take. */
const LEAVE_MAX_MS = 1000;
/** The most leases in one frame that gives jobs back. */
const RELEASE_MAX = 500;

/** What must be known of a question when its answer comes. */
type About =
  | { readonly kind: 'call'; readonly call: Call; readonly key?: number }
  | { readonly kind: 'ping' }
  | { readonly kind: 'release'; readonly leases: readonly string[] }
  | { readonly kind: 'renew'; readonly key: number }
  | { readonly kind: 'credit' }
  | { readonly kind: 'unsubscribe'; readonly key: number; readonly done: () => void };

/** What a connection works for. */
export interface Host {
  readonly inbox: Inbox;
  readonly session: Session;
  /** A passing refusal of a call that may be repeated. */
  again(call: Call): void;
  /** Something was written: the client is alive. */
  wrote(): void;
}

export class Connection {
  /** Why the socket can not be used any more, once that is so. */
  readonly lost: Promise<string>;
  /** Once the node says that it is about to stop. */
  readonly goesAway: Promise<string>;
  /** How long leases outlive this connection. */
  readonly graceMs: number;

  readonly #socket: Socket;
  readonly #host: Host;
  readonly #session: Session;
  readonly #reader: FrameReader;
  readonly #outbound: Outbound;
  readonly #heartbeat: Heartbeat;
  readonly #inFlightMax: number;
  readonly #pending = new Map<number, About>();
  /** Request ids of subscribing to the subscriptions' keys. */
  readonly #subscriptions = new Map<number, number>();
  /** What the node holds for this session, and the session has given up for lost or never got. */
  #unknown: readonly string[];
  #again: Control[] = [];
  #againTimer: NodeJS.Timeout | undefined;
  #alarm: NodeJS.Timeout | undefined;
  #takesCalls = true;
  #isOver = false;
  #onIdle: () => void = () => {};
  #sayLost!: (reason: string) => void;
  #sayGoesAway!: (reason: string) => void;

  /** Goes on with the session as the node's welcome says. */
  constructor({ socket, welcome, reader }: Opened, host: Host) {
    this.lost = new Promise((resolve) => (this.#sayLost = resolve));
    this.goesAway = new Promise((resolve) => (this.#sayGoesAway = resolve));
    this.graceMs = welcome.reconnectGraceMs;
    this.#socket = socket;
    this.#host = host;
    this.#session = host.session;
    this.#reader = reader;
    this.#outbound = new Outbound(socket, welcome.limits?.frameBytesMax ?? 0, () => this.#wrote());
    this.#heartbeat = new Heartbeat(welcome, performance.now());
    this.#inFlightMax = inFlightMax(welcome.limits?.inFlightMax ?? 0);
    this.#unknown = this.#session.welcome(welcome);
    this.#renew();
    this.#setAlarm();
    socket.on('data', (chunk: Buffer) => this.#read(chunk));
    socket.on('error', (error) => this.#end(error.message || String(error)));
    socket.on('close', () => this.#end('closed by the node'));
    socket.on('drain', () => this.pump());
    if (socket.destroyed) this.#end('closed by the node');
    this.#readFrames();
    socket.resume();
  }

  /** Takes from the inbox what there is room for, and says what the session has to say. */
  pump(): void {
    if (this.#isOver || !this.#takesCalls) return;
    for (const control of this.#session.controls.splice(0)) this.#obey(control);
    while (this.#pending.size < this.#inFlightMax && !this.#outbound.isFull) {
      const call = this.#host.inbox.take();
      if (call === undefined) break;
      this.#ask(call);
    }
    this.#giveBackUnknown();
  }

  /**
   * Gives back what the node holds for this session and nobody here works on. What was asked meanwhile
   * goes first: work may have been done whose leases were given up for lost too soon.
   */
  #giveBackUnknown(): void {
    if (this.#unknown.length === 0) return;
    const unknown = new Set(this.#unknown);
    this.#unknown = [];
    for (const about of this.#pending.values()) {
      if (about.kind !== 'call' || !about.call.endsLeases) continue;
      this.#session.holdAgain(about.call.leases.filter((lease) => unknown.delete(lease)));
    }
    this.#release([...unknown]);
  }

  /**
   * Takes no more calls, waits for the answers that are still to come from a node that goes away,
   * or for the client's end, and closes. By now the session goes on over another connection.
   */
  async drain(closed: Promise<unknown>): Promise<void> {
    this.#takesCalls = false;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, DRAIN_MAX_MS)));
    const idle = new Promise<void>((resolve) => (this.#onIdle = resolve));
    if (this.#pending.size > 0) await Promise.race([idle, late, this.lost, closed]);
    clearTimeout(timer);
    this.#outbound.flush();
    this.#end('the node went away');
  }

  /** Gives all jobs back, says that no more is to come, and closes. */
  async leave(): Promise<void> {
    for (const control of this.#session.controls.splice(0)) this.#obey(control);
    this.#release(this.#session.loseAll());
    this.#takesCalls = false;
    this.#outbound.writeAll();
    this.#socket.end();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, LEAVE_MAX_MS)));
    // Not in time is as good: the node will notice by itself.
    await Promise.race([this.lost, late]);
    clearTimeout(timer);
    this.#end('the client was closed');
  }

  /** The calls that have no answer. The connection is over by then. */
  takePending(reason: string): Call[] {
    const calls: Call[] = [];
    for (const about of this.#pending.values()) {
      if (about.kind === 'unsubscribe') this.#endSubscription(about.key, about.done);
      if (about.kind !== 'call') continue;
      // Asked again, it is another subscription.
      if (about.key !== undefined) this.#session.dropSubscription(about.key);
      if (about.call.lost(reason)) calls.push(about.call);
    }
    this.#pending.clear();
    for (const control of this.#again.splice(0)) {
      if (control.kind === 'unsubscribe') this.#endSubscription(control.key, control.done);
      if (control.kind === 'release') this.#session.controls.push(control);
    }
    return calls;
  }

  #endSubscription(key: number, done: () => void): void {
    this.#session.unsubscribed(key);
    done();
  }

  #end(reason: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#alarm);
    clearTimeout(this.#againTimer);
    this.#socket.destroy();
    this.#sayLost(reason);
  }

  #wrote(): void {
    this.#host.wrote();
    this.pump();
  }

  // ------------------------------------------------------------------ time

  #setAlarm(): void {
    clearTimeout(this.#alarm);
    const inMs = Math.max(0, this.#heartbeat.next() - performance.now());
    this.#alarm = setTimeout(() => this.#beat(), inMs);
  }

  #beat(): void {
    if (this.#isOver) return;
    const beat = this.#heartbeat.beat(performance.now());
    // After a busy time of this program the node's bytes may lie there unread: read them first.
    if (beat === 'dead') return void setImmediate(() => setImmediate(() => this.#beatAgain()));
    if (beat === 'ping') this.#tell({ $case: 'ping', value: {} }, { kind: 'ping' });
    this.#setAlarm();
  }

  #beatAgain(): void {
    if (this.#isOver) return;
    if (this.#heartbeat.beat(performance.now()) === 'dead') return this.#end('the node is silent');
    this.#tell({ $case: 'ping', value: {} }, { kind: 'ping' });
    this.#setAlarm();
  }

  #tellLater(control: Control): void {
    this.#again.push(control);
    this.#againTimer ??= setTimeout(() => {
      this.#againTimer = undefined;
      for (const again of this.#again.splice(0)) this.#obey(again);
    }, AGAIN_AFTER_MS);
  }

  // ------------------------------------------------------------- outwards

  #ask(call: Call): void {
    const id = this.#session.nextRequestId();
    const { feed, present: message } = call;
    try {
      this.#outbound.put({ requestId: id, message }, () => call.sent());
    } catch (error) {
      return call.reject(error);
    }
    if (message.$case !== 'subscribe' || feed === undefined) {
      this.#pending.set(id, { kind: 'call', call });
      return;
    }
    const key = this.#session.subscribe(message.value.queue, message.value.credit, feed, id);
    this.#subscriptions.set(id, key);
    this.#pending.set(id, { kind: 'call', call, key });
  }

  /** Says what the connection has to say on its own. */
  #tell(message: Message, about: About, id = this.#session.nextRequestId()): void {
    this.#outbound.put({ requestId: id, message });
    this.#pending.set(id, about);
  }

  /** Gives jobs back that nobody here will work on. */
  #release(leases: readonly string[]): void {
    this.#session.lose(leases);
    for (let at = 0; at < leases.length; at += RELEASE_MAX) {
      const some = leases.slice(at, at + RELEASE_MAX);
      const value = { leases: some.map(leaseBytes), delayMs: 0 };
      this.#tell({ $case: 'release', value }, { kind: 'release', leases: some });
    }
  }

  #obey(control: Control): void {
    switch (control.kind) {
      case 'release':
        return this.#release(control.leases);
      case 'renew':
        return this.#renew();
      case 'unsubscribe':
        return this.#unsubscribe(control.key, control.done);
    }
  }

  #unsubscribe(key: number, done: () => void): void {
    const subscription = this.#session.wire(key);
    if (subscription === undefined) return this.#endSubscription(key, done);
    this.#tell({ $case: 'unsubscribe', value: { subscription } }, { kind: 'unsubscribe', key, done });
  }

  #renew(): void {
    for (const { key, wire, message } of this.#session.renewals()) {
      if (message.$case !== 'subscribe') {
        this.#tell(message, { kind: 'credit' }, wire);
        continue;
      }
      this.#subscriptions.set(wire, key);
      this.#tell(message, { kind: 'renew', key }, wire);
    }
  }

  // -------------------------------------------------------------- inwards

  #read(chunk: Buffer): void {
    this.#heartbeat.heard(performance.now());
    this.#reader.push(chunk);
    this.#readFrames();
  }

  #readFrames(): void {
    try {
      for (;;) {
        if (this.#isOver) return;
        const envelope = this.#reader.next();
        if (envelope === undefined) break;
        this.#receive(envelope);
      }
    } catch (error) {
      return this.#end(String(error));
    }
    this.pump();
    if (this.#pending.size === 0) this.#onIdle();
  }

  #receive({ requestId, message }: Envelope): void {
    // A newer node may say what this client does not know.
    if (message === undefined) return;
    switch (message.$case) {
      case 'ping':
        return this.#outbound.put({ requestId, message: { $case: 'pong', value: {} } });
      case 'delivery':
        return this.#deliver(message.value);
      case 'leasesLost':
        return this.#session.lose(message.value.leases.map(leaseText));
      case 'cancelRequested':
        return this.#session.cancel(message.value.leases.map(leaseText));
      case 'goAway':
        return this.#sayGoesAway(message.value.reason);
      case 'error':
        if (requestId === 0) throw errorOf(message.value);
        return this.#answered(requestId, message);
      default:
        return this.#answered(requestId, message);
    }
  }

  #deliver({ subscription: wire, jobs }: Delivery): void {
    const key = this.#subscriptions.get(wire);
    const subscription = key === undefined ? undefined : this.#session.subscription(key);
    if (key === undefined || subscription === undefined) {
      return this.#release(jobs.map((job) => leaseText(job.lease)));
    }
    subscription.feed.deliver(this.#session.hold(jobs, subscription.queue, { key, wire }));
  }

  #answered(id: number, answer: Message): void {
    const about = this.#pending.get(id);
    if (about === undefined) return;
    this.#pending.delete(id);
    const error = answer.$case === 'error' ? errorOf(answer.value) : undefined;
    switch (about.kind) {
      case 'ping':
      case 'credit':
        return;
      case 'call':
        return this.#callAnswered(about.call, about.key, id, answer, error);
      case 'release':
        if (error?.retryable === true) this.#tellLater({ kind: 'release', leases: about.leases });
        return;
      case 'unsubscribe':
        if (error?.retryable === true) return this.#tellLater({ ...about });
        return this.#endSubscription(about.key, about.done);
      case 'renew':
        return this.#renewed(about.key, id, error);
    }
  }

  #callAnswered(call: Call, key: number | undefined, id: number, answer: Message, error: BatonqError | undefined): void {
    if (error !== undefined) {
      if (key !== undefined) this.#session.dropSubscription(key);
      if (call.mayRepeatAfter(error)) return this.#host.again(call);
      return call.reject(error);
    }
    if (key !== undefined) return this.#subscribed(call, key, id);
    if (answer.$case === 'pulled') return this.#pulled(call, answer.value);
    if (answer.$case === 'settled') this.#settled(call, answer.value);
    call.resolve(answer);
  }

  #subscribed(call: Call, key: number, id: number): void {
    this.#session.subscribed(key, id);
    if (call.isOver) this.#session.control({ kind: 'unsubscribe', key, done: () => {} });
    call.resolve({ $case: 'held', value: key });
  }

  #pulled(call: Call, { jobs }: Pulled): void {
    if (call.message.$case !== 'pull') return;
    const { queue, leaseMs } = call.message.value;
    // An answer that nobody will see must not keep jobs.
    if (call.isOver) return this.#release(jobs.map((job) => leaseText(job.lease)));
    const held: Job[] = leaseMs === 0 ? this.#session.hold(jobs, queue) : this.#session.pass(jobs, queue);
    call.resolve({ $case: 'held', value: held });
  }

  #settled(call: Call, { results }: Settled): void {
    this.#session.settled(call.leases, results, call.endsLeases);
  }

  #renewed(key: number, wire: number, error: BatonqError | undefined): void {
    if (error === undefined) return this.#session.subscribed(key, wire);
    if (!error.retryable && error.code !== 'INTERNAL') return this.#session.unsubscribed(key, error);
    this.#session.notSubscribed(key, wire);
    this.#tellLater({ kind: 'renew' });
  }
}

/**
 * How many calls may be in flight. An eighth of what the node allows is left for what the connection
 * says on its own.
 */
function inFlightMax(announced: number): number {
  return announced === 0 ? IN_FLIGHT_MAX : announced - Math.floor(announced / 8);
}
