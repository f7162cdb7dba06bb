/** Looking at jobs, and changing those that wait or have ended. */

import { expect, type Ask } from './asking.js';
import type { CallOptions } from './call.js';
import { encodeData } from './data.js';
import { BatonqError } from './error.js';
import {
  explanationOf,
  jobOf,
  timelineOf,
  type Explanation,
  type JobDetail,
  type JobPage,
  type Timeline,
} from './inspect.js';
import type { JobId } from './job.js';
import { EditJob, ListJobs, State } from './messages.js';
import { optionalMs, timeMs } from './push.js';
import { wholeMs } from './settle.js';
import { wireState, type JobState } from './state.js';

/** How long {@link Jobs.wait} waits unless told otherwise, and how long a node waits at once. */
const WAIT_MS = 60_000;
const WAIT_AT_ONCE_MS = 60_000;

/** Which jobs to list. */
export interface JobFilter {
  queue?: string | undefined;
  state?: Exclude<JobState, 'unknown'> | undefined;
  tag?: string | undefined;
  /** Of dead jobs, as POISON. */
  reason?: string | undefined;
  contentType?: string | undefined;
  /** Pushed at least, and less than, so long ago. */
  olderThanMs?: number | undefined;
  newerThanMs?: number | undefined;
  /** Newest first unless set. */
  oldestFirst?: boolean | undefined;
  /** Jobs in one page; 50 unless given. */
  limit?: number | undefined;
  /** From the page before. */
  cursor?: number | undefined;
}

/** What is to be changed of a job that waits, or how a copy shall differ. */
export interface Edit {
  priority?: number | undefined;
  data?: unknown;
  contentType?: string | undefined;
  /** Not before this long from now. */
  delayMs?: number | undefined;
  runAt?: Date | number | undefined;
  /** To another queue. */
  queue?: string | undefined;
}

/** What came of a wish to cancel: it is done, or the job's worker has been asked to end it. */
export type Cancelled = { readonly isDone: true } | { readonly isDone: false; readonly forceAt: Date };

/** What came of a change of many jobs. */
export interface BulkDone {
  readonly matched: number;
  /** The jobs that were changed; of a replay, the copies. */
  readonly ids: readonly JobId[];
  /** Jobs that matched and whose state did not allow it. */
  readonly passedOver: number;
  /** Put into the request, it goes on; undefined: that was all. */
  readonly cursor: number | undefined;
}

/** The calls about jobs, as `client.jobs`. Changes fail with `WRONG_STATE` where the job's state does not allow them. */
export class Jobs {
  /** @internal */
  constructor(private readonly ask: Ask) {}

  /** A job as it is. `NOT_FOUND` if there is none. */
  async get<T = unknown, R = unknown>(id: JobId, options?: CallOptions): Promise<JobDetail<T, R>> {
    return jobOf(expect(await this.ask({ $case: 'getJob', value: { id } }, options), 'job'));
  }

  /** Jobs, newest first unless the filter says otherwise, one page. */
  async list(filter: JobFilter = {}, options?: CallOptions): Promise<JobPage> {
    const value = ListJobs.create();
    value.queue = filter.queue ?? '';
    value.state = wireState(filter.state);
    value.tag = filter.tag ?? '';
    value.reason = filter.reason ?? '';
    value.contentType = filter.contentType ?? '';
    value.olderThanMs = wholeMs(filter.olderThanMs ?? 0, 'olderThanMs');
    value.newerThanMs = wholeMs(filter.newerThanMs ?? 0, 'newerThanMs');
    value.oldestFirst = filter.oldestFirst ?? false;
    value.limit = filter.limit ?? 0;
    value.cursor = filter.cursor ?? 0;
    const page = expect(await this.ask({ $case: 'listJobs', value }, options), 'jobPage');
    return { jobs: page.jobs.map((job) => jobOf(job)), cursor: page.cursor === 0 ? undefined : page.cursor };
  }

  /** All jobs that the filter names, page by page. */
  async *each(filter: JobFilter = {}, options?: CallOptions): AsyncGenerator<JobDetail, void, undefined> {
    let { cursor } = filter;
    do {
      const page: JobPage = await this.list({ ...filter, cursor }, options);
      yield* page.jobs;
      cursor = page.cursor;
    } while (cursor !== undefined);
  }

