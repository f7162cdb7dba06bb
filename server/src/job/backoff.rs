//! How long to wait after a failed attempt.

use std::time::Duration;

use super::InvalidField;
use crate::limits;

/// The rule for the delay between attempts.
#[derive(Debug, Clone, PartialEq)]
pub enum Backoff {
    /// `base`, 2 × `base`, 4 × `base`, … up to `max`.
    Exponential {
        /// The delay after the first failure.
        base: Duration,
        /// No delay is longer.
        max: Duration,
        /// The share of the delay that is left to chance, 0 to 1: with 0.5, a delay of 10 s
        /// becomes 5 to 10 s. It keeps jobs that failed together from coming back together.
        jitter: f64,
    },
    /// The same delay each time.
    Fixed(Duration),
    /// These delays in turn, then the last one for ever.
    List(Vec<Duration>),
}

impl Default for Backoff {
    /// 1 s, 2 s, 4 s, … up to an hour, half of it left to chance.
    fn default() -> Self {
        Self::Exponential {
            base: Duration::from_secs(1),
            max: Duration::from_secs(3600),
            jitter: 0.5,
        }
    }
}

impl Backoff {
    /// The delay after the failure of `attempt` (1 is the first).
    ///
    /// `chance` is evenly distributed over 0 to 1; the caller draws it.
    pub fn after_failure(&self, attempt: u32, chance: f64) -> Duration {
        let step = attempt.saturating_sub(1);
        match self {
            Self::Exponential { base, max, jitter } => {
                let factor = 2u32.checked_pow(step).unwrap_or(u32::MAX);
                base.saturating_mul(factor).min(*max).mul_f64(1.0 - jitter * chance)
            }
            Self::Fixed(delay) => *delay,
            Self::List(delays) => {
                delays.get(step as usize).or(delays.last()).copied().unwrap_or(Duration::ZERO)
            }
        }
    }

    /// # Errors
    ///
    /// If a delay is beyond [`limits::DELAY_MAX`], the jitter not within 0 to 1, or the list empty
    /// or too long.
    pub fn check(self) -> Result<Self, InvalidField> {
        let in_range = |field, delay: Duration| match delay > limits::DELAY_MAX {
            true => Err(InvalidField::new(field, "more than ten years")),
            false => Ok(()),
        };
        match &self {
            Self::Exponential { base, max, jitter } => {
                in_range("backoff.base_ms", *base)?;
                in_range("backoff.max_ms", *max)?;
                if !(0.0..=1.0).contains(jitter) {
                    return Err(InvalidField::new("backoff.jitter", "must be from 0 to 1"));
                }
            }
            Self::Fixed(delay) => in_range("backoff.delay_ms", *delay)?,
            Self::List(delays) => {
                if delays.is_empty() || delays.len() > limits::BACKOFF_DELAYS_MAX {
                    let detail = format!("must have 1 to {} entries", limits::BACKOFF_DELAYS_MAX);
                    return Err(InvalidField::new("backoff.delays_ms", detail));
                }
                delays.iter().try_for_each(|delay| in_range("backoff.delays_ms", *delay))?;
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn exponential_doubles_up_to_its_max() {
        let backoff = Backoff::Exponential { base: SECOND, max: 10 * SECOND, jitter: 0.0 };
        let delays: Vec<u64> =
            [1, 2, 3, 4, 5, 1000].map(|n| backoff.after_failure(n, 0.7).as_secs()).into();
        assert_eq!(delays, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn jitter_takes_away_its_share_at_most() {
        let backoff = Backoff::Exponential { base: SECOND, max: SECOND, jitter: 0.5 };
        assert_eq!(backoff.after_failure(1, 0.0), SECOND);
        assert_eq!(backoff.after_failure(1, 1.0), SECOND / 2);
    }

    #[test]
    fn the_last_of_a_list_goes_on() {
        let backoff = Backoff::List(vec![SECOND, 5 * SECOND]);
        assert_eq!(backoff.after_failure(1, 0.0), SECOND);
        assert_eq!(backoff.after_failure(2, 0.0), 5 * SECOND);
        assert_eq!(backoff.after_failure(9, 0.0), 5 * SECOND);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let exponential = |jitter| Backoff::Exponential { base: SECOND, max: SECOND, jitter };
        for (bad, field) in [
            (exponential(1.1), "backoff.jitter"),
            (exponential(f64::NAN), "backoff.jitter"),
            (exponential(-0.1), "backoff.jitter"),
            (Backoff::List(vec![]), "backoff.delays_ms"),
            (Backoff::List(vec![SECOND; 101]), "backoff.delays_ms"),
            (Backoff::Fixed(limits::DELAY_MAX + SECOND), "backoff.delay_ms"),
        ] {
            assert_eq!(bad.check().unwrap_err().field, field);
        }
        assert!(Backoff::List(vec![SECOND; 100]).check().is_ok());
    }
}
