/**
 * Settles what a worker's handlers have done, as many jobs at once as there are: while one batch is
 * on its way, the next one gathers.
 *
 * What may have been lost on the way is repeated, which is safe: the same settlement with the same
 * lease is answered in the same way. A result that the node refuses for good, being too large for
 * example, becomes a failure, so that the job does not stay in the hands of a worker that is done.
 */

import type { Client } from './client.js';
import { encodeResult } from './data.js';
import { asBatonqError, type BatonqError } from './error.js';
import { Failure, failureOf } from './failure.js';
import type { Job } from './job.js';
import { Pauses } from './pauses.js';
import type { Settled } from './settle.js';

const BATCH_MAX = 500;
/** Bytes of results in one frame; the frame holds everything else too. */
const BATCH_BYTES_MAX = 3 * 1024 * 1024;
const TRIES_MAX = 10;
const PAUSE_MIN_MS = 50;
const PAUSE_MAX_MS = 5000;

/** What became of a job in its handler. */
export type Outcome =
  | { readonly kind: 'ack'; readonly result: Uint8Array }
  | { readonly kind: 'fail'; readonly failure: Failure }
  | { readonly kind: 'snooze'; readonly delayMs: number };

/** How it was settled; an error: it was not. */
export type Told = (outcome: Outcome, error: BatonqError | undefined) => void;

interface Settlement {
  readonly job: Job;
  outcome: Outcome;
  readonly told: Told;
}

/** The outcome of a handler that has returned this. */
export function ackOf(returned: unknown): Outcome {
  try {
    return { kind: 'ack', result: encodeResult(returned) };
  } catch (error) {
    return { kind: 'fail', failure: failureOf(error) };
  }
}

export class Settler {
  #waiting: Settlement[] = [];
  #running: Promise<void> | undefined;

  constructor(private readonly client: Client) {}

  /** Settles a job, together with those that are there by then. */
  settle(job: Job, outcome: Outcome, told: Told): void {
    this.#waiting.push({ job, outcome, told });
    this.#running ??= this.#run();
  }

  /** Resolves once all is settled, or given up. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  async #run(): Promise<void> {
    // Handlers that are woken by the same read end together: let them.
    await new Promise<void>((resolve) => process.nextTick(resolve));
    while (this.#waiting.length > 0) await this.#settleAll(this.#take());
    this.#running = undefined;
  }

  #take(): Settlement[] {
    let bytes = 0;
    let count = 0;
    for (const { outcome } of this.#waiting) {
      bytes += outcome.kind === 'ack' ? outcome.result.length : 0;
      if (count === BATCH_MAX || (count > 0 && bytes > BATCH_BYTES_MAX)) break;
      count += 1;
    }
    return this.#waiting.splice(0, count);
  }

  async #settleAll(batch: Settlement[]): Promise<void> {
    const pauses = new Pauses(PAUSE_MIN_MS, PAUSE_MAX_MS);
    let left: [Settlement, BatonqError][] = await this.#settleOnce(batch);
    for (let tries = 1; left.length > 0 && tries < TRIES_MAX; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, pauses.next(Math.random())));
      left = left.filter(([settlement, error]) => !isLost(settlement, error));
      left = await this.#settleOnce(left.map(([settlement]) => settlement));
    }
    for (const [{ outcome, told }, error] of left) told(outcome, error);
  }

  /** What must be tried again, and why. */
  async #settleOnce(batch: Settlement[]): Promise<[Settlement, BatonqError][]> {
    const acks: Settlement[] = [];
    const fails: Settlement[] = [];
    const snoozes = new Map<number, Settlement[]>();
    for (const settlement of batch) {
      const { outcome } = settlement;
      if (outcome.kind === 'ack') acks.push(settlement);
      else if (outcome.kind === 'fail') fails.push(settlement);
      else snoozes.set(outcome.delayMs, [...(snoozes.get(outcome.delayMs) ?? []), settlement]);
    }
    const again = await Promise.all([
      judged(acks, () => this.client.ackBatch(acks.map(ackOfSettlement))),
      judged(fails, () => this.client.failBatch(fails.map(failOfSettlement))),
      ...[...snoozes].map(([delayMs, some]) =>
        judged(some, () => this.client.releaseBatch(some.map(({ job }) => job), { delayMs: Math.max(1, delayMs) })),
      ),
    ]);
    return again.flat();
  }
}

function ackOfSettlement({ job, outcome }: Settlement): { lease: Job; result: unknown } {
  return { lease: job, result: outcome.kind === 'ack' ? outcome.result : undefined };
}

function failOfSettlement({ job, outcome }: Settlement): {
  lease: Job;
  code: string;
  message: string;
  retryInMs: number | undefined;
  reject: boolean;
} {
  const failure = outcome.kind === 'fail' ? outcome.failure : new Failure('ERROR', '');
  const { code, message, retryInMs, reject } = failure;
  return { lease: job, code, message, retryInMs, reject };
}

/** Settles some, tells what came of it, and answers what must be tried again. */
async function judged(
  batch: Settlement[],
  settle: () => Promise<Settled[]>,
): Promise<[Settlement, BatonqError][]> {
  if (batch.length === 0) return [];
  let settled: Settled[];
  try {
    settled = await settle();
  } catch (thrown) {
    const error = asBatonqError(thrown);
    settled = batch.map(() => ({ ok: false, error }));
  }
  const again: [Settlement, BatonqError][] = [];
  batch.forEach((settlement, place) => {
    const result = settled[place];
    if (result === undefined) return;
    const error = result.ok ? undefined : result.error;
    if (error === undefined || !isToBeRepeated(settlement, error)) settlement.told(settlement.outcome, error);
    else again.push([settlement, error]);
  });
  return again;
}

/** Whether there is use in another try; a result that is refused for good becomes a failure. */
function isToBeRepeated(settlement: Settlement, error: BatonqError): boolean {
  if (error.retryable || error.code === 'OUTCOME_UNKNOWN') return true;
  const isFinal = ['LEASE_LOST', 'NOT_FOUND', 'CLOSED', 'FORBIDDEN', 'UNAUTHENTICATED'].includes(error.code);
  if (isFinal || settlement.outcome.kind !== 'ack') return false;
  settlement.outcome = { kind: 'fail', failure: failureOf(error) };
  return true;
}

/** Tells of a lease that was lost meanwhile. */
function isLost({ job, outcome, told }: Settlement, error: BatonqError): boolean {
  if (job.isLost) told(outcome, error);
  return job.isLost;
}
