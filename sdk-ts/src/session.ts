/**
 * What outlives a connection: the leases held and the subscriptions.
 *
 * A node holds leases for a session, and says at each new connection which it still holds. A new
 * connection knows nothing of the jobs that came by an earlier one, so they are subtracted from the
 * credit that is asked for at first, and added again when they are settled.
 */

import type { BatonqError } from './error.js';
import { Fate } from './fate.js';
import { Job, leaseText, type Settling } from './job.js';
import type { LeasedJob, Limits, SettleResult, Welcome } from './messages.js';
import { Limits as LimitsMessage, SettleStatus } from './messages.js';
import type { Message } from './call.js';

/** The node that a client is connected to, and what it allows. */
export interface NodeInfo {
  /** The node's name. */
  readonly nodeId: string;
  /** The version of its program. */
  readonly serverVersion: string;
  /** The protocol version that is spoken. */
  readonly protocolVersion: number;
  /** The session that holds this client's leases: a number, as text. */
  readonly session: string;
  /** What one frame, batch, payload, wait may be. */
  readonly limits: Readonly<Limits>;
}

/** Who gets the jobs of a subscription. */
export interface Feed {
  deliver(jobs: Job[]): void;
  /** There will be no more, for `reason` if it was not the client's wish. */
  end(reason: BatonqError | undefined): void;
}

/** What is to be said without anybody who waits for an answer. */
export type Control =
  /** Give these jobs back unharmed. */
  | { readonly kind: 'release'; readonly leases: readonly string[] }
  /** End a subscription; `done` once nothing more is delivered. */
  | { readonly kind: 'unsubscribe'; readonly key: number; readonly done: () => void }
  /** A subscription may take more jobs: see {@link Session.renewals}. */
  | { readonly kind: 'renew' };

/** A question that sets up a subscription again, or returns credit to it. */
export interface Renewal {
  readonly key: number;
  readonly wire: number;
  readonly message: Message;
}

interface Held {
  readonly fate: Fate;
  /** Absent: it was pulled. */
  readonly origin: Origin | undefined;
}

/** Which subscription a job came by, and the request id of the Subscribe it was delivered for. */
export interface Origin {
  readonly key: number;
  readonly wire: number;
}

interface Subscribed {
  readonly queue: string;
  readonly credit: number;
  readonly feed: Feed;
  /** How far it is set up on the present connection. */
  wire: { state: 'absent' } | { state: 'asked' | 'live'; id: number };
  /** Jobs of an earlier connection that were settled on this one: the node does not count them. */
  owed: number;
}

export class Session {
  /** The number to name in Hello; "0" before the first connection. */
  id = '0';
  node: NodeInfo | undefined;
  /** What waits to be said. */
  readonly controls: Control[] = [];
  /** Called when there is something to be said. */
  onControl: () => void = () => {};
  /** Called when the session holds its first lease. */
  onHold: () => void = () => {};

  #requestIds = 1;
  #leases = new Map<string, Held>();
  #subscriptions = new Map<number, Subscribed>();

  constructor(private readonly settling: Settling) {}

  /** Unique among all connections, so that it can tell subscriptions of one from another's. */
  nextRequestId(): number {
    this.#requestIds += 1;
    return this.#requestIds;
  }

  control(control: Control): void {
    this.controls.push(control);
    this.onControl();
  }

  /**
   * Begins a connection: drops the leases that the node does not list, and returns those that it
   * lists and nobody here holds.
   */
  welcome(welcome: Welcome): string[] {
    this.id = welcome.session;
    this.node = {
      nodeId: welcome.nodeId,
      serverVersion: welcome.serverVersion,
      protocolVersion: welcome.version,
      session: welcome.session,
      limits: welcome.limits ?? LimitsMessage.create(),
    };
    const kept = new Map<string, Held>();
    const unknown: string[] = [];
    for (const bytes of welcome.resumed ? welcome.leases : []) {
      const lease = leaseText(bytes);
      const held = this.#leases.get(lease);
      if (held === undefined) unknown.push(lease);
      else kept.set(lease, held);
      this.#leases.delete(lease);
    }
    const lost = this.#leases;
    this.#leases = kept;
    for (const subscription of this.#subscriptions.values()) {
      subscription.wire = { state: 'absent' };
      subscription.owed = 0;
    }
    for (const held of lost.values()) held.fate.lose();
    return unknown;
  }

  /** Notes the leases of jobs that arrived by a subscription, or by a pull. */
  hold(jobs: readonly LeasedJob[], queue: string, origin?: Origin): Job[] {
    if (jobs.length > 0) this.onHold();
    return jobs.map((leased) => {
      const fate = new Fate();
      const job = new Job(leased, queue, fate, this.settling);
      this.#leases.set(job.lease, { fate, origin });
      return job;
    });
  }

  /** Notes leases again that were given up for lost, and are not. */
  holdAgain(leases: readonly string[]): void {
    for (const lease of leases) this.#leases.set(lease, { fate: new Fate(), origin: undefined });
  }

  /** Jobs whose leases end by themselves, whatever becomes of the session. */
  pass(jobs: readonly LeasedJob[], queue: string): Job[] {
    return jobs.map((leased) => new Job(leased, queue, new Fate(), this.settling));
  }

