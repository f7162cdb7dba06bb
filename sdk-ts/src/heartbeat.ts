/** When to be heard, and when the node has not been heard for too long. Times are milliseconds. */

import type { Welcome } from './messages.js';

/** What a node that names no time gets, and the least that is kept to. */
const INTERVAL_MS = 5000;
const TIMEOUT_MS = 15_000;
const INTERVAL_MIN_MS = 5;

export type Beat = 'ping' | 'wait' | 'dead';

export class Heartbeat {
  readonly intervalMs: number;
  readonly timeoutMs: number;
  #nextPing: number;
  #heardAt: number;

  constructor(welcome: Pick<Welcome, 'heartbeatIntervalMs' | 'heartbeatTimeoutMs'>, now: number) {
    this.intervalMs = Math.max(welcome.heartbeatIntervalMs || INTERVAL_MS, INTERVAL_MIN_MS);
    this.timeoutMs = Math.max(welcome.heartbeatTimeoutMs || TIMEOUT_MS, this.intervalMs);
    this.#nextPing = now + this.intervalMs;
    this.#heardAt = now;
  }

  /** Something came from the node. */
  heard(now: number): void {
    this.#heardAt = now;
  }

  /** When to ask for the next beat. */
  next(): number {
    return Math.min(this.#nextPing, this.#heardAt + this.timeoutMs);
  }

  beat(now: number): Beat {
    if (now >= this.#heardAt + this.timeoutMs) return 'dead';
    if (now < this.#nextPing) return 'wait';
    this.#nextPing = now + this.intervalMs;
    return 'ping';
  }
}
