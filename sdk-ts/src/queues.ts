/** Looking at queues, and setting them. */

import { expect, type Ask } from './asking.js';
import type { CallOptions } from './call.js';
import { BatonqError } from './error.js';
import { decisionOf, keyUseOf, queueOf, type Decision, type KeyUse, type QueueDetail } from './inspect.js';
import type { JobId } from './job.js';

/** What a node answers at most when asked for its queues. */
const PAGE = 1000;

/** The calls about queues, as `client.queues`. */
export class Queues {
  /** @internal */
  constructor(private readonly ask: Ask) {}

  /** All queues, by name. */
  async list(options?: CallOptions): Promise<QueueDetail[]> {
    const all: QueueDetail[] = [];
    for (;;) {
      const value = { queue: '', after: all.at(-1)?.name ?? '' };
      const { queues } = expect(await this.ask({ $case: 'listQueues', value }, options), 'queues');
      all.push(...queues.map(queueOf));
      if (queues.length < PAGE) return all;
    }
  }

  /** One queue. `NOT_FOUND` if there is none. */
  async get(queue: string, options?: CallOptions): Promise<QueueDetail> {
    const answer = await this.ask({ $case: 'listQueues', value: { queue, after: '' } }, options);
    const [found] = expect(answer, 'queues').queues;
    if (found === undefined) throw new BatonqError('NOT_FOUND', 'there is no such queue', { field: 'queue' });
    return queueOf(found);
  }

  /** Gives no more jobs of the queue out, until it is resumed. */
  async pause(queue: string, options?: CallOptions): Promise<void> {
    expect(await this.ask({ $case: 'pauseQueue', value: { queue } }, options), 'done');
  }

  /** Gives jobs of the queue out again. */
  async resume(queue: string, options?: CallOptions): Promise<void> {
    expect(await this.ask({ $case: 'resumeQueue', value: { queue } }, options), 'done');
  }

  /** Sets all settings of a queue, in the shape of the HTTP API: what is left out is as for all queues. */
  async setSettings(queue: string, settings: Readonly<Record<string, unknown>>, options?: CallOptions): Promise<void> {
    const value = { queue, settings: JSON.stringify(settings) };
    expect(await this.ask({ $case: 'setSettings', value }, options), 'done');
  }

  /** The keys of a queue that jobs wait or work for, and their limits. */
  async keys(queue: string, options?: CallOptions): Promise<KeyUse[]> {
    const { keys } = expect(await this.ask({ $case: 'listKeys', value: { queue } }, options), 'keys');
    return keys.map(keyUseOf);
  }

  /** What guards have refused, of one queue or of all; the latest first. */
  async decisions(
    which: { queue?: string | undefined; limit?: number | undefined } = {},
    options?: CallOptions,
  ): Promise<Decision[]> {
    const value = { queue: which.queue ?? '', limit: which.limit ?? 0 };
    const { decisions } = expect(await this.ask({ $case: 'listDecisions', value }, options), 'decisions');
    return decisions.map(decisionOf);
  }

  /** Pushes copies of a queue's dead jobs that have none yet, oldest first, 1000 unless told otherwise. */
  async replayDead(
    queue: string,
    which: { reason?: string | undefined; limit?: number | undefined } = {},
    options?: CallOptions,
  ): Promise<readonly JobId[]> {
    const value = { queue, reason: which.reason ?? '', limit: which.limit ?? 0 };
    return expect(await this.ask({ $case: 'replayDead', value }, options), 'replayed').ids;
  }
}
