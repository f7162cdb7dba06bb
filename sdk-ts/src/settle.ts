/** Ending leases, or keeping them: what is said of a lease, and what the node answers. */

import { BatonqError, errorOf, unexpected } from './error.js';
import { encodeResult } from './data.js';
import { leaseBytes, type Job, type Lease } from './job.js';
import type { AckItem, FailItem, SettleResult } from './messages.js';
import { SettleStatus } from './messages.js';

/** A job that this client holds, or its lease. */
export type LeaseLike = Lease | Job<never> | Job;

/** Why an attempt went wrong. */
export interface FailOptions {
  /** A word for machines, as `PAYMENT_DECLINED`, of 1 to 64 bytes; `ERROR` unless given. */
  code?: string | undefined;
  /** For people; cut after 8 KiB. */
  message?: string | undefined;
  /** Overrides the job's backoff for this failure, in milliseconds. */
  retryInMs?: number | undefined;
  /** No more attempts: the job is dead, with the reason REJECTED. */
  reject?: boolean | undefined;
}

/** One of many that are acked at once. */
export interface Ack {
  readonly lease: LeaseLike;
  /** Kept with the job. */
  readonly result?: unknown;
}

/** One of many that failed. */
export interface Fail extends FailOptions {
  readonly lease: LeaseLike;
}

/** What came of one of many. */
export type Settled = { readonly ok: true } | { readonly ok: false; readonly error: BatonqError };

export function leaseOf(lease: LeaseLike): Lease {
  return typeof lease === 'string' ? lease : lease.lease;
}

export function ackItem({ lease, result }: Ack): AckItem {
  return { lease: leaseBytes(leaseOf(lease)), result: encodeResult(result) };
}

export function failItem({ lease, code, message, retryInMs, reject }: Fail): FailItem {
  return {
    lease: leaseBytes(leaseOf(lease)),
    code: code ?? 'ERROR',
    message: message ?? '',
    retryInMs: retryInMs === undefined ? undefined : wholeMs(retryInMs, 'retryInMs'),
    reject: reject ?? false,
  };
}

/** What the node says of each, if it says as much as it was asked. */
export function settledOf(results: readonly SettleResult[], count: number): Settled[] {
  if (results.length !== count) throw unexpected('settled');
  return results.map((result) => {
    const error = refusalOf(result);
    return error === undefined ? { ok: true } : { ok: false, error };
  });
}

/** The answer to a call about one lease. */
export function one(settled: readonly Settled[]): void {
  const [first] = settled;
  if (first === undefined) throw unexpected('settled');
  if (!first.ok) throw first.error;
}

function refusalOf({ error, status }: SettleResult): BatonqError | undefined {
  if (error !== undefined) return errorOf(error);
  switch (status) {
    case SettleStatus.OK:
      return undefined;
    case SettleStatus.LEASE_LOST:
      return new BatonqError('LEASE_LOST', 'the lease is no longer held', { field: 'lease' });
    case SettleStatus.UNKNOWN:
      return new BatonqError('NOT_FOUND', 'nothing is known of this job', { field: 'lease' });
    default:
      return unexpected('settled');
  }
}

/**
 * A duration for the wire; what is below a millisecond is rounded up, so that it does not become
 * nothing.
 *
 * @throws BatonqError `INVALID` if it is no duration.
 */
export function wholeMs(ms: number, field: string): number {
  const whole = Math.ceil(ms);
  if (!Number.isSafeInteger(whole) || whole < 0) {
    throw new BatonqError('INVALID', `not a number of milliseconds: ${ms}`, { field });
  }
  return whole;
}
