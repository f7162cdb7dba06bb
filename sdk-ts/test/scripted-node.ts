/** A node that says what a test tells it to: for what a real one does only by accident. */

import { createServer, type Server, type Socket } from 'node:net';

import type { Case, Message, MessageOf } from '../src/call.js';
import { encodeEnvelope, FrameReader, frames, PREFACE } from '../src/frame.js';
import { LeasedJob, Limits, Welcome, type Envelope } from '../src/messages.js';
import { SOON_MS } from './harness.js';

/** One connection of a client to a scripted node. */
export class Peer {
  readonly #reader = new FrameReader();
  #heard: Envelope[] = [];
  #wake: () => void = () => {};
  #isOpened = false;
  /** Resolves when the client has closed. */
  readonly closed: Promise<void>;

  constructor(readonly socket: Socket) {
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()));
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      this.#reader.push(this.#isOpened ? chunk : chunk.subarray(PREFACE.length));
      this.#isOpened = true;
      for (let next = this.#reader.next(); next !== undefined; next = this.#reader.next()) this.#heard.push(next);
      this.#wake();
    });
  }

  /** The next question of this kind; those of other kinds are kept. */
  async hears<C extends Case>(kind: C): Promise<{ id: number; value: MessageOf<C> }> {
    const deadline = setTimeout(() => this.socket.destroy(new Error(`no ${kind} came`)), SOON_MS);
    for (;;) {
      const place = this.#heard.findIndex(({ message }) => message?.$case === kind);
      const [envelope] = place < 0 ? [] : this.#heard.splice(place, 1);
      if (envelope?.message?.$case === kind) {
        clearTimeout(deadline);
        return { id: envelope.requestId, value: envelope.message.value as MessageOf<C> };
      }
      if (this.socket.destroyed) throw new Error(`closed, and no ${kind} came`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        this.socket.once('close', () => resolve());
      });
    }
  }

  /** Whether such a question is there. */
  has(kind: Case): boolean {
    return this.#heard.some(({ message }) => message?.$case === kind);
  }

  says(requestId: number, message: Message): void {
    this.socket.write(frames([encodeEnvelope({ requestId, message })]));
  }

  /** Answers the hello. */
  async welcomes(welcome: Partial<Welcome> = {}): Promise<{ session: string }> {
    const hello = await this.hears('hello');
    const value = Welcome.create({
      version: 1,
      nodeId: 'scripted',
      session: '9007199254740993',
      heartbeatIntervalMs: 5000,
      heartbeatTimeoutMs: 15_000,
      reconnectGraceMs: 20_000,
      limits: Limits.create({ inFlightMax: 100 }),
      ...welcome,
    });
    this.says(hello.id, { $case: 'welcome', value });
    return hello.value;
  }

  close(): void {
    this.socket.destroy();
  }
}

export class ScriptedNode {
  readonly #server: Server;
  readonly #waiting: Peer[] = [];
  #wake: () => void = () => {};
  readonly #peers: Peer[] = [];

  private constructor() {
    this.#server = createServer((socket) => {
      const peer = new Peer(socket);
      this.#peers.push(peer);
      this.#waiting.push(peer);
      this.#wake();
    });
  }

  static async start(): Promise<ScriptedNode> {
    const node = new ScriptedNode();
    await new Promise<void>((resolve) => node.#server.listen(0, '127.0.0.1', () => resolve()));
    return node;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** The next connection. */
  async peer(): Promise<Peer> {
    for (;;) {
      const peer = this.#waiting.shift();
      if (peer !== undefined) return peer;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  stop(): void {
    for (const peer of this.#peers) peer.close();
    this.#server.close();
  }
}

/** A job that a scripted node gives out. */
export function leased(id: number, data: unknown = id): LeasedJob {
  const payload = Buffer.from(JSON.stringify(data));
  return LeasedJob.create({ id, lease: leaseNumber(id), payload, attempt: 1, maxAttempts: 3, delivery: 1 });
}

export function leaseNumber(id: number): Uint8Array {
  return Uint8Array.of(0, 0, 0, id);
}
