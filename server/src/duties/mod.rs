//! What happens by time: one loop for each duty, at work only while this node leads.
//!
//! A duty is done in bounded parts, each a transaction of its own that the store refuses if
//! another node has been elected, and doing a part twice changes nothing. Between the parts a duty
//! sleeps until there is something to do, as far as it knows; the longest sleep is the limit of
//! what it may have missed.
//!
//! A store that fails is tried again after a second, for ever. When a duty last succeeded is
//! shown, and a watchdog looks at it: a leader whose duty is stuck resigns, and another node tries.

mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(crate) use self::watchdog::Watchdog;
use crate::broker::Broker;
use crate::cluster::Registry;
use crate::error::Error;
use crate::leader::{Leadership, Term};
use crate::store::{Duty, ORPHANED_FOR};

/// The longest sleep of a duty that sees nothing to do.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// How long a duty waits after the store failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How often the leader looks whether nodes are gone, and what the others have left it to do.
const NODES_EVERY: Duration = Duration::from_secs(1);

/// How often the leader looks whether tables need something.
const TABLES_EVERY: Duration = Duration::from_secs(10);

/// What the leader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Chore {
    /// To jobs.
    Jobs(Duty),
    /// To nodes that are gone; and it looks ahead for all duties.
    Nodes,
    /// To the tables, so that they stay small.
    Tables,
}

impl Chore {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Duty::ALL.into_iter().map(Self::Jobs).chain([Self::Nodes, Self::Tables])
    }

    /// The word for it in logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jobs(duty) => duty.name(),
            Self::Nodes => "nodes",
            Self::Tables => "tables",
        }
    }
}

/// What all duties need.
#[derive(Clone)]
pub(crate) struct Frame {
    pub(crate) broker: Broker,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) leadership: Leadership,
    pub(crate) watchdog: Arc<Watchdog>,
}

impl Frame {
    /// Does a duty whenever this node leads, until `stop`.
    pub(crate) async fn run(mut self, chore: Chore, stop: CancellationToken) {
        loop {
            let term = tokio::select! {
                term = self.leadership.begun() => term,
                () = stop.cancelled() => return,
            };
            while self.leadership.term() == Some(term) && !stop.is_cancelled() {
                self.watchdog.begin(chore);
                let done = self.part(chore, &term).await;
                self.watchdog.end(chore, done.is_ok());
                let pause = done.unwrap_or_else(|error| {
                    tracing::warn!(duty = chore.name(), %error, "duty failed");
                    AFTER_FAILURE
                });
                if pause.is_zero() {
                    // There is more to do, but others want the store too.
                    tokio::task::yield_now().await;
                    continue;
                }
                tokio::select! {
                    () = self.sleep(chore, pause) => {}
                    () = stop.cancelled() => return,
                }
            }
            self.watchdog.rest(chore);
        }
    }

    /// Does a part. The answer: when to come back.
    async fn part(&self, chore: Chore, term: &Term) -> Result<Duration, Error> {
        let pause = match chore {
            Chore::Jobs(duty) => {
                self.broker.alarms().of(duty).clear();
                let next = self.broker.run_duty(term, duty).await?;
                next.unwrap_or(SLEEP_MAX).min(SLEEP_MAX)
            }
            Chore::Nodes => {
                if self.registry.tidy(term).await? > 0 {
                    self.broker.alarms().of(Duty::Expiry).set(ORPHANED_FOR);
                }
                self.broker.look_ahead().await?;
                NODES_EVERY
            }
            Chore::Tables => {
                self.broker.tidy_tables().await?;
                TABLES_EVERY
            }
        };
        self.registry.note_duty(chore.name());
        Ok(pause)
    }

    /// Sleeps until it is time, or the term is over.
    async fn sleep(&self, chore: Chore, pause: Duration) {
        let Some(term) = self.leadership.term() else { return };
        let mut leadership = self.leadership.clone();
        let time = async {
            match chore {
                Chore::Jobs(duty) => self.broker.alarms().of(duty).sleep(pause).await,
                Chore::Nodes | Chore::Tables => tokio::time::sleep(pause).await,
            }
        };
        tokio::select! {
            () = time => {}
            () = leadership.ended(term) => {}
        }
    }
}
