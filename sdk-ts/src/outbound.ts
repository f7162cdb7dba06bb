/**
 * Frames on their way to the socket, written as many at once as there are.
 *
 * Frames are kept here until the work of the moment is done, and as long as the socket is full: what
 * was not handed to the socket was not sent for sure.
 */

import type { Socket } from 'node:net';

import { BatonqError } from './error.js';
import { encodeEnvelope, FRAME_BYTES_MAX, frames } from './frame.js';
import type { Envelope } from './messages.js';

/** How many bytes may wait for the socket before no more calls are taken. */
const WAITING_BYTES_MAX = 1024 * 1024;

export class Outbound {
  readonly #socket: Socket;
  readonly #frameBytesMax: number;
  readonly #wrote: () => void;
  #bodies: Uint8Array[] = [];
  #begun: (() => void)[] = [];
  #bytes = 0;
  #isScheduled = false;

  /** `wrote` is called each time that something was handed to the socket. */
  constructor(socket: Socket, frameBytesMax: number, wrote: () => void) {
    this.#socket = socket;
    this.#frameBytesMax = frameBytesMax > 0 ? Math.min(frameBytesMax, FRAME_BYTES_MAX) : FRAME_BYTES_MAX;
    this.#wrote = wrote;
    socket.on('drain', () => this.flush());
  }

  get isFull(): boolean {
    return this.#bytes >= WAITING_BYTES_MAX;
  }

  /**
   * Adds a frame; `begun` is called when it is handed to the socket.
   *
   * @throws BatonqError `PAYLOAD_TOO_LARGE` if the node would refuse the frame, `INVALID` if there is
   * none for it; nothing is added then.
   */
  put(envelope: Envelope, begun: () => void = () => {}): void {
    const body = encoded(envelope);
    if (body.length > this.#frameBytesMax) {
      const detail = `frame of ${body.length} bytes: ${this.#frameBytesMax} are allowed`;
      throw new BatonqError('PAYLOAD_TOO_LARGE', detail, { field: 'payload' });
    }
    this.#bodies.push(body);
    this.#begun.push(begun);
    this.#bytes += body.length;
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    // Many callers may have been woken by one read, and each now asks the next thing. Let them.
    process.nextTick(() => this.flush());
  }

  flush(): void {
    this.#isScheduled = false;
    if (this.#bodies.length === 0 || this.#socket.writableNeedDrain || this.#socket.destroyed) return;
    this.writeAll();
  }

  /** Hands all over, even if the socket is full. */
  writeAll(): void {
    const [bodies, begun] = [this.#bodies, this.#begun];
    this.#bodies = [];
    this.#begun = [];
    this.#bytes = 0;
    for (const call of begun) call();
    if (bodies.length > 0) this.#socket.write(frames(bodies));
    this.#wrote();
  }
}

function encoded(envelope: Envelope): Uint8Array {
  try {
    return encodeEnvelope(envelope);
  } catch (error) {
    // A number that does not fit its field, for example.
    throw new BatonqError('INVALID', String(error), { cause: error });
  }
}
