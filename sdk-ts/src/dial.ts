/** Finding a node that lets the client in. */

import { connect, type Socket } from 'node:net';

import { showAddress, type Address } from './address.js';
import { asBatonqError, BatonqError, errorOf, forbidsConnecting } from './error.js';
import { encodeEnvelope, FrameReader, frames, PREFACE, VERSION } from './frame.js';
import { type Envelope, Hello, type Welcome } from './messages.js';

/** Who wants to be let in. */
export interface Visitor {
  readonly token: string;
  readonly worker: string;
  readonly program: string;
}

/** A connection on which the node has said welcome. Its socket is paused. */
export interface Opened {
  readonly socket: Socket;
  readonly address: Address;
  readonly welcome: Welcome;
  /** What came after the welcome. */
  readonly reader: FrameReader;
}

/** Goes through the addresses in a circle. */
export class Dialer {
  #next: number;

  /** Begins with any of the addresses, so that many clients spread over the nodes. */
  constructor(
    private readonly addresses: readonly Address[],
    private readonly visitor: Visitor,
    private readonly connectTimeoutMs: number,
    chance: number,
  ) {
    this.#next = Math.floor(chance * addresses.length) % addresses.length;
  }

  /**
   * Tries each address once, first the one after that of the call before.
   *
   * @throws BatonqError `UNREACHABLE` if none answered in time, or why one will never let the client in.
   */
  async round(session: string, signal: AbortSignal): Promise<Opened> {
    const deadline = performance.now() + this.connectTimeoutMs;
    const failures: string[] = [];
    for (let left = this.addresses.length; left > 0; left -= 1) {
      const address = this.addresses[this.#next];
      if (address === undefined) break;
      this.#next = (this.#next + 1) % this.addresses.length;
      // One silent address must leave time for the others.
      const share = Math.max(1, deadline - performance.now()) / left;
      try {
        return await open(address, this.visitor, session, share, signal);
      } catch (error) {
        const told = asBatonqError(error);
        if (signal.aborted || forbidsConnecting(told)) throw told;
        failures.push(`${showAddress(address)}: ${told.message}`);
      }
    }
    throw new BatonqError('UNREACHABLE', `no node lets the client in: ${failures.join(', ')}`);
  }
}

/** Connects, says hello, and waits for the answer. */
export function open(
  address: Address,
  visitor: Visitor,
  session: string,
  withinMs: number,
  signal: AbortSignal,
): Promise<Opened> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(new BatonqError('CLOSED', 'the client was closed'));
    const socket = connect({ host: address.host, port: address.port, noDelay: true });
    const reader = new FrameReader();
    const timer = setTimeout(() => fail(unreachable('no answer in time')), withinMs);
    const fail = (error: BatonqError): void => {
      release();
      socket.on('error', () => {});
      socket.destroy();
      reject(error);
    };
    const onAbort = (): void => fail(new BatonqError('CLOSED', 'the client was closed'));
    const onError = (error: Error): void => fail(unreachable(error.message || String(error)));
    const onClose = (): void => fail(unreachable('closed without a word'));
    const onData = (chunk: Buffer): void => {
      let welcome: Welcome | undefined;
      try {
        reader.push(chunk);
        const envelope = reader.next();
        if (envelope === undefined) return;
        welcome = welcomeOf(envelope);
      } catch (error) {
        return fail(error instanceof BatonqError ? error : unreachable(String(error)));
      }
      socket.pause();
      // Until the connection listens: an error must not be thrown at nobody.
      socket.on('error', () => {});
      release();
      resolve({ socket, address, welcome, reader });
    };
    const release = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      socket.off('error', onError).off('close', onClose).off('data', onData);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    socket.on('error', onError).on('close', onClose).on('data', onData);
    socket.write(Buffer.concat([PREFACE, frames([encodeEnvelope(hello(visitor, session))])]));
  });
}

function hello({ token, worker, program }: Visitor, session: string): Envelope {
  const versions = { versionMin: VERSION, versionMax: VERSION };
  const value = Hello.create({ ...versions, token, worker, session, client: program });
  return { requestId: 1, message: { $case: 'hello', value } };
}

function welcomeOf({ message }: Envelope): Welcome {
  if (message?.$case === 'welcome') return message.value;
  if (message?.$case === 'error') throw errorOf(message.value);
  throw unreachable('no answer that this client knows');
}

function unreachable(detail: string): BatonqError {
  return new BatonqError('UNREACHABLE', detail);
}
