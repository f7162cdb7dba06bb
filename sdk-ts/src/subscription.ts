/** Jobs that the node sends by itself, as many as there is credit for. */

import type { BatonqError } from './error.js';
import type { Job, Lease } from './job.js';

/** What a subscription needs of its client. */
export interface Source {
  /** Ends the subscription; resolves once nothing more is delivered. */
  unsubscribe(key: number): Promise<void>;
  /** Gives jobs back unharmed, whenever that is possible. */
  giveBack(leases: readonly Lease[]): void;
}

/**
 * Jobs of one queue, begun with {@link Client.subscribe}.
 *
 * The client holds at most `credit` of its jobs; settling one makes room for another. When the
 * connection is lost, it is set up again by itself. To leave a `for await` over it closes it, which
 * gives the jobs back that were not taken out of it.
 */
export class Subscription<T = unknown> implements AsyncIterableIterator<Job<T>> {
  #here: Job<T>[] = [];
  #waiting: (() => void)[] = [];
  #isOver = false;
  #isClosing = false;
  #closed: Promise<void> | undefined;
  #reason: BatonqError | undefined;
  /** The same, until it was thrown at somebody. */
  #untold: BatonqError | undefined;
  #key: number | undefined;
  readonly #source: Source;
  /**
   * Called when jobs have arrived, or there will be no more.
   * @internal
   */
  onArrival: () => void = () => {};
  /**
   * Called once, when there will be no more jobs.
   * @internal
   */
  onEnd: () => void = () => {};

  /** @internal */
  constructor(source: Source) {
    this.#source = source;
  }

  /** Whether there will be no more jobs but those that are here. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Why there will be no more, if the node or the client's end is the reason. */
  get reason(): BatonqError | undefined {
    return this.#reason;
  }

  /** A job that is here already. */
  take(): Job<T> | undefined {
    return this.#here.shift();
  }

  /**
   * The next job, or that there will be no more.
   *
   * @throws BatonqError why there will be no more, once, unless the subscription or the client was closed.
   */
  async next(): Promise<IteratorResult<Job<T>, undefined>> {
    for (;;) {
      const job = this.take();
      if (job !== undefined) return { done: false, value: job };
      if (this.#isOver) return this.#endOfIteration();
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Closes it; what `for await` does when its loop is left. */
  async return(): Promise<IteratorResult<Job<T>, undefined>> {
    await this.close();
    return { done: true, value: undefined };
  }

  /** Ends it, waits until the node sends no more, and gives the jobs back that were not taken out of it. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#isClosing = true;
    if (this.#key !== undefined && !this.#isOver) await this.#source.unsubscribe(this.#key);
    this.end(undefined);
    const leases = this.#here.splice(0).map((job) => job.lease);
    if (leases.length > 0) this.#source.giveBack(leases);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal */
  begun(key: number): void {
    this.#key = key;
  }

  /** @internal */
  deliver(jobs: Job[]): void {
    if (this.#isClosing) return this.#source.giveBack(jobs.map((job) => job.lease));
    this.#here.push(...(jobs as Job<T>[]));
    this.#wake();
  }

  /** @internal */
  end(reason: BatonqError | undefined): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#reason = reason;
    this.#untold = reason;
    this.onEnd();
    this.#wake();
  }

  #endOfIteration(): IteratorResult<Job<T>, undefined> {
    const reason = this.#untold;
    this.#untold = undefined;
    // Whoever closes the subscription or the client knows it.
    if (reason === undefined || reason.code === 'CLOSED' || this.#isClosing) return { done: true, value: undefined };
    throw reason;
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
    this.onArrival();
  }
}
