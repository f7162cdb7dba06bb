//! What happens by time: one loop for each duty.
//!
//! Only a leader runs duties; a node on the embedded store leads itself. A duty is done in bounded
//! parts, each a transaction of its own, and doing a part twice changes nothing. Between the parts
//! a duty sleeps until there is something to do, as far as it knows; the longest sleep is the
//! limit of what it may have missed.
//!
//! A store that fails is tried again after a second, for ever; when a duty last succeeded is a
//! metric, so that one that is stuck is seen.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::store::Duty;

/// The longest sleep of a duty that sees nothing to do.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// How long a duty waits after the store failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Runs a duty until `stop`.
pub(crate) async fn run(duty: Duty, broker: Broker, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let alarm = broker.alarms().of(duty);
        alarm.clear();
        let pause = match broker.run_duty(duty).await {
            Ok(next) => next.unwrap_or(SLEEP_MAX).min(SLEEP_MAX),
            Err(error) => {
                tracing::warn!(duty = duty.name(), %error, "duty failed");
                AFTER_FAILURE
            }
        };
        if pause.is_zero() {
            // There is more to do, but others want the store too.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = alarm.sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}
