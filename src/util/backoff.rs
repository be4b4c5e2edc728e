//! Exponential backoff between retries.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// Delays that double from 0.1 s to 30 s. Each is varied by up to 20 %, so that many instances do not retry in step.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// Returns the next delay. `chance` is a random number from 0 to 1 that selects the variation.
    pub fn pause(&mut self, chance: f64) -> Duration {
        let pause = self.next.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0));
        self.next = LONGEST.min(self.next * 2);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_30_seconds() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..11).map(|_| backoff.pause(0.5).as_millis()).collect();
        assert_eq!(
            pauses,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000
            ]
        );
    }

    #[test]
    fn varies_a_pause_by_20_percent() {
        assert_eq!(Backoff::default().pause(0.0).as_millis(), 80);
        assert_eq!(Backoff::default().pause(1.0).as_millis(), 120);
    }
}
