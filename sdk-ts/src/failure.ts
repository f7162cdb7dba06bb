/** What a handler throws when it could not do the work. */

import { BatonqError } from './error.js';

const CODE = /^[A-Z][A-Z0-9_]{0,63}$/;

/** Why an attempt failed, with what is to follow from it. Any other error is one with the code `ERROR`. */
export class Failure extends Error {
  override readonly name = 'Failure';
  /** A word for machines, as `PAYMENT_DECLINED`, of 1 to 64 bytes. */
  readonly code: string;
  /** Overrides the job's backoff for this failure, in milliseconds. */
  readonly retryInMs: number | undefined;
  /** No more attempts: the job is dead. */
  readonly reject: boolean;

  constructor(
    code: string,
    message: string,
    options: { retryInMs?: number | undefined; reject?: boolean | undefined; cause?: unknown } = {},
  ) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.retryInMs = options.retryInMs;
    this.reject = options.reject ?? false;
  }
}

/** Not a failure at all: the job shall be done later, and no attempt is charged. */
export class Snooze extends Error {
  override readonly name = 'Snooze';

  constructor(readonly delayMs: number) {
    super(`not before ${delayMs} ms from now`);
  }
}

/**
 * What is told of something that a handler threw: its code, if it has one that looks like ours, as
 * those of Node.js do.
 */
export function failureOf(thrown: unknown): Failure {
  if (thrown instanceof Failure) return thrown;
  if (!(thrown instanceof Error)) return new Failure('ERROR', String(thrown), { cause: thrown });
  const code: unknown = 'code' in thrown ? thrown.code : undefined;
  const word = typeof code === 'string' && CODE.test(code) ? code : 'ERROR';
  const text = thrown instanceof BatonqError ? thrown.message : (thrown.stack ?? String(thrown));
  return new Failure(word, text, { cause: thrown });
}
