//! What a queue takes: guards against producers that push more than it bears.
//!
//! A push is judged before anything is looked at that it says, by what is in the queue then. So
//! the repetition of a push that was taken is refused like a new one while the queue is full, and
//! is found to be a repetition once it is not. What the broker pushes itself, for schedules and
//! replays, is not judged.

use std::fmt;

use super::Settings;

/// What a guard limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guard {
    /// The bytes of one payload.
    PayloadBytes,
    /// Jobs taken in one minute of the clock.
    PushesPerMinute,
    /// Jobs that wait: scheduled, blocked and ready ones.
    Depth,
    /// The bytes of their payloads.
    WaitingBytes,
}

impl Guard {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 4] =
        [Self::PayloadBytes, Self::PushesPerMinute, Self::Depth, Self::WaitingBytes];

    /// The name of the setting.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PayloadBytes => "payload_bytes_max",
            Self::PushesPerMinute => "pushes_per_minute",
            Self::Depth => "depth_max",
            Self::WaitingBytes => "waiting_bytes_max",
        }
    }

    /// The guard of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|guard| guard.name() == name)
    }
}

/// A guard that says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breach {
    /// Which.
    pub guard: Guard,
    /// What it allows.
    pub max: u64,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = self.max;
        match self.guard {
            Guard::PayloadBytes => write!(f, "this queue takes payloads of up to {max} bytes"),
            Guard::PushesPerMinute => write!(f, "this queue takes {max} jobs a minute"),
            Guard::Depth => write!(f, "this queue lets {max} jobs wait"),
            Guard::WaitingBytes => write!(f, "this queue lets {max} bytes of payloads wait"),
        }
    }
}

/// What is in a queue, as its guards see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fill {
    /// Jobs taken in this minute.
    pub this_minute: u64,
    /// Jobs that wait.
    pub waiting: u64,
    /// The bytes of their payloads.
    pub waiting_bytes: u64,
}

impl Settings {
    /// Whether pushes must be judged.
    pub fn is_guarded(&self) -> bool {
        self.payload_bytes_max.is_some()
            || self.pushes_per_minute.is_some()
            || self.depth_max.is_some()
            || self.waiting_bytes_max.is_some()
    }

    /// Takes a job with a payload of so many bytes, or says which guard does not.
    ///
    /// # Errors
    ///
    /// The first guard that says no.
    pub fn admit(&self, fill: &mut Fill, bytes: u64) -> Result<(), Breach> {
        let after = Fill {
            this_minute: fill.this_minute + 1,
            waiting: fill.waiting + 1,
            waiting_bytes: fill.waiting_bytes + bytes,
        };
        for (guard, used, max) in [
            (Guard::PayloadBytes, bytes, self.payload_bytes_max),
            (Guard::PushesPerMinute, after.this_minute, self.pushes_per_minute),
            (Guard::Depth, after.waiting, self.depth_max),
            (Guard::WaitingBytes, after.waiting_bytes, self.waiting_bytes_max),
        ] {
            if let Some(max) = max
                && used > max
            {
                return Err(Breach { guard, max });
            }
        }
        *fill = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_counts_and_what_is_refused_does_not() {
        let settings =
            Settings { depth_max: Some(2), waiting_bytes_max: Some(10), ..Settings::default() };
        let mut fill = Fill::default();
        settings.admit(&mut fill, 4).unwrap();
        let breach = settings.admit(&mut fill, 7).unwrap_err();
        assert_eq!(breach, Breach { guard: Guard::WaitingBytes, max: 10 });
        settings.admit(&mut fill, 6).unwrap();
        assert_eq!(settings.admit(&mut fill, 0).unwrap_err().guard, Guard::Depth);
        assert_eq!(fill, Fill { this_minute: 2, waiting: 2, waiting_bytes: 10 });
    }

    #[test]
    fn guards_are_known_by_their_names() {
        for guard in Guard::ALL {
            assert_eq!(Guard::parse(guard.name()), Some(guard));
        }
    }
}
