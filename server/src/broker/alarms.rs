//! When duties have something to do: each sleeps until then, and is woken if it comes earlier.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::store::Duty;

/// One alarm for each duty.
#[derive(Debug, Default)]
pub(crate) struct Alarms([Alarm; Duty::ALL.len()]);

impl Alarms {
    /// The alarm of a duty.
    pub(crate) fn of(&self, duty: Duty) -> &Alarm {
        &self.0[duty as usize]
    }
}

/// Wakes one sleeper at the earliest of the times that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    /// `None`: nobody sleeps, or nothing is planned yet.
    wakes_at: Mutex<Option<Instant>>,
    earlier: Notify,
}

impl Alarm {
    /// There is something to do after `delay`.
    pub(crate) fn set(&self, delay: Duration) {
        let at = Instant::now() + delay;
        let mut wakes_at = self.wakes_at.lock();
        if wakes_at.is_none_or(|planned| at < planned) {
            *wakes_at = Some(at);
            self.earlier.notify_one();
        }
    }

    /// Begins to plan anew: what is set from here on counts. Call it before looking.
    pub(crate) fn clear(&self) {
        *self.wakes_at.lock() = None;
    }

    /// Sleeps until the earliest time that was set since [`Alarm::clear`], at most `longest`.
    pub(crate) async fn sleep(&self, longest: Duration) {
        let latest = Instant::now() + longest;
        loop {
            let until = self.wakes_at.lock().map_or(latest, |at| at.min(latest));
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.earlier.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_wakes_at_the_earliest_time() {
        let (alarm, started) = (Alarm::default(), Instant::now());
        alarm.set(5 * SECOND);
        alarm.set(3 * SECOND);
        alarm.set(9 * SECOND);
        alarm.sleep(60 * SECOND).await;
        assert_eq!(started.elapsed(), 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleeper_hears_of_an_earlier_time() {
        let (alarm, started) = (Alarm::default(), Instant::now());
        tokio::join!(alarm.sleep(60 * SECOND), async { alarm.set(2 * SECOND) });
        assert_eq!(started.elapsed(), 2 * SECOND);
        alarm.clear();
        alarm.sleep(7 * SECOND).await;
        assert_eq!(started.elapsed(), 9 * SECOND);
    }
}
