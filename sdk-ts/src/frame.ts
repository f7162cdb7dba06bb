/**
 * Frames: a length of four bytes, big endian, and an envelope. `protocol/src/lib.rs` has the picture.
 *
 * A frame cut anywhere waits for the rest; what can not be a frame is refused on its length, before
 * anything is kept for it. Payloads are not copied: they point into the bytes that were read.
 */

import { Envelope } from './messages.js';

/** What a client sends first: the name, a zero, and the version of the framing. */
export const PREFACE = Uint8Array.of(0x42, 0x41, 0x54, 0x4f, 0x4e, 0x51, 0x00, 0x01);

/** The largest envelope, in bytes, unless a node allows less. */
export const FRAME_BYTES_MAX = 4 * 1024 * 1024;

/** The version of the messages that this client speaks. */
export const VERSION = 1;

const LENGTH_BYTES = 4;

/** Why the bytes of a node can not be understood any further. */
export class FrameError extends Error {}

/** Gathers what was read and takes envelopes out of it. */
export class FrameReader {
  #chunks: Buffer[] = [];
  #length = 0;

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /**
   * The next envelope, if all of it is there.
   *
   * @throws FrameError if the bytes are no frame.
   */
  next(): Envelope | undefined {
    if (this.#length < LENGTH_BYTES) return undefined;
    const length = this.#announced();
    if (length === 0) throw new FrameError('empty frame');
    if (length > FRAME_BYTES_MAX) throw new FrameError(`frame of ${length} bytes`);
    if (this.#length < LENGTH_BYTES + length) return undefined;
    const bytes = this.#whole();
    const end = LENGTH_BYTES + length;
    this.#chunks = bytes.length > end ? [bytes.subarray(end)] : [];
    this.#length -= end;
    try {
      return Envelope.decode(bytes.subarray(LENGTH_BYTES, end));
    } catch (error) {
      throw new FrameError(`no envelope: ${String(error)}`);
    }
  }

  #announced(): number {
    const [first] = this.#chunks;
    if (first !== undefined && first.length >= LENGTH_BYTES) return first.readUInt32BE(0);
    return this.#whole().readUInt32BE(0);
  }

  /** All that is there, in one piece. */
  #whole(): Buffer {
    const [first, ...rest] = this.#chunks;
    if (first !== undefined && rest.length === 0) return first;
    const whole = Buffer.concat(this.#chunks, this.#length);
    this.#chunks = [whole];
    return whole;
  }
}

/** The bytes of an envelope, without the length before it. */
export function encodeEnvelope(envelope: Envelope): Uint8Array {
  return Envelope.encode(envelope).finish();
}

/** Frames of these envelopes, one behind the other. */
export function frames(bodies: readonly Uint8Array[]): Buffer {
  let length = 0;
  for (const body of bodies) length += LENGTH_BYTES + body.length;
  const bytes = Buffer.allocUnsafe(length);
  let at = 0;
  for (const body of bodies) {
    at = bytes.writeUInt32BE(body.length, at);
    bytes.set(body, at);
    at += body.length;
  }
  return bytes;
}
