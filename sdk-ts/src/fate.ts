/**
 * What becomes of a lease while it is held, told to those who want to know.
 *
 * Of most jobs nobody asks, so the signal is made for those who do.
 */

import { setMaxListeners } from 'node:events';

import { BatonqError } from './error.js';

/** How it stands with a lease; it only gets worse. */
type Stage = 'held' | 'cancelled' | 'lost';

export class Fate {
  #stage: Stage = 'held';
  #reason: BatonqError | undefined;
  #controller: AbortController | undefined;
  /** Called once, when the lease is lost. */
  onLost: (() => void) | undefined;

  get isLost(): boolean {
    return this.#stage === 'lost';
  }

  /** Somebody has asked for the job's end, and the lease is held still. */
  get isCancelRequested(): boolean {
    return this.#stage === 'cancelled';
  }

  /** Fires when there is no more use in going on; its reason says why. */
  get signal(): AbortSignal {
    this.#controller ??= controllerForMany();
    if (this.#reason !== undefined) this.#controller.abort(this.#reason);
    return this.#controller.signal;
  }

  /** Somebody asks for the job's end. */
  cancel(): void {
    if (this.#stage !== 'held') return;
    this.#stage = 'cancelled';
    this.abort(new BatonqError('CANCEL_REQUESTED', 'somebody asks for the end of this job'));
  }

  /** The lease is lost. */
  lose(): void {
    if (this.#stage === 'lost') return;
    this.#stage = 'lost';
    this.abort(new BatonqError('LEASE_LOST', 'somebody else may work on this job now'));
    this.onLost?.();
  }

  /** Fires the signal for another reason. The first reason is the one that is told. */
  abort(reason: BatonqError): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#controller?.abort(reason);
  }
}

/** A handler may hand its signal to as many calls as it likes. */
function controllerForMany(): AbortController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}
