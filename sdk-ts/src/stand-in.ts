/**
 * Keeps the leases while the event loop is blocked.
 *
 * A node that hears nothing from a client for its heartbeat timeout gives the client's jobs to others.
 * Node.js sends nothing while a handler computes. So a thread watches this one: if it has been silent
 * for too long, the thread connects with the client's session and gives the signs of life, until this
 * thread is back and takes the session over again. What happens meanwhile to the jobs is told then.
 */

import { Worker as Thread } from 'node:worker_threads';

import type { Address } from './address.js';
import type { Opened, Visitor } from './dial.js';
import { Heartbeat } from './heartbeat.js';

/** What the thread is told: a session to watch over, or (without one) nothing to watch. */
export interface Watched {
  readonly session: string;
  readonly address: Address;
  /** After so long a silence it stands in. */
  readonly silentMs: number;
  readonly pingMs: number;
}

/** What the thread starts with. */
export interface ThreadData {
  readonly visitor: Visitor;
  /** Counts the signs of life of the client's own thread. */
  readonly signs: SharedArrayBuffer;
}

/** What the thread tells. */
export type ThreadNotice =
  | { readonly kind: 'stoodIn' }
  | { readonly kind: 'cancelRequested'; readonly leases: readonly string[] };

export class StandIn {
  readonly #signs = new Int32Array(new SharedArrayBuffer(4));
  #isStarted = false;
  #thread: Thread | undefined;
  #watched: Watched | undefined;

  constructor(
    private readonly visitor: Visitor,
    private readonly notice: (notice: ThreadNotice) => void,
  ) {}

  /** Starts the thread, once. Where there can be none, in a bundle for example, it says so and goes on. */
  start(): void {
    if (this.#isStarted) return;
    this.#isStarted = true;
    const workerData: ThreadData = { visitor: this.visitor, signs: this.#signs.buffer as SharedArrayBuffer };
    const options = { workerData, execArgv: [], name: 'batonq-stand-in' };
    try {
      this.#thread = new Thread(new URL('./stand-in-thread.js', import.meta.url), options);
    } catch (error) {
      return warn(error);
    }
    this.#thread.on('error', warn);
    this.#thread.on('message', (notice: ThreadNotice) => this.notice(notice));
    this.#thread.unref();
    this.#thread.postMessage(this.#watched);
  }

  /** The client gives a sign of life. */
  sign(): void {
    Atomics.add(this.#signs, 0, 1);
  }

  /** The client is connected. */
  watch({ welcome, address }: Opened): void {
    const { intervalMs, timeoutMs } = new Heartbeat(welcome, 0);
    const silentMs = intervalMs + (timeoutMs - intervalMs) / 2;
    this.#watched = { session: welcome.session, address, silentMs, pingMs: intervalMs };
    this.#thread?.postMessage(this.#watched);
  }

  /** The client knows that it is not connected. */
  rest(): void {
    this.#watched = undefined;
    this.#thread?.postMessage(undefined);
  }

  async stop(): Promise<void> {
    await this.#thread?.terminate();
  }
}

function warn(error: unknown): void {
  const text = `leases are not kept while the event loop is blocked: ${String(error)}`;
  process.emitWarning(text, { type: 'BatonqWarning', code: 'BATONQ_NO_STAND_IN' });
}
