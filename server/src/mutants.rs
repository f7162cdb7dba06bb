//! Ways in which this broker can be made wrong, so that its checks can prove that they notice.
//!
//! A check that has never failed says little. Each mutant breaks one rule on purpose; a load with
//! faults against nodes of that mutant must be found to have broken the invariant that
//! [`Mutant::noticed_by`] names.
//!
//! Only builds with the feature `mutants` have them, which no release has: without it [`is`] is the
//! constant `false`, [`altered`] and [`sooner`] answer with what they are given, and there is no
//! setting to choose one. With it a mutant is chosen by [`SETTING`], for as long as the process
//! lives. All of them are of the shared store.

use std::time::Duration;

/// One way to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A settle ends whatever lease its job has now, also with the token of an earlier one. Breaks
    /// I3 and I6.
    SkipDeliveryCheck,
    /// A settle that comes too late is answered as if its lease had ended so. Nothing is changed by
    /// it, but two tokens of a job have an ack that was answered well. Breaks I3 and I6.
    AcceptLostLease,
    /// A leader's duty does not check its term, in memory or in the database: a node that was
    /// deposed goes on, by its old term, until it is elected again. Breaks I11.
    SkipFence,
    /// The fence reads the leader's row and does not hold it: an election does not wait for what the
    /// leader before has begun. Some parts of duties linger behind their fence, so that it
    /// happens in minutes and not in weeks; still it takes leaders that are deposed while they live
    /// (their sessions ended by the database, again and again). Breaks I11.
    DropForShare,
    /// Leases are taken back an hour before their time, though their workers live. Breaks I4.
    EarlyRecovery,
    /// Pushes and acks of plain jobs are answered before their commit, which follows 10 ms later
    /// and may fail. Takes a node or a connection to the database that dies under load. Breaks I1
    /// (pushes) and I3 (acks).
    ReplyBeforeCommit,
    /// Once a queue is known, its true head is not looked at any more: what becomes ready behind the
    /// cursor and is told by nobody is left behind. A node that starts anew finds it, so a load
    /// should end with nodes that have lived through the faults: claims that were cut off in
    /// the middle, pushes of unknown outcome. Breaks I14.
    CursorWithoutFullLook,
    /// All nodes fire schedules, whether they lead or not, each from its own reading of what is due.
    /// Breaks I10, if nodes fire at the same moment, and I11.
    FollowerFiresCron,
    /// A push is carried out twice. Nobody is told of the second job. Breaks I2.
    PushTwice,
    /// The idempotency key of a push is ignored. Breaks I8.
    IgnoreIdempotencyKey,
    /// When jobs are due, all become ready that are due within the next hour. Breaks I9.
    DueTooEarly,
    /// What is leased and what was spent of rates is not counted: limits hold within one claim only.
    /// Breaks I12.
    IgnoreLimits,
    /// A lease that ends badly charges nobody: the next attempt has the number of the last one, and
    /// the job never dies of its failures. Breaks I5.
    UncountedEnding,
    /// A lease that ends badly leaves the delivery as it was: the next lease has the same token.
    /// Breaks I5.
    SameDelivery,
    /// A lease that ends badly leaves no trace: nobody can tell why the job goes round again. Breaks
    /// I7.
    UnloggedEnding,
    /// An ack of a plain job completes it and leaves its row, as of a job that is leased for ever.
    /// Breaks I13.
    AckLeavesRow,
}

/// By how much those are early that are.
pub const EARLY: Duration = Duration::from_secs(3600);

#[cfg(not(feature = "mutants"))]
mod none {
    use super::{Duration, Mutant};

    /// Whether this process is this mutant: none is.
    #[inline]
    pub const fn is(_: Mutant) -> bool {
        false
    }

    /// The statement as it is.
    #[inline]
    pub const fn altered(
        _: Mutant,
        sql: &'static str,
        _: &'static str,
        _: &'static str,
    ) -> &'static str {
        sql
    }

    /// The pause as it is.
    #[inline]
    pub const fn sooner(_: Mutant, pause: Option<Duration>) -> Option<Duration> {
        pause
    }
}

#[cfg(not(feature = "mutants"))]
pub use none::{altered, is, sooner};

#[cfg(feature = "mutants")]
mod some {
    use std::collections::HashMap;
    use std::sync::OnceLock;

    use parking_lot::Mutex;

    use super::{Duration, Mutant};

    /// The setting that chooses one, in the environment only.
    pub const SETTING: &str = "BATONQ_MUTANT";

    /// The longest pause of a mutant that must not wait until it is woken.
    const PAUSE_MAX: Duration = Duration::from_millis(250);

    static CHOSEN: OnceLock<Mutant> = OnceLock::new();

    impl Mutant {
        /// All of them.
        pub const ALL: [Self; 16] = [
            Self::SkipDeliveryCheck,
            Self::AcceptLostLease,
            Self::SkipFence,
            Self::DropForShare,
            Self::EarlyRecovery,
            Self::ReplyBeforeCommit,
            Self::CursorWithoutFullLook,
            Self::FollowerFiresCron,
            Self::PushTwice,
            Self::IgnoreIdempotencyKey,
            Self::DueTooEarly,
            Self::IgnoreLimits,
            Self::UncountedEnding,
            Self::SameDelivery,
            Self::UnloggedEnding,
            Self::AckLeavesRow,
        ];