  /** A job once it has ended, or as it is after `waitMs`, a minute unless given: `hasEnded` tells the two apart. */
  async wait<T = unknown, R = unknown>(
    id: JobId,
    options: CallOptions & { waitMs?: number | undefined } = {},
  ): Promise<JobDetail<T, R>> {
    const until = performance.now() + (options.waitMs ?? WAIT_MS);
    for (;;) {
      const left = Math.max(0, Math.ceil(until - performance.now()));
      const waitMs = Math.min(left, WAIT_AT_ONCE_MS);
      const answer = await this.ask({ $case: 'waitJob', value: { id, waitMs } }, options, waitMs);
      const job = jobOf<T, R>(expect(answer, 'job'));
      if (job.hasEnded || left <= waitMs) return job;
    }
  }

  /** Each lease on a job and all that happened to it. */
  async timeline(id: JobId, options?: CallOptions): Promise<Timeline> {
    return timelineOf(expect(await this.ask({ $case: 'getTimeline', value: { id } }, options), 'timeline'));
  }

  /** Why a job does not run. */
  async explain(id: JobId, options?: CallOptions): Promise<Explanation> {
    return explanationOf(expect(await this.ask({ $case: 'explain', value: { id } }, options), 'explanation'));
  }

  /** Cancels a job. If it is leased, its worker is asked to end it, and has `graceMs`, half a minute unless given. */
  async cancel(id: JobId, options: CallOptions & { graceMs?: number | undefined } = {}): Promise<Cancelled> {
    const graceMs = optionalMs(options.graceMs, 'graceMs');
    const status = expect(await this.ask({ $case: 'cancelJob', value: { id, graceMs } }, options), 'cancelStatus');
    if (status.state !== State.LEASED) return { isDone: true };
    return { isDone: false, forceAt: new Date(status.forceAtMs) };
  }

  /** Sends a dead job round again, with fresh attempts. */
  async retry(id: JobId, options?: CallOptions): Promise<void> {
    expect(await this.ask({ $case: 'retryJob', value: { id } }, options), 'done');
  }

  /** Pushes a copy of an ended job, perhaps with changes, and answers the copy. */
  async replay(id: JobId, edit: Edit = {}, options?: CallOptions): Promise<JobId> {
    const value = { id, edit: wireEdit(0, edit) };
    const { ids } = expect(await this.ask({ $case: 'replayJob', value }, options), 'replayed');
    const [copy] = ids;
    if (copy === undefined) throw new BatonqError('PROTOCOL', 'unexpected answer: replayed');
    return copy;
  }

  /** Makes a scheduled job ready now. */
  async promote(id: JobId, options?: CallOptions): Promise<void> {
    expect(await this.ask({ $case: 'promoteJob', value: { id } }, options), 'done');
  }

  /** Changes a job that waits. */
  async edit(id: JobId, edit: Edit, options?: CallOptions): Promise<void> {
    expect(await this.ask({ $case: 'editJob', value: wireEdit(id, edit) }, options), 'done');
  }

  /** Deletes a job that has ended, with its history. */
  async delete(id: JobId, options?: CallOptions): Promise<void> {
    expect(await this.ask({ $case: 'deleteJob', value: { id } }, options), 'done');
  }

  /**
   * Does the same to many jobs; the request is in the shape of `POST /v1/bulk`. A bounded part of it
   * is done; the answer's cursor, put into the request, goes on.
   */
  async bulk(request: Readonly<Record<string, unknown>>, options?: CallOptions): Promise<BulkDone> {
    const value = { request: JSON.stringify(request) };
    const done = expect(await this.ask({ $case: 'bulkJobs', value }, options), 'bulkDone');
    return { ...done, cursor: done.cursor === 0 ? undefined : done.cursor };
  }
}

function wireEdit(id: JobId, edit: Edit): EditJob {
  const value = EditJob.create({ id, queue: edit.queue ?? '' });
  value.priority = edit.priority;
  value.delayMs = optionalMs(edit.delayMs, 'delayMs');
  value.runAtMs = edit.runAt === undefined ? undefined : timeMs(edit.runAt);
  if (edit.data === undefined) return value;
  const { payload, contentType } = encodeData(edit.data, edit.contentType);
  return { ...value, payload, contentType };
}