  /** Forgets the leases that the node's answer ended. */
  settled(leases: readonly string[], results: readonly SettleResult[], endsLeases: boolean): void {
    leases.forEach((lease, place) => {
      const result = results[place];
      if (result === undefined || result.error !== undefined) return;
      const wasHeld = result.status === SettleStatus.OK;
      if (wasHeld && !endsLeases) {
        if (result.cancelForceAtMs !== undefined) this.cancel([lease]);
        return;
      }
      const held = this.#forget(lease);
      if (!wasHeld) held?.fate.lose();
    });
  }

  /** The node took these leases away, or the client gives them up. */
  lose(leases: readonly string[]): void {
    for (const lease of leases) this.#forget(lease)?.fate.lose();
  }

  /** Somebody asks for the end of these jobs. */
  cancel(leases: readonly string[]): void {
    for (const lease of leases) this.#leases.get(lease)?.fate.cancel();
  }

  /** Loses all leases, and returns them in case the node can still be told. */
  loseAll(): string[] {
    const lost = this.#leases;
    this.#leases = new Map();
    for (const held of lost.values()) held.fate.lose();
    return [...lost.keys()];
  }

  /** The client is over: no more jobs for anyone. */
  end(error: BatonqError): void {
    this.loseAll();
    const ended = [...this.#subscriptions.values()];
    this.#subscriptions.clear();
    for (const subscription of ended) subscription.feed.end(error);
    for (const control of this.controls.splice(0)) if (control.kind === 'unsubscribe') control.done();
  }

  /** Notes a subscription that is being asked for with request id `wire`. Its key. */
  subscribe(queue: string, credit: number, feed: Feed, wire: number): number {
    this.#subscriptions.set(wire, { queue, credit, feed, wire: { state: 'asked', id: wire }, owed: 0 });
    return wire;
  }

  /** The node agreed to a Subscribe. */
  subscribed(key: number, wire: number): void {
    const subscription = this.#subscriptions.get(key);
    if (subscription === undefined) return;
    if (subscription.wire.state === 'asked' && subscription.wire.id === wire) {
      subscription.wire = { state: 'live', id: wire };
    }
    if (subscription.owed > 0) this.control({ kind: 'renew' });
  }

  /** The node did not agree now, but may later. */
  notSubscribed(key: number, wire: number): void {
    const subscription = this.#subscriptions.get(key);
    if (subscription?.wire.state === 'asked' && subscription.wire.id === wire) {
      subscription.wire = { state: 'absent' };
    }
  }

  /** Ends a subscription, for `reason` if it was not the client's wish. */
  unsubscribed(key: number, reason?: BatonqError): void {
    const subscription = this.#subscriptions.get(key);
    this.#subscriptions.delete(key);
    subscription?.feed.end(reason);
  }

  /** Forgets a subscription that did not come about; nobody is told. */
  dropSubscription(key: number): void {
    this.#subscriptions.delete(key);
  }

  /** The request id by which the node knows a subscription. */
  wire(key: number): number | undefined {
    const wire = this.#subscriptions.get(key)?.wire;
    return wire === undefined || wire.state === 'absent' ? undefined : wire.id;
  }

  /** The queue of a subscription, and where its jobs go. */
  subscription(key: number): { queue: string; feed: Feed } | undefined {
    return this.#subscriptions.get(key);
  }

  /** What must be asked so that each subscription may take as many jobs as it should. */
  renewals(): Renewal[] {
    const held = new Map<number, number>();
    for (const { origin } of this.#leases.values()) {
      if (origin !== undefined) held.set(origin.key, (held.get(origin.key) ?? 0) + 1);
    }
    const renewals: Renewal[] = [];
    for (const [key, subscription] of this.#subscriptions) {
      const renewal = this.#renewal(key, subscription, held.get(key) ?? 0);
      if (renewal !== undefined) renewals.push(renewal);
    }
    return renewals;
  }

  #renewal(key: number, subscription: Subscribed, held: number): Renewal | undefined {
    if (subscription.wire.state === 'absent') {
      subscription.owed = 0;
      const credit = Math.max(0, subscription.credit - held);
      if (credit === 0) return undefined;
      const wire = this.nextRequestId();
      subscription.wire = { state: 'asked', id: wire };
      return { key, wire, message: { $case: 'subscribe', value: { queue: subscription.queue, credit } } };
    }
    if (subscription.wire.state === 'asked' || subscription.owed === 0) return undefined;
    const credit = subscription.owed;
    subscription.owed = 0;
    const value = { subscription: subscription.wire.id, credit };
    return { key, wire: this.nextRequestId(), message: { $case: 'addCredit', value } };
  }

  /** Forgets a lease, and notes the credit that the node does not return by itself. */
  #forget(lease: string): Held | undefined {
    const held = this.#leases.get(lease);
    if (held === undefined) return undefined;
    this.#leases.delete(lease);
    if (held.origin === undefined) return held;
    const subscription = this.#subscriptions.get(held.origin.key);
    if (subscription === undefined || this.wire(held.origin.key) === held.origin.wire) return held;
    subscription.owed += 1;
    if (subscription.owed === 1) this.control({ kind: 'renew' });
    return held;
  }
}
