/**
 * Keeps a client connected: goes on with its session at the next node when a connection is lost or
 * its node is about to stop, with a growing pause between tries, until the client is closed or a
 * node says that it will never let this client in.
 */

import { Inbox, type Call } from './call.js';
import { Connection, type Host } from './connection.js';
import type { Dialer, Opened } from './dial.js';
import { asBatonqError, BatonqError, forbidsConnecting } from './error.js';
import { Pauses } from './pauses.js';
import type { Session } from './session.js';

/** What a client wants to know of its connections. */
export interface Watcher {
  connected(opened: Opened): void;
  disconnected(reason: string): void;
  goingAway(reason: string): void;
  notConnected(error: BatonqError): void;
  wrote(): void;
  /** There will be no more connections. */
  over(error: BatonqError): void;
}

type Next =
  | { readonly kind: 'closed' }
  | { readonly kind: 'lost'; readonly reason: string }
  | { readonly kind: 'goesAway'; readonly reason: string }
  | { readonly kind: 'opened'; readonly opened: Opened };

export class Supervisor implements Host {
  readonly inbox = new Inbox();
  readonly #closing = new AbortController();
  readonly #closed: Promise<Next>;
  #connection: Connection | undefined;
  readonly #draining = new Set<Promise<void>>();
  #over: BatonqError | undefined;
  #life: Promise<void> | undefined;

  constructor(
    readonly session: Session,
    private readonly dialer: Dialer,
    private readonly watcher: Watcher,
    private readonly reconnect: { readonly minMs: number; readonly maxMs: number },
  ) {
    this.#closed = new Promise((resolve) => {
      this.#closing.signal.addEventListener('abort', () => resolve({ kind: 'closed' }), { once: true });
    });
    session.onControl = () => this.#controlled();
  }

  /** Why the client can not be used any more. */
  get over(): BatonqError | undefined {
    return this.#over;
  }

  /** Tries each address once; from then on it stays connected by itself. */
  async start(): Promise<void> {
    const opened = await this.dialer.round(this.session.id, this.#closing.signal);
    this.#connect(opened);
    this.#life = this.#live();
  }

  /** Takes a call over. */
  submit(call: Call): void {
    if (this.#over !== undefined) return call.reject(this.#over);
    this.inbox.push(call);
    this.#connection?.pump();
  }

  again(call: Call): void {
    setTimeout(() => this.submit(call), call.pauses.next(Math.random()));
  }

  wrote(): void {
    this.watcher.wrote();
  }

  /** Gives back the jobs that are held, and closes the connection. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#life;
  }

  #connect(opened: Opened): void {
    // Whoever asks about the node is told of the one that says welcome here.
    this.#connection = new Connection(opened, this);
    this.watcher.connected(opened);
    this.#connection.pump();
  }

  #controlled(): void {
    if (this.#connection !== undefined) return void queueMicrotask(() => this.#connection?.pump());
    // Without a connection nothing is delivered: a subscription just ends.
    const kept = this.session.controls.splice(0).filter((control) => {
      if (control.kind !== 'unsubscribe') return true;
      this.session.unsubscribed(control.key);
      control.done();
      return false;
    });
    this.session.controls.push(...kept);
  }

  async #live(): Promise<void> {
    const error = await this.#keepConnected().catch(asBatonqError);
    this.#over = error;
    this.#closing.abort();
    // No other node lets the client in, and this one goes away.
    if (this.#connection !== undefined) await this.#leave(this.#connection);
    await Promise.all(this.#draining);
    this.session.end(error);
    for (let call = this.inbox.take(); call !== undefined; call = this.inbox.take()) call.closed(error);
    this.watcher.over(error);
  }

  /** Answers why there will be no more connections. */
  async #keepConnected(): Promise<BatonqError> {
    const pauses = new Pauses(this.reconnect.minMs, this.reconnect.maxMs);
    for (;;) {
      const connection = this.#connection;
      if (connection === undefined) return closed();
      const begunAt = performance.now();
      let next = await Promise.race([this.#closed, lostOf(connection), goesAwayOf(connection)]);
      let dialing: Promise<Opened> | undefined;
      if (next.kind === 'goesAway') {
        this.watcher.goingAway(next.reason);
        dialing = this.#dial(pauses);
        const opened = dialing.then((opened): Next => ({ kind: 'opened', opened }));
        // Jobs that run can still be settled here, and there may be no other node.
        next = await Promise.race([this.#closed, lostOf(connection), opened]);
      }
      if (next.kind === 'closed') {
        dialing?.catch(() => {});
        return this.#leave(connection);
      }
      if (next.kind === 'opened') {
        this.#connect(next.opened);
        this.#drain(connection);
        continue;
      }
      this.#lose(connection, next.kind === 'lost' ? next.reason : '');
      if (performance.now() - begunAt > this.reconnect.maxMs) pauses.reset();
      this.#connect(await this.#reopen(dialing ?? this.#dial(pauses), connection.graceMs));
    }
  }

  async #leave(connection: Connection): Promise<BatonqError> {
    await connection.leave();
    this.#connection = undefined;
    const error = closed();
    for (const call of connection.takePending('the client was closed')) call.closed(error);
    return error;
  }

  #lose(connection: Connection, reason: string): void {
    this.#connection = undefined;
    this.inbox.putBack(connection.takePending(reason));
    this.watcher.disconnected(reason);
  }

  #drain(connection: Connection): void {
    const drained = connection.drain(this.#closed).then(() => {
      this.#draining.delete(drained);
      for (const call of connection.takePending('the node went away')) this.submit(call);
    });
    this.#draining.add(drained);
  }

  /** Waits for another connection; leases that none takes up in time are lost. */
  async #reopen(dialing: Promise<Opened>, graceMs: number): Promise<Opened> {
    const grace = setTimeout(() => this.session.loseAll(), graceMs);
    try {
      return await dialing;
    } finally {
      clearTimeout(grace);
    }
  }

  /**
   * Tries until a node lets the client in, or will never.
   *
   * It pauses first: many clients lose the same node at once, and a node may let clients in only to
   * send them away.
   */
  async #dial(pauses: Pauses): Promise<Opened> {
    const { signal } = this.#closing;
    for (;;) {
      await sleep(pauses.next(Math.random()), signal);
      try {
        return await this.dialer.round(this.session.id, signal);
      } catch (thrown) {
        const error = asBatonqError(thrown);
        if (signal.aborted) throw closed();
        if (forbidsConnecting(error)) throw error;
        this.watcher.notConnected(error);
      }
    }
  }
}

async function lostOf(connection: Connection): Promise<Next> {
  return { kind: 'lost', reason: await connection.lost };
}

async function goesAwayOf(connection: Connection): Promise<Next> {
  return { kind: 'goesAway', reason: await connection.goesAway };
}

/** Sleeps, unless the client is closed meanwhile. */
function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(closed());
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(closed());
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}

export function closed(): BatonqError {
  return new BatonqError('CLOSED', 'the client was closed');
}
