/** Notices when the event loop of this program was blocked. */

/** Looks at the clock from time to time: whoever comes late was kept from coming. */
export class LoopWatch {
  #timer: NodeJS.Timeout;

  /** `tell` is given how long the loop was blocked, if that is `tooLongMs` or more. */
  constructor(tooLongMs: number, tell: (blockedMs: number) => void) {
    const periodMs = Math.max(5, Math.min(1000, tooLongMs / 4));
    let due = performance.now() + periodMs;
    this.#timer = setInterval(() => {
      const now = performance.now();
      const late = now - due;
      due = now + periodMs;
      if (late >= tooLongMs) tell(late);
    }, periodMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
