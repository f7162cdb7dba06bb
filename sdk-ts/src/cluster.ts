/** Looking at nodes and workers, and sending a node away. */

import { expect, type Ask } from './asking.js';
import type { CallOptions } from './call.js';
import { nodeOf, workerOf, type NodeDetail, type Stats, type WorkerDetail } from './inspect.js';

/** The calls about the cluster, as `client.cluster`. */
export class Cluster {
  /** @internal */
  constructor(private readonly ask: Ask) {}

  /** All nodes, by id. Every node gives the same answer. */
  async nodes(options?: CallOptions): Promise<NodeDetail[]> {
    return expect(await this.ask({ $case: 'listNodes', value: {} }, options), 'nodes').nodes.map(nodeOf);
  }

  /**
   * Has a node leave, whichever node is asked: it gives out nothing more, sends its clients elsewhere,
   * and exits; with `stay` it does not exit.
   */
  async drain(id: string, options: CallOptions & { stay?: boolean | undefined } = {}): Promise<void> {
    const value = { id, stay: options.stay ?? false };
    expect(await this.ask({ $case: 'drainNode', value }, options), 'done');
  }

  /** The workers that the node of this client knows. */
  async workers(options?: CallOptions): Promise<WorkerDetail[]> {
    return expect(await this.ask({ $case: 'listWorkers', value: {} }, options), 'workers').workers.map(workerOf);
  }

  /** What the node of this client did in the last minute. */
  async stats(options?: CallOptions): Promise<Stats> {
    return expect(await this.ask({ $case: 'getStats', value: {} }, options), 'stats');
  }

  /** How long the node of this client takes to answer, in milliseconds. */
  async ping(options?: CallOptions): Promise<number> {
    const askedAt = performance.now();
    expect(await this.ask({ $case: 'ping', value: {} }, options), 'pong');
    return performance.now() - askedAt;
  }
}
