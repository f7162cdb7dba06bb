//! How long to pause between two tries.

use std::time::Duration;

/// Doubles from `min` to `max`; a half of each pause is left to chance.
#[derive(Debug, Clone)]
pub(crate) struct Pauses {
    min: Duration,
    max: Duration,
    tries: u32,
}

impl Pauses {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, tries: 0 }
    }

    /// The next pause. `chance` is 0.0 to 1.0.
    pub(crate) fn next(&mut self, chance: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(self.tries);
        let longest = self.min.saturating_mul(doubled).min(self.max);
        self.tries = self.tries.saturating_add(1);
        longest.mul_f64(0.5 + chance * 0.5)
    }

    /// Begins with the shortest pause again.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(1));
        let told: Vec<_> = (0..7).map(|_| pauses.next(1.0).as_millis()).collect();
        assert_eq!(told, [50, 100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_half_is_left_to_chance() {
        let mut pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(1));
        assert_eq!(pauses.next(0.0), Duration::from_millis(25));
        pauses.reset();
        assert_eq!(pauses.next(1.0), Duration::from_millis(50));
    }

    #[test]
    fn no_number_of_tries_is_too_many() {
        let mut pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(5));
        pauses.tries = u32::MAX;
        assert_eq!(pauses.next(1.0), Duration::from_secs(5));
    }
}
