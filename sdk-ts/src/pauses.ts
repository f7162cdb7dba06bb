/** How long to pause between two tries. */

/** Doubles from the shortest to the longest; a half of each pause is left to chance. */
export class Pauses {
  #tries = 0;

  constructor(
    private readonly minMs: number,
    private readonly maxMs: number,
  ) {}

  /** The next pause in milliseconds. `chance` is 0 to 1. */
  next(chance: number): number {
    const longest = Math.min(this.minMs * 2 ** Math.min(this.#tries, 50), this.maxMs);
    this.#tries += 1;
    return longest * (0.5 + chance * 0.5);
  }

  /** Begins with the shortest pause again. */
  reset(): void {
    this.#tries = 0;
  }
}
