//! The faults that are set on one resource.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enum_map::EnumMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::values::ErrorCode;
use super::{ArmedFault, CallFault, Fault, FaultId, FaultKind, InjectionPoint};

/// The maximum number of faults of one resource that are set at run time, and also of those in its configuration. Every
/// call evaluates all of them.
pub(crate) const FAULTS_MAX: usize = 64;

/// The same maximum for `health` faults. Every phase of such a fault searches the whole device list.
pub(crate) const FLAPS_MAX: usize = 8;

/// The message of an error fault without `message`. It appears in pod events.
const MESSAGE_DEFAULT: &str = "injected fault";

/// The faults that were already evaluated for the current stream or registration. Each is evaluated only once.
pub(crate) type Evaluated = BTreeSet<FaultId>;

/// The faults that are injected into one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallInjections {
    /// The delays. The call is delayed by their sum.
    pub delays: Vec<(FaultId, Duration)>,
    /// The error that the call returns, with the fault that causes it.
    pub error: Option<(FaultId, InjectedError)>,
}

/// An error that the kubelet gets instead of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectedError {
    pub code: ErrorCode,
    pub message: String,
}

/// A fault that suspends the registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspension {
    pub id: FaultId,
    /// When the suspension ends. `None`: when the fault is cleared.
    pub until: Option<Instant>,
}

/// The maximum number of faults is reached. The variants are part of the control protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "camelCase")]
pub enum TooManyFaults {
    #[error(
        "the limit of {FAULTS_MAX} faults set at run time is reached: remove the faults of the resource with `fault clear RESOURCE`"
    )]
    Faults,
    /// Too many `health` faults.
    #[error(
        "the limit of {FLAPS_MAX} health faults set at run time is reached: remove the faults of the resource with `fault clear RESOURCE`"
    )]
    Flaps,
}

/// All faults of one resource.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    armed: Vec<ArmedFault>,
    next: u64,
    /// The faults in the configuration, including those that were cleared.
    configured: Arc<[Fault]>,
    /// The injection points that ever had a fault.
    used: EnumMap<InjectionPoint, bool>,
}

impl Faults {
    /// The faults that are set.
    pub(crate) fn armed(&self) -> &[ArmedFault] {
        &self.armed
    }

    /// Whether this fault is still set.
    pub fn has(&self, id: FaultId) -> bool {
        self.armed.iter().any(|armed| armed.id == id)
    }

    /// Whether any fault is set on this injection point.
    pub(crate) fn has_fault_on(&self, point: InjectionPoint) -> bool {
        self.armed.iter().any(|armed| armed.fault.point() == point)
    }

    /// Returns each injection point that ever had a fault, and how many of its faults are active: not exhausted, or
    /// suspending the registration until they are cleared.
    pub(crate) fn active(&self) -> impl Iterator<Item = (InjectionPoint, usize)> {
        let used = self.used.iter().filter(|(_, used)| **used);
        used.map(|(point, _)| {
            let on_point = self
                .armed
                .iter()
                .filter(move |armed| armed.fault.point() == point);
            (point, on_point.filter(|armed| armed.is_active()).count())
        })
    }

    /// Adds a fault at run time. If the maximum is reached, it replaces a finished fault. `seed` is used if the fault has none.
    ///
    /// # Errors
    /// Returns an error if the maximum is reached and no fault is finished.
    pub fn set(&mut self, fault: Fault, seed: u64) -> Result<&ArmedFault, TooManyFaults> {
        let is_set_at_run_time = |armed: &&ArmedFault| armed.set_at_run_time;
        let is_flap = |fault: &Fault| fault.point() == InjectionPoint::Health;
        let flapping = self.armed.iter().filter(is_set_at_run_time);
        if is_flap(&fault) && flapping.filter(|armed| is_flap(&armed.fault)).count() >= FLAPS_MAX {
            return Err(TooManyFaults::Flaps);
        }
        if self.armed.iter().filter(is_set_at_run_time).count() >= FAULTS_MAX {
            let mut armed = self.armed.iter();
            let finished = armed.position(|armed| armed.set_at_run_time && armed.is_finished());
            self.armed.remove(finished.ok_or(TooManyFaults::Faults)?);
        }
        let armed = self.arm(fault, true, seed);
        self.armed.push(armed);
        self.armed.last().ok_or(TooManyFaults::Faults)
    }

