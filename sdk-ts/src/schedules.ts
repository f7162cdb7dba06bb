/** Schedules: jobs that are made by the clock. */

import { expect, type Ask } from './asking.js';
import type { CallOptions } from './call.js';
import { BatonqError } from './error.js';
import { dateOf, fireOf, number, type Fire } from './inspect.js';
import type { JobId } from './job.js';
import { Schedule as WireSchedule } from './messages.js';
import { optionalMs, pushedOne, timeMs, wireJob, type NewJob, type Pushed } from './push.js';
import { wholeMs } from './settle.js';

/** Schedules in one page. */
const PAGE = 1000;

/** When jobs are made, and what becomes of slots that do not come in time. */
export interface Schedule<T = unknown> {
  /** Five fields, six with seconds first, or `@every` and a period. */
  readonly schedule: string;
  /** What is pushed. Its time and its unique window do not matter. */
  readonly job: NewJob<T>;
  /** Of the IANA database; UTC unless given. */
  readonly timezone?: string | undefined;
  /** If the job of the slot before has not ended; `allow` unless given. */
  readonly overlap?: 'allow' | 'skip' | 'queue' | undefined;
  /** Of slots that were missed; `last` unless given. */
  readonly catchUp?:
    | 'none'
    | 'last'
    /** So many at most, and none that is older: 100, and a day, unless given. */
    | { readonly all: { readonly cap?: number; readonly windowMs?: number } }
    | undefined;
  /** Each job waits up to so long, by chance. */
  readonly jitterMs?: number | undefined;
  readonly endsAt?: Date | number | undefined;
  /** No slots after so many jobs. */
  readonly runsMax?: number | undefined;
}

/** A schedule as a node shows it. */
export interface ScheduleDetail {
  readonly name: string;
  readonly schedule: string;
  readonly timezone: string;
  readonly overlap: string;
  readonly catchUp: string;
  readonly queue: string;
  /** undefined: it has ended, or is paused. */
  readonly nextAt: Date | undefined;
  readonly pausedAt: Date | undefined;
  readonly endsAt: Date | undefined;
  readonly runs: number;
  readonly runsMax: number | undefined;
  /** Slots that made no job because nobody led. */
  readonly missed: number;
  readonly lastSlot: Date | undefined;
  readonly lastJob: JobId | undefined;
  readonly createdAt: Date;
}

/** The calls about schedules, as `client.schedules`. `NOT_FOUND` if there is none of the name. */
export class Schedules {
  /** @internal */
  constructor(private readonly ask: Ask) {}

  /** Makes a schedule, or changes the one of its name. */
  async put<T>(name: string, schedule: Schedule<T>, options?: CallOptions): Promise<void> {
    const value = { schedule: wireSchedule(name, schedule) };
    expect(await this.ask({ $case: 'putSchedule', value }, options), 'done');
  }

  /** All schedules, by name. */
  async list(options?: CallOptions): Promise<ScheduleDetail[]> {
    const all: ScheduleDetail[] = [];
    for (;;) {
      const value = { name: '', after: all.at(-1)?.name ?? '', limit: PAGE };
      const { schedules } = expect(await this.ask({ $case: 'listSchedules', value }, options), 'schedules');
      all.push(...schedules.map(scheduleOf));
      if (schedules.length < PAGE) return all;
    }
  }

  /** One schedule. */
  async get(name: string, options?: CallOptions): Promise<ScheduleDetail> {
    const value = { name, after: '', limit: 0 };
    const [found] = expect(await this.ask({ $case: 'listSchedules', value }, options), 'schedules').schedules;
    if (found === undefined) throw new BatonqError('NOT_FOUND', 'there is no such schedule', { field: 'name' });
    return scheduleOf(found);
  }

  /** Deletes a schedule and its history. Its jobs stay. */
  async delete(name: string, options?: CallOptions): Promise<void> {
    expect(await this.ask({ $case: 'deleteSchedule', value: { name } }, options), 'done');
  }

  /** Stops a schedule from firing. */
  async pause(name: string, options?: CallOptions): Promise<void> {
    expect(await this.ask({ $case: 'pauseSchedule', value: { name } }, options), 'done');
  }

  /** Lets a schedule go on with its next slot. */
  async resume(name: string, options?: CallOptions): Promise<void> {
    expect(await this.ask({ $case: 'resumeSchedule', value: { name } }, options), 'done');
  }

  /** Pushes the job of a schedule now, out of turn. */
  async run(name: string, options?: CallOptions): Promise<Pushed> {
    return pushedOne(expect(await this.ask({ $case: 'runSchedule', value: { name } }, options), 'pushed').results);
  }

  /** What became of the latest slots, newest first; 50 unless told otherwise. */
  async fires(name: string, options: CallOptions & { limit?: number | undefined } = {}): Promise<Fire[]> {
    const value = { name, limit: options.limit ?? 0 };
    return expect(await this.ask({ $case: 'listFires', value }, options), 'fires').fires.map(fireOf);
  }
}

function wireSchedule<T>(name: string, schedule: Schedule<T>): WireSchedule {
  const { queue, data, ...options } = schedule.job;
  const value = WireSchedule.create({ name, schedule: schedule.schedule });
  value.timezone = schedule.timezone ?? '';
  value.overlap = schedule.overlap ?? '';
  value.jitterMs = wholeMs(schedule.jitterMs ?? 0, 'jitterMs');
  value.endsAtMs = schedule.endsAt === undefined ? undefined : timeMs(schedule.endsAt);
  value.runsMax = schedule.runsMax;
  value.job = wireJob(queue, data, options);
  const { catchUp } = schedule;
  if (typeof catchUp !== 'object') return { ...value, catchUp: catchUp ?? '' };
  const { cap = 0, windowMs } = catchUp.all;
  return { ...value, catchUp: 'all', catchUpCap: cap, catchUpWindowMs: optionalMs(windowMs, 'windowMs') ?? 0 };
}

function scheduleOf(schedule: WireSchedule): ScheduleDetail {
  const { name, schedule: rule, timezone, overlap, catchUp, runs, runsMax, missed } = schedule;
  return {
    name,
    schedule: rule,
    timezone: timezone === '' ? 'UTC' : timezone,
    overlap,
    catchUp,
    queue: schedule.job?.queue ?? '',
    nextAt: dateOf(schedule.nextAtMs),
    pausedAt: dateOf(schedule.pausedAtMs),
    endsAt: dateOf(schedule.endsAtMs),
    runs,
    runsMax,
    missed,
    lastSlot: dateOf(schedule.lastSlotMs),
    lastJob: number(schedule.lastJob),
    createdAt: new Date(schedule.createdAtMs),
  };
}
