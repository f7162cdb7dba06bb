/**
 * What jobs carry: bytes with a content type. JSON is made and read by itself, bytes pass as they are.
 */

import { BatonqError } from './error.js';

const NOTHING = new Uint8Array(0);
const BYTES = 'application/octet-stream';
const decoder = new TextDecoder('utf-8', { fatal: true });

/**
 * The payload of a job, and its content type; empty stands for JSON.
 *
 * @throws BatonqError `INVALID` if there is no JSON for the data.
 */
export function encodeData(data: unknown, contentType = ''): { payload: Uint8Array; contentType: string } {
  if (data instanceof Uint8Array) return { payload: data, contentType: contentType || BYTES };
  return { payload: encodeJson(data === undefined ? null : data, 'payload'), contentType };
}

/** The result of a job: nothing for `undefined`, JSON, or bytes as they are. */
export function encodeResult(result: unknown): Uint8Array {
  if (result === undefined) return NOTHING;
  if (result instanceof Uint8Array) return result;
  return encodeJson(result, 'result');
}

/**
 * What a payload holds: JSON is read, anything else stays bytes.
 *
 * @throws BatonqError `INVALID` if it is said to be JSON and is not.
 */
export function decodeData(payload: Uint8Array, contentType: string): unknown {
  if (!isJson(contentType)) return payload;
  try {
    return JSON.parse(decoder.decode(payload)) as unknown;
  } catch (error) {
    throw new BatonqError('INVALID', `the payload is no JSON: ${String(error)}`, { field: 'payload', cause: error });
  }
}

/** What a result holds: nothing, JSON, or the bytes of anything else. */
export function decodeResult(result: Uint8Array): unknown {
  if (result.length === 0) return undefined;
  try {
    return JSON.parse(decoder.decode(result)) as unknown;
  } catch {
    return result;
  }
}

function isJson(contentType: string): boolean {
  const [type = ''] = contentType.split(';', 1);
  return type === '' || type.trim() === 'application/json' || type.trim().endsWith('+json');
}

function encodeJson(value: unknown, field: string): Uint8Array {
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw new BatonqError('INVALID', `no JSON for it: ${String(error)}`, { field, cause: error });
  }
  if (text === undefined) throw new BatonqError('INVALID', `no JSON for a ${typeof value}`, { field });
  return Buffer.from(text);
}
