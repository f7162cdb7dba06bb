/** The TypeScript client of batonq: hand jobs in, work on them, look at them. */

export { Client } from './client.js';
export type { ClientEvents, ClientOptions, PullOptions } from './client.js';
export { Worker } from './worker.js';
export type { Handler, WorkerEvents, WorkerOptions } from './worker.js';
export { Failure, Snooze } from './failure.js';
export { BatonqError } from './error.js';
export type { ClientErrorCode, ErrorCode, NodeErrorCode } from './error.js';

export type { Places } from './address.js';
export type { CallOptions } from './call.js';
export type { Cluster } from './cluster.js';
export type {
  Attempt,
  Cause,
  Decision,
  Explanation,
  Fire,
  JobDetail,
  JobEvent,
  JobPage,
  KeyUse,
  NodeDetail,
  QueueDetail,
  Stats,
  Timeline,
  WorkerDetail,
} from './inspect.js';
export type { Job, JobId, Lease, Need } from './job.js';
export type { BulkDone, Cancelled, Edit, JobFilter, Jobs } from './jobs.js';
export type { Backoff, FlowJob, JobOptions, NewJob, Pushed, PushResult, Unique } from './push.js';
export type { Queue } from './queue.js';
export type { Queues } from './queues.js';
export type { Schedule, ScheduleDetail, Schedules } from './schedules.js';
export type { NodeInfo } from './session.js';
export type { Ack, Fail, FailOptions, LeaseLike, Settled } from './settle.js';
export type { FailurePolicy, JobState, PushOutcome } from './state.js';
export type { Subscription } from './subscription.js';