    /// Whether `configured` equals the current configuration.
    pub(crate) fn are_configured(&self, configured: &[Fault]) -> bool {
        *self.configured == *configured
    }

    /// Replaces the configured faults. A fault in both configurations keeps its state, or stays cleared. Faults set at run
    /// time stay. Returns the faults that are new.
    pub fn configure(&mut self, configured: &[Fault], mut seed: impl FnMut() -> u64) -> Vec<Fault> {
        let before = std::mem::replace(&mut self.configured, configured.into());
        let all = std::mem::take(&mut self.armed);
        let (set_at_run_time, mut known): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|armed| armed.set_at_run_time);
        let mut before: Vec<&Fault> = before.iter().collect();
        let mut new = Vec::new();
        for fault in configured {
            let was_configured = before.iter().position(|before| *before == fault);
            let kept = known.iter().position(|armed| armed.requested == *fault);
            if let Some(position) = was_configured {
                before.swap_remove(position);
            }
            match (kept, was_configured) {
                (Some(position), _) => self.armed.push(known.remove(position)),
                // The fault was cleared at run time.
                (None, Some(_)) => {}
                (None, None) => {
                    let armed = self.arm(fault.clone(), false, seed());
                    new.push(armed.fault.clone());
                    self.armed.push(armed);
                }
            }
        }
        self.armed.extend(set_at_run_time);
        new
    }

    /// Removes all faults and sets the configured ones again, with new counters.
    pub fn reset(&mut self, seed: impl FnMut() -> u64) {
        self.clear();
        let configured = std::mem::take(&mut self.configured);
        self.configure(&configured, seed);
    }

    /// Removes all faults, including configured ones, and returns how many there were.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.armed).len()
    }

    /// Evaluates the faults on this injection point for one call.
    pub fn inject_call(&mut self, point: InjectionPoint) -> CallInjections {
        let mut injections = CallInjections::default();
        for armed in self.inject(point, |_| true) {
            match armed.fault.on.call() {
                Some(CallFault::Delay(delay)) => {
                    armed.delaying += 1;
                    injections.delays.push((armed.id, *delay));
                }
                // A call returns only the first error.
                Some(CallFault::Error { .. }) if injections.error.is_some() => {
                    armed.injected -= 1;
                }
                Some(CallFault::Error { code, message }) => {
                    let message = message.as_deref().unwrap_or(MESSAGE_DEFAULT).to_owned();
                    let code = *code;
                    injections.error = Some((armed.id, InjectedError { code, message }));
                }
                None => {}
            }
        }
        injections
    }

    /// Records that a call that these faults delayed waits no longer.
    pub fn delay_ended(&mut self, ids: &[FaultId]) {
        for armed in &mut self.armed {
            if ids.contains(&armed.id) {
                armed.delaying = armed.delaying.saturating_sub(1);
            }
        }
    }

    /// Takes back one injection of each of these faults, because it had no effect.
    pub(crate) fn undo_injections(&mut self, ids: &[FaultId]) {
        for armed in &mut self.armed {
            if ids.contains(&armed.id) {
                armed.injected = armed.injected.saturating_sub(1);
            }
        }
    }

    /// Evaluates the `stream` faults, and returns how many of them end the stream.
    pub fn inject_stream(&mut self, evaluated: &mut Evaluated) -> usize {
        self.inject(InjectionPoint::Stream, |id| evaluated.insert(id))
            .len()
    }

    /// Evaluates the `registration` faults, and returns those that suspend the registration.
    pub fn inject_registration(
        &mut self,
        evaluated: &mut Evaluated,
        now: Instant,
    ) -> Vec<Suspension> {
        let injected = self.inject(InjectionPoint::Registration, |id| evaluated.insert(id));
        let suspensions = injected
            .into_iter()
            .filter_map(|armed| match armed.fault.on {
                FaultKind::Registration { duration } => Some(Suspension {
                    id: armed.id,
                    until: duration.map(|duration| now + duration),
                }),
                _ => None,
            });
        suspensions.collect()
    }

    /// Evaluates this `health` fault, and returns whether its devices become Unhealthy.
    pub(super) fn inject_health(&mut self, id: FaultId) -> bool {
        !self
            .inject(InjectionPoint::Health, |other| other == id)
            .is_empty()
    }

    fn inject(
        &mut self,
        point: InjectionPoint,
        mut is_selected: impl FnMut(FaultId) -> bool,
    ) -> Vec<&mut ArmedFault> {
        let on_point = self
            .armed
            .iter_mut()
            .filter(|armed| armed.fault.point() == point);
        on_point
            .filter_map(|armed| (is_selected(armed.id) && armed.injects()).then_some(armed))
            .collect()
    }

    fn arm(&mut self, requested: Fault, set_at_run_time: bool, seed: u64) -> ArmedFault {
        let id = FaultId(self.next);
        self.next += 1;
        self.used[requested.point()] = true;
        ArmedFault::new(id, requested, set_at_run_time, seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str) -> Fault {
        serde_json::from_str(json).expect("a fault")
    }

    #[test]
    fn a_call_gets_the_sum_of_all_delays_and_the_first_error() {
        let mut faults = Faults::default();
        for json in [
            r#"{"on": "allocate", "delay": "1s"}"#,
            r#"{"on": "allocate", "error": "ABORTED"}"#,
            r#"{"on": "allocate", "error": "INTERNAL"}"#,
            r#"{"on": "allocate", "delay": "2s"}"#,
            r#"{"on": "options", "delay": "4s"}"#,
        ] {
            faults.set(fault(json), 1).expect("room");
        }
        let injections = faults.inject_call(InjectionPoint::Allocate);
        let delays: Vec<u64> = injections.delays.iter().map(|(_, d)| d.as_secs()).collect();
        assert_eq!(delays, [1, 2]);
        let code = injections.error.map(|(_, error)| error.code.to_string());
        assert_eq!(code.as_deref(), Some("ABORTED"));
        let ids: Vec<FaultId> = injections.delays.iter().map(|(id, _)| *id).collect();
        faults.undo_injections(&ids);
        let injected: Vec<u64> = faults.armed().iter().map(|armed| armed.injected).collect();
        assert_eq!(injected, [0, 1, 0, 0, 0]);
    }

    #[test]
    fn each_fault_is_evaluated_once_per_registration() {
        let (mut faults, now) = (Faults::default(), Instant::now());
        for json in [
            r#"{"on": "registration", "for": "2s"}"#,
            r#"{"on": "registration"}"#,
            r#"{"on": "registration", "for": "1s", "after": 1}"#,
        ] {
            faults.set(fault(json), 1).expect("room");
        }
        let mut evaluated = Evaluated::new();
        let until = |faults: &mut Faults, evaluated: &mut Evaluated| -> Vec<Option<u64>> {
            let suspensions = faults.inject_registration(evaluated, now);
            let seconds =
                |suspension: &Suspension| suspension.until.map(|until| (until - now).as_secs());
            suspensions.iter().map(seconds).collect()
        };
        assert_eq!(until(&mut faults, &mut evaluated), [Some(2), None]);
        assert!(until(&mut faults, &mut evaluated).is_empty());
        assert_eq!(until(&mut faults, &mut Evaluated::new()), [Some(1)]);
    }

    #[test]
    fn configure_sets_only_new_faults_and_clear_removes_all() {
        let mut faults = Faults::default();
        let one = fault(r#"{"on": "stream", "probability": 1}"#);
        let other = fault(r#"{"on": "registration"}"#);
        let third = fault(r#"{"on": "allocate", "delay": "1s"}"#);
        let first = [one.clone(), other.clone()];
        assert_eq!(faults.configure(&first, || 5).len(), 2);
        let another = faults.set(other.clone(), 6).expect("room").id;
        let seeds = faults.armed().iter().map(|armed| armed.fault.schedule.seed);
        assert_eq!(seeds.collect::<Vec<_>>(), [Some(5), None, None]);
        // A fault in both configurations keeps its counters.
        assert_eq!(faults.inject_stream(&mut Evaluated::new()), 1);
        let second = [other.clone(), one];
        assert!(faults.configure(&second, || 7).is_empty());
        let injected: Vec<u64> = faults.armed().iter().map(|armed| armed.injected).collect();
        assert_eq!(injected, [0, 1, 0]);
        faults.configure(&[], || 7);
        assert_eq!(faults.armed().len(), 1);
        assert!(faults.has(another) && faults.has_fault_on(InjectionPoint::Registration));
        assert!(!faults.has_fault_on(InjectionPoint::Stream));
        assert_eq!(faults.clear(), 1);
        assert!(!faults.has(another));
        // A cleared fault stays cleared, but a second equal fault is new.
        faults.configure(&second, || 7);
        faults.clear();
        let more = [
            second[0].clone(),
            second[1].clone(),
            third.clone(),
            second[0].clone(),
        ];
        let new = faults.configure(&more, || 7);
        assert_eq!(new, [third, other.clone()]);
        assert_eq!(faults.armed().len(), 2);
        faults.clear();
        faults.configure(&[], || 7);
        faults.configure(std::slice::from_ref(&other), || 7);
        while faults.set(other.clone(), 1).is_ok() {}
        assert_eq!(faults.armed().len(), FAULTS_MAX + 1);
    }

    #[test]
    fn active_faults_are_counted_for_each_point_that_ever_had_one() {
        let mut faults = Faults::default();
        assert_eq!(faults.active().count(), 0);
        for json in [
            r#"{"on": "allocate", "delay": "1s", "times": 2}"#,
            r#"{"on": "allocate", "error": "ABORTED"}"#,
            r#"{"on": "registration", "for": "2s"}"#,
            r#"{"on": "registration"}"#,
        ] {
            faults.set(fault(json), 1).expect("room");
        }
        let active =
            |faults: &Faults| -> Vec<(InjectionPoint, usize)> { faults.active().collect() };
        let (allocate, registration) = (InjectionPoint::Allocate, InjectionPoint::Registration);
        assert_eq!(active(&faults), [(allocate, 2), (registration, 2)]);
        faults.inject_call(allocate);
        faults.inject_registration(&mut Evaluated::new(), Instant::now());
        // The other registration fault lasts until it is cleared.
        assert_eq!(active(&faults), [(allocate, 1), (registration, 1)]);
        faults.clear();
        assert_eq!(active(&faults), [(allocate, 0), (registration, 0)]);
    }

    #[test]
    fn only_finished_faults_are_replaced() {
        let mut faults = Faults::default();
        let stream = fault(r#"{"on": "stream"}"#);
        let registration = fault(r#"{"on": "registration"}"#);
        let delay = fault(r#"{"on": "allocate", "delay": "1s", "times": 1}"#);
        for lasting in [registration, delay] {
            faults.set(lasting, 1).expect("room");
        }
        faults.inject_registration(&mut Evaluated::new(), Instant::now());
        faults.inject_call(InjectionPoint::Allocate);
        while faults.set(stream.clone(), 1).is_ok() {}
        assert!(!faults.armed()[2].is_exhausted());
        assert_eq!(faults.inject_stream(&mut Evaluated::new()), FAULTS_MAX - 2);
        assert!(faults.armed().iter().all(ArmedFault::is_exhausted));
        for _ in 2..FAULTS_MAX {
            faults
                .set(stream.clone(), 1)
                .expect("replaces a finished fault");
        }
        assert_eq!(faults.set(stream, 1).unwrap_err(), TooManyFaults::Faults);
        let lasting = faults.armed()[..2].iter().map(|armed| armed.fault.point());
        assert_eq!(
            lasting.collect::<Vec<_>>(),
            [InjectionPoint::Registration, InjectionPoint::Allocate]
        );
        // A delay fault is finished once no call waits for it.
        let delay = faults.armed()[1].id;
        faults.delay_ended(&[delay]);
        let stream = fault(r#"{"on": "stream", "after": 1}"#);
        faults.set(stream, 1).expect("replaces the delay");
        assert!(!faults.has(delay));
        let health = fault(r#"{"on": "health", "devices": "0", "up": "1s", "down": "1s"}"#);
        faults.clear();
        for _ in 0..FLAPS_MAX {
            faults.set(health.clone(), 1).expect("room");
        }
        assert_eq!(faults.set(health, 1).unwrap_err(), TooManyFaults::Flaps);
    }
}
