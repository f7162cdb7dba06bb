/**
 * What can go wrong with a call, by what the caller should do about it.
 *
 * There is one class of errors. A program branches on `code` and `retryable`; `message` is for people.
 */

import type { Error as WireError } from './messages.js';
import { ErrorCode as WireCode } from './messages.js';

/** What a node may answer, and whether nothing was done and the same call may succeed later. */
const NODE_CODES = {
  INVALID: false,
  UNAUTHENTICATED: false,
  FORBIDDEN: false,
  NOT_FOUND: false,
  LEASE_LOST: false,
  WRONG_STATE: false,
  DUPLICATE: false,
  PAYLOAD_TOO_LARGE: false,
  RATE_LIMITED: true,
  OVERLOADED: true,
  UNAVAILABLE: true,
  OUTCOME_UNKNOWN: false,
  INTERNAL: false,
  UNSUPPORTED_VERSION: false,
  FRAMING: false,
} as const;

/** What the client finds out by itself, in the same way. */
const CLIENT_CODES = {
  /** No answer in time. Nothing was changed. */
  TIMEOUT: true,
  /** The connection was lost. Nothing was changed. */
  DISCONNECTED: true,
  /** No node let the client in. */
  UNREACHABLE: true,
  /** The client was closed, or never connected. */
  CLOSED: false,
  /** The caller's signal fired. What was sent before is not recalled. */
  ABORTED: false,
  /** No address can be read from the options. */
  ADDRESS: false,
  /** The node does not keep to the protocol. */
  PROTOCOL: false,
  /** Somebody has asked for the end of the job. Only as the reason of a job's signal. */
  CANCEL_REQUESTED: false,
  /** The attempt has run as long as its job allows. Only as the reason of a job's signal. */
  ATTEMPT_TIMEOUT: false,
} as const;

/** The codes of the protocol. `docs/codes.md` says what each means. */
export type NodeErrorCode = keyof typeof NODE_CODES;

/** The codes of what the client finds out by itself. */
export type ClientErrorCode = keyof typeof CLIENT_CODES;

/** What to branch on. */
export type ErrorCode = NodeErrorCode | ClientErrorCode;

/** The node's codes, and which of them are retryable. */
export const nodeCodes: Readonly<Record<NodeErrorCode, boolean>> = NODE_CODES;

/** Why a call failed. */
export class BatonqError extends Error {
  override readonly name = 'BatonqError';
  /** What to branch on. */
  readonly code: ErrorCode;
  /**
   * Whether nothing was changed and the same call may succeed later.
   *
   * `OUTCOME_UNKNOWN` is not retryable: it may or may not be done. Settling may be repeated
   * nevertheless, and so may a push with an idempotency key; the client does both by itself.
   */
  readonly retryable: boolean;
  /** The field to blame, if the node named one. */
  readonly field: string | undefined;

  constructor(code: ErrorCode, detail: string, options: { field?: string; cause?: unknown } = {}) {
    super(`${code}: ${detail}`, 'cause' in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.retryable = code in NODE_CODES ? NODE_CODES[code as NodeErrorCode] : CLIENT_CODES[code as ClientErrorCode];
    this.field = options.field;
  }
}

/** An answer that says no, as an error. A code of a newer node counts as INTERNAL. */
export function errorOf(wire: WireError): BatonqError {
  const name = WireCode[wire.code] ?? 'INTERNAL';
  const code = name in NODE_CODES ? (name as NodeErrorCode) : 'INTERNAL';
  return new BatonqError(code, wire.detail, wire.field === '' ? {} : { field: wire.field });
}

/** An answer that does not belong to the question. */
export function unexpected(what: string): BatonqError {
  return new BatonqError('PROTOCOL', `unexpected answer: ${what}`);
}

/** Whether a node will never let this client in as it is. */
export function forbidsConnecting(error: BatonqError): boolean {
  return ['UNAUTHENTICATED', 'UNSUPPORTED_VERSION', 'FORBIDDEN', 'INVALID'].includes(error.code);
}

/** What is thrown to whoever catches nothing of ours: always a BatonqError. */
export function asBatonqError(error: unknown): BatonqError {
  if (error instanceof BatonqError) return error;
  return new BatonqError('PROTOCOL', String(error), { cause: error });
}
