/** Words for the numbers of the protocol. */

import { OnFailure, Outcome, State } from './messages.js';

/** Where a job stands. `unknown`: nothing is known of it. */
export type JobState =
  | 'scheduled'
  | 'blocked'
  | 'ready'
  | 'leased'
  | 'completed'
  | 'dead'
  | 'cancelled'
  | 'unknown';

/** Whether a push made a job: see `docs/codes.md`. */
export type PushOutcome = 'inserted' | 'duplicate' | 'replaced' | 'throttled' | 'repeated';

/** What becomes of a job if one that it waits for dies or is cancelled. */
export type FailurePolicy = 'fail' | 'ignore' | 'wait';

const STATES: Readonly<Record<State, JobState>> = {
  [State.UNSPECIFIED]: 'unknown',
  [State.SCHEDULED]: 'scheduled',
  [State.BLOCKED]: 'blocked',
  [State.READY]: 'ready',
  [State.LEASED]: 'leased',
  [State.COMPLETED]: 'completed',
  [State.DEAD]: 'dead',
  [State.CANCELLED]: 'cancelled',
};

const WIRE_STATES: Readonly<Record<JobState, State>> = {
  unknown: State.UNSPECIFIED,
  scheduled: State.SCHEDULED,
  blocked: State.BLOCKED,
  ready: State.READY,
  leased: State.LEASED,
  completed: State.COMPLETED,
  dead: State.DEAD,
  cancelled: State.CANCELLED,
};

const OUTCOMES: Readonly<Record<Outcome, PushOutcome>> = {
  [Outcome.UNSPECIFIED]: 'inserted',
  [Outcome.INSERTED]: 'inserted',
  [Outcome.DUPLICATE]: 'duplicate',
  [Outcome.REPLACED]: 'replaced',
  [Outcome.THROTTLED]: 'throttled',
  [Outcome.REPEATED]: 'repeated',
};

const POLICIES: Readonly<Record<FailurePolicy, OnFailure>> = {
  fail: OnFailure.FAIL,
  ignore: OnFailure.IGNORE,
  wait: OnFailure.WAIT,
};

/** The word for a state; one of a newer node is `unknown`. */
export function stateOf(state: State): JobState {
  return STATES[state] ?? 'unknown';
}

export function wireState(state: JobState | undefined): State {
  return state === undefined ? State.UNSPECIFIED : WIRE_STATES[state];
}

export function outcomeOf(outcome: Outcome): PushOutcome {
  return OUTCOMES[outcome] ?? 'inserted';
}

export function wirePolicy(policy: FailurePolicy | undefined): OnFailure {
  return policy === undefined ? OnFailure.UNSPECIFIED : POLICIES[policy];
}

export function policyOf(policy: OnFailure): FailurePolicy {
  if (policy === OnFailure.IGNORE) return 'ignore';
  return policy === OnFailure.WAIT ? 'wait' : 'fail';
}

/** Whether a job in this state does not change any more by itself. */
export function hasEnded(state: JobState): boolean {
  return state === 'completed' || state === 'dead' || state === 'cancelled';
}
