/**
 * Listening to the signals of others.
 *
 * A program may hand the same signal to thousands of calls. Node.js takes many listeners on one signal
 * for a leak and warns, so all calls share one.
 */

const heard = new WeakMap<AbortSignal, Set<() => void>>();

/** Calls `then` when the signal fires, at once if it has. What it answers makes it forget that. */
export function onAbort(signal: AbortSignal | undefined, then: () => void): () => void {
  if (signal === undefined) return () => {};
  if (signal.aborted) {
    then();
    return () => {};
  }
  const listeners = heard.get(signal) ?? listen(signal);
  listeners.add(then);
  return () => void listeners.delete(then);
}

function listen(signal: AbortSignal): Set<() => void> {
  const listeners = new Set<() => void>();
  heard.set(signal, listeners);
  const fire = (): void => {
    heard.delete(signal);
    for (const then of listeners) then();
  };
  signal.addEventListener('abort', fire, { once: true });
  return listeners;
}
