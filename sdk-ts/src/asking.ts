/** How the parts of a client ask: one message out, the one that answers it back. */

import type { Answer, CallOptions, Case, Message, MessageOf } from './call.js';
import { unexpected } from './error.js';

/** Asks and waits for the answer. `waitMs` is how long the node may take its time. */
export type Ask = (message: Message, options?: CallOptions, waitMs?: number) => Promise<Answer>;

/** The answer, if it is the one expected. */
export function expect<C extends Case>(answer: Answer, expected: C): MessageOf<C> {
  if (answer.$case !== expected) throw unexpected(answer.$case);
  return answer.value as MessageOf<C>;
}
