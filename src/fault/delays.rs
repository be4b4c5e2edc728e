//! Limits the total delay that faults add to the calls of all resources.
//!
//! The kubelet admits pods one at a time and calls Allocate during the admission. Its `syncloop` health check fails if
//! one iteration of that loop takes longer than 5 minutes (`SyncLoopHealthCheck` in `kubelet.go`).

use std::time::{Duration, Instant};

/// The maximum delay of one call.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(60);

/// The maximum total delay of all calls within any [`WINDOW`].
const TOTAL_MAX: Duration = Duration::from_secs(120);

/// The minimum that a delay counts for. It limits the number of remembered delays to 12,000.
const CHARGED_MIN: Duration = Duration::from_millis(10);

/// The limit of the kubelet's `syncloop` health check.
const WINDOW: Duration = Duration::from_secs(300);

/// The limits, shown in the log and to a client that sets a delay.
pub(crate) const DELAY_LIMITS: &str = "a call is delayed by at most 60s, and all calls of the daemon together by at most 120s in any 5 minutes";

/// The reason for [`DELAY_LIMITS`].
pub(crate) const DELAY_LIMITS_REASON: &str = "the kubelet admits pods one at a time, and its health check fails if that takes longer than 5 minutes";

/// The delays of the calls of all resources.
#[derive(Debug, Default)]
pub struct Delays {
    /// The delays that may still count within the current window.
    granted: Vec<ChargedDelay>,
    next: u64,
}

#[derive(Debug)]
struct ChargedDelay {
    id: u64,
    began: Instant,
    ended: Instant,
}

/// A granted delay. Pass it to [`Delays::end`] when the delay ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    id: u64,
    /// How long the call may be delayed: the requested duration or less, down to zero.
    pub length: Duration,
}

impl Delays {
    /// Grants a delay of at most `wanted`, within the limits.
    pub(crate) fn grant(&mut self, wanted: Duration, now: Instant) -> Grant {
        // No window that contains the new delay can contain these older delays.
        self.granted.retain(|granted| granted.ended + WINDOW > now);
        let used: Duration = self.granted.iter().map(|g| g.ended - g.began).sum();
        let length = wanted.min(DELAY_MAX).min(TOTAL_MAX.saturating_sub(used));
        let id = self.next;
        self.next += 1;
        if !length.is_zero() {
            self.granted.push(ChargedDelay {
                id,
                began: now,
                ended: now + length,
            });
        }
        Grant { id, length }
    }

    /// Ends a delay, so that its unused rest can be granted again.
    pub fn end(&mut self, grant: &Grant, now: Instant) {
        if let Some(granted) = self
            .granted
            .iter_mut()
            .find(|granted| granted.id == grant.id)
        {
            granted.ended = granted.ended.min(now).max(granted.began + CHARGED_MIN);
        }
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
    fn grants_two_minutes_in_any_five_minutes() {
        let (mut delays, start) = (Delays::default(), Instant::now());
        let mut grant = |wanted, at| delays.grant(seconds(wanted), start + seconds(at)).length;
        assert_eq!(grant(90, 0), seconds(60));
        assert_eq!(grant(50, 60), seconds(50));
        assert_eq!(grant(50, 110), seconds(10));
        assert_eq!(grant(50, 359), Duration::ZERO);
        assert_eq!(grant(1, 360), seconds(1));
    }

    #[test]
    fn the_unused_rest_of_a_delay_can_be_granted_again() {
        let (mut delays, start) = (Delays::default(), Instant::now());
        let grants = [0, 1].map(|_| delays.grant(seconds(60), start));
        assert_eq!(delays.grant(seconds(60), start).length, Duration::ZERO);
        delays.end(&grants[0], start + seconds(5));
        let third = delays.grant(seconds(60), start + seconds(5));
        assert_eq!(third.length, seconds(55));
        delays.end(&third, start + seconds(5));
        // Ending the same delay again has no effect.
        delays.end(&grants[0], start + seconds(90));
        let fourth = delays.grant(seconds(60), start + seconds(90));
        assert_eq!(fourth.length + CHARGED_MIN, seconds(55));
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_maximum_delay(
            calls in prop::collection::vec((0_u64..100, 1_u64..90, 0_u64..90), 1..40),
        ) {
            let (mut delays, start) = (Delays::default(), Instant::now());
            let mut now = start;
            let mut open: Vec<(Grant, Instant)> = Vec::new();
            let mut delays_made: Vec<(Duration, Duration)> = Vec::new();
            for (pause, wanted, lasts) in calls {
                now += seconds(pause);
                for (grant, ends) in open.extract_if(.., |(_, ends)| *ends <= now) {
                    delays.end(&grant, ends);
                }
                let grant = delays.grant(seconds(wanted), now);
                let ends = now + grant.length.min(seconds(lasts));
                delays_made.push((now - start, ends - start));
                open.push((grant, ends));
            }
            for (begin, end) in &delays_made {
                for window in [*begin, begin.saturating_sub(WINDOW), end.saturating_sub(WINDOW)] {
                    let within = |(from, to): &(Duration, Duration)| {
                        (*to).min(window + WINDOW).saturating_sub((*from).max(window))
                    };
                    let sum: Duration = delays_made.iter().map(within).sum();
                    prop_assert!(sum <= TOTAL_MAX, "{sum:?}");
                }
            }
        }
    }

    #[test]
    fn each_delay_counts_for_at_least_the_minimum() {
        let (mut delays, now) = (Delays::default(), Instant::now());
        for millis in [60_000, 59_900] {
            delays.grant(Duration::from_millis(millis), now);
        }
        let granted = (0..100).filter(|_| {
            let grant = delays.grant(CHARGED_MIN, now);
            delays.end(&grant, now);
            !grant.length.is_zero()
        });
        assert_eq!(granted.count(), 10);
    }
}
