/** One queue of a client, with the types of its jobs said once. */

import type { CallOptions } from './call.js';
import type { Client, PullOptions } from './client.js';
import type { JobDetail, QueueDetail } from './inspect.js';
import type { Job, JobId } from './job.js';
import type { JobOptions, Pushed, PushResult } from './push.js';
import type { Subscription } from './subscription.js';

/** A queue whose jobs carry a `T` and leave an `R`, made by {@link Client.queue}. */
export class Queue<T = unknown, R = unknown> {
  /** @internal */
  constructor(
    private readonly client: Client,
    readonly name: string,
  ) {}

  /** Hands a job in: see {@link Client.push}. */
  push(data: T, options?: JobOptions & CallOptions): Promise<Pushed> {
    return this.client.push(this.name, data, options);
  }

  /** Hands jobs in with one call: see {@link Client.pushBatch}. The job's options are those of each. */
  pushBatch(all: readonly T[], job: JobOptions = {}, options?: CallOptions): Promise<PushResult[]> {
    return this.client.pushBatch(
      all.map((data) => ({ ...job, queue: this.name, data })),
      options,
    );
  }

  /** Asks for jobs: see {@link Client.pull}. */
  pull(options?: PullOptions): Promise<Job<T>[]> {
    return this.client.pull<T>(this.name, options);
  }

  /** Has the node send jobs: see {@link Client.subscribe}. */
  subscribe(options?: CallOptions & { credit?: number | undefined }): Promise<Subscription<T>> {
    return this.client.subscribe<T>(this.name, options);
  }

  /** A job once it has ended: see {@link Client.waitFor}. */
  waitFor(id: JobId, options?: CallOptions & { waitMs?: number | undefined }): Promise<JobDetail<T, R>> {
    return this.client.waitFor<T, R>(id, options);
  }

  /** A job as it is. */
  get(id: JobId, options?: CallOptions): Promise<JobDetail<T, R>> {
    return this.client.jobs.get<T, R>(id, options);
  }

  /** What stands in the queue. */
  detail(options?: CallOptions): Promise<QueueDetail> {
    return this.client.queues.get(this.name, options);
  }

  /** Gives no more jobs out, until it is resumed. */
  pause(options?: CallOptions): Promise<void> {
    return this.client.queues.pause(this.name, options);
  }

  /** Gives jobs out again. */
  resume(options?: CallOptions): Promise<void> {
    return this.client.queues.resume(this.name, options);
  }
}
