//! How long the calls of all resources together may be delayed.
//!
//! The kubelet admits pods one after the other, each with its calls of Allocate, and calls itself unhealthy when
//! one turn of that loop takes 5 minutes (`SyncLoopHealthCheck` in `kubelet.go`).

use std::time::{Duration, Instant};

/// One call is delayed by this at most.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(60);

/// All calls together are delayed by this at most, within any [`WINDOW`].
const TOTAL_MAX: Duration = Duration::from_secs(120);

/// A delay that ends at once counts for this: so no more than 12,000 are remembered.
const CHARGED_MIN: Duration = Duration::from_millis(10);

/// The kubelet's patience.
const WINDOW: Duration = Duration::from_secs(300);

/// All of that in words.
pub(crate) const DELAY_LIMITS: &str =
    "one call is delayed by 60s at most, all of the program together by 120s within 5 minutes";

pub(crate) const DELAY_LIMITS_REASON: &str = "the kubelet admits one pod after the other, and calls itself unhealthy when that takes 5 minutes";

/// The delays of all resources. The time is an argument.
#[derive(Debug, Default)]
pub struct Delays {
    /// Those that may still count.
    granted: Vec<LedgerEntry>,
    next: u64,
}

#[derive(Debug)]
struct LedgerEntry {
    id: u64,
    began: Instant,
    ended: Instant,
}

/// A delay that was granted.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    id: u64,
    pub length: Duration,
}

impl Delays {
    /// How long a call may be delayed that should be for so long.
    pub(crate) fn grant(&mut self, wanted: Duration, now: Instant) -> Grant {
        // Whatever window the new delay falls into, those that ended before cannot be in it.
        self.granted.retain(|granted| granted.ended + WINDOW > now);
        let used: Duration = self.granted.iter().map(|g| g.ended - g.began).sum();
        let length = wanted.min(DELAY_MAX).min(TOTAL_MAX.saturating_sub(used));
        let id = self.next;
        self.next += 1;
        if !length.is_zero() {
            self.granted.push(LedgerEntry {
                id,
                began: now,
                ended: now + length,
            });
        }
        Grant { id, length }
    }

    /// It is over at this moment: what is left of it is free again.
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
    fn two_minutes_are_used_up_and_free_again_after_five() {
        let (mut delays, start) = (Delays::default(), Instant::now());
        let mut grant = |wanted, at| delays.grant(seconds(wanted), start + seconds(at)).length;
        assert_eq!(grant(90, 0), seconds(60));
        assert_eq!(grant(50, 60), seconds(50));
        assert_eq!(grant(50, 110), seconds(10));
        assert_eq!(grant(50, 359), Duration::ZERO);
        assert_eq!(grant(1, 360), seconds(1));
    }

    #[test]
    fn unused_delay_is_free_again() {
        let (mut delays, start) = (Delays::default(), Instant::now());
        let grants = [0, 1].map(|_| delays.grant(seconds(60), start));
        assert_eq!(delays.grant(seconds(60), start).length, Duration::ZERO);
        delays.end(&grants[0], start + seconds(5));
        let third = delays.grant(seconds(60), start + seconds(5));
        assert_eq!(third.length, seconds(55));
        delays.end(&third, start + seconds(5));
        // Not twice.
        delays.end(&grants[0], start + seconds(90));
        let fourth = delays.grant(seconds(60), start + seconds(90));
        assert_eq!(fourth.length + CHARGED_MIN, seconds(55));
    }

    proptest! {
        #[test]
        fn no_five_minutes_have_more_than_two_of_delays(
            calls in prop::collection::vec((0_u64..100, 1_u64..90, 0_u64..90), 1..40),
        ) {
            let (mut delays, start) = (Delays::default(), Instant::now());
            let mut now = start;
            let mut open: Vec<(Grant, Instant)> = Vec::new();
            let mut spent: Vec<(Duration, Duration)> = Vec::new();
            for (pause, wanted, lasts) in calls {
                now += seconds(pause);
                for (grant, ends) in open.extract_if(.., |(_, ends)| *ends <= now) {
                    delays.end(&grant, ends);
                }
                let grant = delays.grant(seconds(wanted), now);
                let ends = now + grant.length.min(seconds(lasts));
                spent.push((now - start, ends - start));
                open.push((grant, ends));
            }
            for (begin, end) in &spent {
                for window in [*begin, begin.saturating_sub(WINDOW), end.saturating_sub(WINDOW)] {
                    let within = |(from, to): &(Duration, Duration)| {
                        (*to).min(window + WINDOW).saturating_sub((*from).max(window))
                    };
                    let sum: Duration = spent.iter().map(within).sum();
                    prop_assert!(sum <= TOTAL_MAX, "{sum:?}");
                }
            }
        }
    }

    #[test]
    fn delays_that_end_at_once_are_limited_in_number() {
        let (mut delays, now) = (Delays::default(), Instant::now());
        for long in [60_000, 59_900] {
            delays.grant(Duration::from_millis(long), now);
        }
        let granted = (0..100).filter(|_| {
            let grant = delays.grant(CHARGED_MIN, now);
            delays.end(&grant, now);
            !grant.length.is_zero()
        });
        assert_eq!(granted.count(), 10);
    }
}
