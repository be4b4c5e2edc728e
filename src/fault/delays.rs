//! How long the calls of all resources together may be delayed.
//!
//! The kubelet admits pods one after the other, each with its calls of Allocate, and calls itself unhealthy when
//! one turn of that loop takes 5 minutes (`SyncLoopHealthCheck` in `kubelet.go`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One call is delayed by this at most.
pub const DELAY_MAX: Duration = Duration::from_millis(DELAY_MAX_MS);

/// In milliseconds.
pub const DELAY_MAX_MS: u64 = 60_000;

/// All calls together are delayed by this at most, within any [`WINDOW`].
pub const DELAYS_MAX: Duration = Duration::from_secs(120);

/// The kubelet's patience.
pub const WINDOW: Duration = Duration::from_secs(300);

/// The delays of all resources. The time is an argument.
#[derive(Debug, Default)]
pub struct Delays {
    /// When each that may still count ends, and how long it is.
    granted: VecDeque<(Instant, Duration)>,
}

impl Delays {
    /// How long a call may be delayed that should be for so long. What is granted is used up, also where the call is
    /// answered earlier.
    pub fn grant(&mut self, wanted: Duration, now: Instant) -> Duration {
        // Whatever window the new delay falls into, those that ended before cannot be in it.
        self.granted.retain(|(end, _)| *end + WINDOW > now);
        let used: Duration = self.granted.iter().map(|(_, length)| *length).sum();
        let granted = wanted.min(DELAY_MAX).min(DELAYS_MAX.saturating_sub(used));
        if !granted.is_zero() {
            self.granted.push_back((now + granted, granted));
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn two_minutes_are_used_up_and_come_back_after_five() {
        let (mut delays, start) = (Delays::default(), Instant::now());
        assert_eq!(delays.grant(seconds(90), start), DELAY_MAX);
        assert_eq!(delays.grant(seconds(50), start + seconds(60)), seconds(50));
        assert_eq!(delays.grant(seconds(50), start + seconds(110)), seconds(10));
        assert_eq!(
            delays.grant(seconds(50), start + seconds(359)),
            Duration::ZERO
        );
        assert_eq!(delays.grant(seconds(1), start + seconds(360)), seconds(1));
    }

    proptest! {
        /// Of no five minutes more than two are spent in delays, however the calls come.
        #[test]
        fn no_window_has_more(calls in prop::collection::vec((0_u64..100, 1_u64..90), 1..40)) {
            let (mut delays, start) = (Delays::default(), Instant::now());
            let mut now = start;
            let mut spent: Vec<(Duration, Duration)> = Vec::new();
            for (pause, wanted) in calls {
                now += seconds(pause);
                let granted = delays.grant(seconds(wanted), now);
                let from = now - start;
                spent.push((from, from + granted));
            }
            for (begin, _) in &spent {
                for window in [*begin, begin.saturating_sub(WINDOW)] {
                    let end = window + WINDOW;
                    let within = |(from, to): &(Duration, Duration)| {
                        (*to).min(end).saturating_sub((*from).max(window))
                    };
                    let sum: Duration = spent.iter().map(within).sum();
                    prop_assert!(sum <= DELAYS_MAX, "{sum:?}");
                }
            }
        }
    }
}
