/** The thread of {@link StandIn}: watches the client's own thread, and stands in for it. */

import type { Socket } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';

import { open } from './dial.js';
import { encodeEnvelope, type FrameReader, frames } from './frame.js';
import type { Message } from './call.js';
import { leaseText } from './job.js';
import type { ThreadData, ThreadNotice, Watched } from './stand-in.js';

const { visitor, signs } = workerData as ThreadData;
const counter = new Int32Array(signs);

let watched: Watched | undefined;
let heardAt = performance.now();
let count = Atomics.load(counter, 0);
let looking: NodeJS.Timeout | undefined;
/** Ends what is being done in the client's place. */
let stopStandingIn: (() => void) | undefined;

parentPort?.on('message', (next: Watched | undefined) => {
  watched = next;
  heardAt = performance.now();
  stopStandingIn?.();
  clearInterval(looking);
  if (watched !== undefined) looking = setInterval(look, Math.max(5, watched.silentMs / 20));
});

function look(): void {
  const now = performance.now();
  const seen = Atomics.load(counter, 0);
  if (seen !== count) {
    count = seen;
    heardAt = now;
  }
  if (watched === undefined || stopStandingIn !== undefined || now - heardAt < watched.silentMs) return;
  void standIn(watched);
}

async function standIn({ session, address, pingMs }: Watched): Promise<void> {
  const ended = new AbortController();
  stopStandingIn = () => ended.abort();
  try {
    const { socket, welcome, reader } = await open(address, visitor, session, pingMs, ended.signal);
    // Another session than the one asked for: its leases are lost, there is nothing to keep.
    if (!welcome.resumed) return void socket.destroy();
    tell({ kind: 'stoodIn' });
    await keepAlive(socket, reader, pingMs, ended.signal);
  } catch {
    // Not let in: the next look tries again, as long as the client is silent.
  } finally {
    stopStandingIn = undefined;
  }
}

/** Gives signs of life until the client is back, which closes this connection. */
function keepAlive(socket: Socket, reader: FrameReader, pingMs: number, ended: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    let id = 1;
    const say = (message: Message, requestId = (id += 1)): void => {
      socket.write(frames([encodeEnvelope({ requestId, message })]));
    };
    const pinging = setInterval(() => say({ $case: 'ping', value: {} }), pingMs);
    const listen = (): void => {
      for (let envelope = reader.next(); envelope !== undefined; envelope = reader.next()) {
        const { requestId, message } = envelope;
        if (message?.$case === 'ping') say({ $case: 'pong', value: {} }, requestId);
        if (message?.$case === 'cancelRequested') {
          tell({ kind: 'cancelRequested', leases: message.value.leases.map(leaseText) });
        }
      }
    };
    socket.on('data', (chunk: Buffer) => {
      try {
        reader.push(chunk);
        listen();
      } catch {
        socket.destroy();
      }
    });
    socket.on('close', () => {
      clearInterval(pinging);
      resolve();
    });
    ended.addEventListener('abort', () => socket.destroy(), { once: true });
    if (ended.aborted) socket.destroy();
    listen();
    socket.resume();
  });
}

function tell(notice: ThreadNotice): void {
  parentPort?.postMessage(notice);
}