        /// The word for it.
        pub const fn name(self) -> &'static str {
            match self {
                Self::SkipDeliveryCheck => "skip-delivery-check",
                Self::AcceptLostLease => "accept-lost-lease",
                Self::SkipFence => "skip-fence",
                Self::DropForShare => "drop-for-share",
                Self::EarlyRecovery => "early-recovery",
                Self::ReplyBeforeCommit => "reply-before-commit",
                Self::CursorWithoutFullLook => "cursor-without-full-look",
                Self::FollowerFiresCron => "follower-fires-cron",
                Self::PushTwice => "push-twice",
                Self::IgnoreIdempotencyKey => "ignore-idempotency-key",
                Self::DueTooEarly => "due-too-early",
                Self::IgnoreLimits => "ignore-limits",
                Self::UncountedEnding => "uncounted-ending",
                Self::SameDelivery => "same-delivery",
                Self::UnloggedEnding => "unlogged-ending",
                Self::AckLeavesRow => "ack-leaves-row",
            }
        }

        /// The invariants that it breaks: a check must find one of them broken.
        pub const fn noticed_by(self) -> &'static [&'static str] {
            match self {
                Self::SkipDeliveryCheck | Self::AcceptLostLease => &["I3", "I6"],
                Self::SkipFence | Self::DropForShare => &["I11"],
                Self::EarlyRecovery => &["I4"],
                Self::ReplyBeforeCommit => &["I1", "I3"],
                Self::CursorWithoutFullLook => &["I14"],
                Self::FollowerFiresCron => &["I10", "I11"],
                Self::PushTwice => &["I2"],
                Self::IgnoreIdempotencyKey => &["I8"],
                Self::DueTooEarly => &["I9"],
                Self::IgnoreLimits => &["I12"],
                Self::UncountedEnding | Self::SameDelivery => &["I5"],
                Self::UnloggedEnding => &["I7"],
                Self::AckLeavesRow => &["I13"],
            }
        }

        /// The one of this name.
        ///
        /// # Errors
        ///
        /// The names that there are.
        pub fn parse(name: &str) -> Result<Self, String> {
            let found = Self::ALL.into_iter().find(|mutant| mutant.name() == name);
            found.ok_or_else(|| Self::ALL.map(Self::name).join(", "))
        }
    }

    /// Makes this process a mutant, once and for all, and says so loudly.
    pub fn choose(mutant: Option<Mutant>) {
        let Some(mutant) = mutant else { return };
        let chosen = CHOSEN.get_or_init(|| mutant);
        let (mutant, breaks) = (chosen.name(), chosen.noticed_by().join(", "));
        tracing::warn!(mutant, breaks, "THIS BROKER IS WRONG ON PURPOSE: give it no job you need");
    }

    /// The version of a mutant; `None`: this is none.
    pub fn version() -> Option<&'static str> {
        static VERSION: OnceLock<String> = OnceLock::new();
        let mutant = CHOSEN.get()?;
        let text = || format!("{}+mutant.{}", env!("CARGO_PKG_VERSION"), mutant.name());
        Some(VERSION.get_or_init(text))
    }

    /// Whether this process is this mutant.
    pub fn is(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(&mutant)
    }

    /// The statement with `part` replaced, if this process is this mutant.
    ///
    /// # Panics
    ///
    /// If the statement has no such part any more.
    pub fn altered(
        mutant: Mutant,
        sql: &'static str,
        part: &'static str,
        by: &'static str,
    ) -> &'static str {
        static ALTERED: Mutex<Option<HashMap<(&str, &str), &'static str>>> = Mutex::new(None);
        if !is(mutant) {
            return sql;
        }
        let mut altered = ALTERED.lock();
        altered.get_or_insert_default().entry((sql, part)).or_insert_with(|| {
            assert!(sql.contains(part), "{}: the statement has no {part:?}", mutant.name());
            sql.replace(part, by).leak()
        })
    }

    /// The pause, or a short one if this process is this mutant.
    pub fn sooner(mutant: Mutant, pause: Option<Duration>) -> Option<Duration> {
        match is(mutant) {
            true => Some(pause.map_or(PAUSE_MAX, |pause| pause.min(PAUSE_MAX))),
            false => pause,
        }
    }

    /// Keeps the caller for a while now and then, if this process is this mutant: it is wrong only
    /// as long as something else happens in between.
    pub async fn linger(mutant: Mutant) {
        if is(mutant) && rand::random_range(0..4) == 0 {
            let pause = Duration::from_millis(rand::random_range(0..800));
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(feature = "mutants")]
pub use some::{SETTING, altered, choose, is, linger, sooner, version};

#[cfg(all(test, feature = "mutants"))]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_what_is_none_is_told_all_of_them() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::parse(mutant.name()), Ok(mutant));
        }
        let names = Mutant::parse("skip-all").unwrap_err();
        assert!(Mutant::ALL.into_iter().all(|mutant| names.contains(mutant.name())), "{names}");
    }

    #[test]
    fn every_invariant_has_a_mutant() {
        for number in 1..=14 {
            let name = format!("I{number}");
            let is_broken = |mutant: &Mutant| mutant.noticed_by().contains(&name.as_str());
            assert!(Mutant::ALL.iter().any(is_broken), "{name}");
        }
    }

    #[test]
    fn nobody_is_a_mutant_who_was_not_made_one() {
        assert!(Mutant::ALL.into_iter().all(|mutant| !is(mutant)));
        assert_eq!((version(), altered(Mutant::SkipFence, "a b", "b", "c")), (None, "a b"));
    }
}
