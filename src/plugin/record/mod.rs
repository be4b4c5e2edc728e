//! The state and the counters of one plugin, for the status, metrics and readiness. Callers pass the
//! time.

mod labels;

pub use labels::{Cause, RegistrationResult, Step};

use std::time::{Duration, Instant, SystemTime};

use enum_map::EnumMap;

use crate::api::grpc_code::CODES;
use crate::fault::InjectionPoint;
use crate::node::checkpoint::ListingStatus;
use crate::util::file_id::FileVersion;

/// A running kubelet writes the first list of a stream to its checkpoint far sooner.
const LIST_WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// A histogram of call durations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Durations {
    /// Calls in each bucket, not cumulative. The last bucket has the calls that took longer than every bound.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// The sum of all durations, in seconds.
    pub sum: f64,
}

impl Durations {
    /// The inclusive upper bounds of the buckets, in seconds. A usual Allocate takes less than a millisecond; a delay
    /// fault adds 60 s at most.
    pub(crate) const BOUNDS: [f64; 9] = [0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];

    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = Self::BOUNDS.iter().position(|bound| seconds <= *bound);
        self.counts[bucket.unwrap_or(Self::BOUNDS.len())] += 1;
        self.sum += seconds;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastError {
    pub what: String,
    pub at: SystemTime,
}

/// The state and the counters of one plugin since it was first configured.
#[derive(Clone, Debug)]
pub struct Record {
    step: Step,
    /// The step at which the last attempt failed. `None` once a later attempt gets further.
    failed_at: Option<Step>,
    /// When the plugin entered its current state, or first failed at its current step.
    pub since: SystemTime,
    /// The same moment on the monotonic clock.
    since_instant: Instant,
    pub(crate) last_error: Option<LastError>,
    /// The version of the kubelet's checkpoint just before the last registration. The kubelet wrote that version before
    /// it got the plugin's devices.
    pub(crate) checkpoint_before: Option<FileVersion>,
    pub registrations: EnumMap<RegistrationResult, u64>,
    pub restarts: EnumMap<Cause, u64>,
    /// Answered Allocate calls, indexed by numeric gRPC status code.
    pub allocates: [u64; CODES.len()],
    pub(crate) allocate_durations: Durations,
    /// Devices in successful Allocate calls.
    pub(crate) allocated_devices: u64,
    pub faults: EnumMap<InjectionPoint, u64>,
    /// Consecutive reads of the kubelet's lists that lacked the plugin's devices while it was registered.
    missing_reads: u32,
    /// The ID of another plugin's device that the kubelet has while this plugin has the stream open, escaped. Usually the
    /// other plugin registered later. The kubelet then calls it, and disconnects the resource when it stops.
    taken_over_by: Option<Box<str>>,
    /// The plugin was restarted because the kubelet lacked its devices, and the kubelet has not listed them since.
    restarted_once: bool,
}

impl Record {
    pub fn new(now: SystemTime) -> Self {
        Self {
            step: Step::Starting,
            failed_at: None,
            since: now,
            since_instant: Instant::now(),
            last_error: None,
            checkpoint_before: None,
            registrations: EnumMap::default(),
            restarts: EnumMap::default(),
            allocates: Default::default(),
            allocate_durations: Durations::default(),
            allocated_devices: 0,
            faults: EnumMap::default(),
            missing_reads: 0,
            taken_over_by: None,
            restarted_once: false,
        }
    }

    /// Records that the run entered a step. After a failure the state stays `waiting` until a run gets further than the
    /// failed step, or a fault suspends the registration.
    pub(crate) fn entered(&mut self, step: Step, now: SystemTime) {
        self.step = step;
        self.taken_over_by = None;
        if step == Step::Suspended || self.failed_at.is_none_or(|at| step > at) {
            self.failed_at = None;
            self.state_began(now);
        }
    }

    fn state_began(&mut self, now: SystemTime) {
        (self.since, self.since_instant) = (now, Instant::now());
    }

    /// Returns how long the plugin has been in its state. A change of the wall clock does not affect it.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since_instant)
    }

    /// Records that the kubelet opened ListAndWatch.
    pub fn registered(&mut self, now: SystemTime) {
        // This also clears a failure after an earlier registration, such as a panic.
        self.failed_at = None;
        self.entered(Step::Registered, now);
        self.registrations[RegistrationResult::Registered] += 1;
        self.missing_reads = 0;
    }

    /// Records a failed attempt. `registration` is `None` if something other than the registration failed.
    pub fn failed(
        &mut self,
        what: String,
        registration: Option<RegistrationResult>,
        now: SystemTime,
    ) {
        if self.failed_at != Some(self.step) {
            self.failed_at = Some(self.step);
            self.state_began(now);
        }
        self.last_error = Some(LastError { what, at: now });
        if let Some(registration) = registration {
            self.registrations[registration] += 1;
        }
    }

    /// Records that the stream ended, and why.
    pub(crate) fn stream_ended(&mut self, how: String, now: SystemTime) {
        self.step = Step::Starting;
        self.failed(how, None, now);
    }

    /// Returns whether the state is this step, not `waiting`.
    pub fn is_at(&self, step: Step) -> bool {
        self.step == step && self.failed_at.is_none()
    }

    /// Returns the state for the status: the current step, or `waiting` after a failure until a run gets
    /// further.
    pub fn state(&self) -> &'static str {
        match self.failed_at {
            Some(_) => "waiting",
            None => self.step.as_str(),
        }
    }

    /// Returns a verb phrase for the status and `/readyz` that says what the plugin waits for, with the last error.
    /// `None` while the kubelet has the stream open and uses this plugin.
    pub(crate) fn waits_for(&self) -> Option<String> {
        if let Some(id) = &self.taken_over_by {
            return Some(format!(
                "waits for another plugin of the resource to stop: the kubelet has its devices, for example {id}"
            ));
        }
        match (self.failed_at, &self.last_error) {
            (Some(Step::Starting), Some(error)) => Some(format!("registers again: {}", error.what)),
            // The only failure at this step.
            (Some(Step::Settling), Some(error)) => Some(format!(
                "waits for another plugin of the resource to stop: {}",
                error.what
            )),
            (Some(at), Some(error)) => Some(format!("{}: {}", at.waits_for(), error.what)),
            _ if self.step == Step::Registered && self.missing_reads > 0 => {
                Some("waits for the kubelet: it does not list this resource's devices".to_owned())
            }
            _ if self.step == Step::Registered => None,
            _ => Some(self.step.waits_for().to_owned()),
        }
    }

    pub fn restarted(&mut self, cause: Cause) {
        self.restarts[cause] += 1;
        self.failed_at = None;
    }

    pub fn injected(&mut self, point: InjectionPoint) {
        self.faults[point] += 1;
    }

    /// Counts an answered Allocate call; `code` is a numeric gRPC status code.
    pub fn allocated(&mut self, code: usize, devices: usize, took: Duration) {
        self.allocates[code.min(CODES.len() - 1)] += 1;
        self.allocated_devices += devices as u64;
        self.allocate_durations.add(took);
    }

    /// Whether another plugin has taken the resource over while this one has the stream open.
    pub fn is_taken_over(&self) -> bool {
        self.taken_over_by.is_some()
    }

    /// Returns whether a checkpoint of this version, read now, describes the time since the last registration. `None`
    /// if that cannot be known yet: right after a registration, the kubelet may have written the file without the first
    /// list.
    pub(crate) fn is_described_by(&self, version: FileVersion, now: Instant) -> Option<bool> {
        if self.checkpoint_before == Some(version) {
            return Some(false);
        }
        match self.step {
            Step::Registering => None,
            Step::Registered => (self.age(now) >= LIST_WRITTEN_WITHIN).then_some(true),
            _ => Some(false),
        }
    }

    /// Records that another plugin has taken the resource over. `id` is one of its devices, escaped.
    pub(crate) fn taken_over(&mut self, id: &str) {
        self.taken_over_by = Some(id.into());
    }

    /// Records that the kubelet uses this plugin after all.
    pub(crate) fn not_taken_over(&mut self) {
        self.taken_over_by = None;
    }

    /// Records that the plugin that took the resource over has stopped.
    pub(crate) fn other_plugin_stopped(&mut self, now: SystemTime) {
        let what = "another plugin had taken the resource over, and has stopped".to_owned();
        self.last_error = Some(LastError { what, at: now });
    }

    /// Records a read of the kubelet's lists. Returns true if the plugin must restart: two reads in a row lacked its
    /// devices while it was registered. This happens once until the kubelet lists them again.
    pub(crate) fn listing_read(&mut self, status: ListingStatus, now: SystemTime) -> bool {
        let registered = self.is_at(Step::Registered);
        match status {
            ListingStatus::Lacking if registered => self.missing_reads += 1,
            ListingStatus::Listed | ListingStatus::NoneHealthy if registered => {
                (self.missing_reads, self.restarted_once) = (0, false);
            }
            _ => self.missing_reads = 0,
        }
        let is_missing = self.missing_reads >= 2 && !self.restarted_once;
        if is_missing {
            self.restarted_once = true;
            let what =
                "the kubelet did not list the resource although ListAndWatch was open".to_owned();
            self.last_error = Some(LastError { what, at: now });
        }
        is_missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn state_and_since(record: &Record) -> (&'static str, u64) {
        let since = record.since.duration_since(SystemTime::UNIX_EPOCH);
        (record.state(), since.unwrap().as_secs())
    }

    fn fail(record: &mut Record, what: &str, now: SystemTime) {
        record.failed(what.to_owned(), None, now);
    }

    #[test]
    fn keeps_the_time_of_the_first_failure_at_the_same_step() {
        let mut record = Record::new(at(0));
        for second in [1, 2, 3] {
            record.entered(Step::Connecting, at(second));
            fail(&mut record, "no kubelet", at(second));
            assert_eq!(state_and_since(&record), ("waiting", 1));
        }
        record.entered(Step::Connecting, at(4));
        assert_eq!(state_and_since(&record), ("waiting", 1));
        record.entered(Step::Binding, at(4));
        assert_eq!(state_and_since(&record), ("binding", 4));
        fail(&mut record, "taken", at(5));
        assert_eq!(state_and_since(&record), ("waiting", 5));
        assert_eq!(record.waits_for().unwrap(), "waits for its socket: taken");
        // The next attempt fails at an earlier step, which is a different failure.
        record.entered(Step::Connecting, at(6));
        assert_eq!(state_and_since(&record), ("waiting", 5));
        fail(&mut record, "no kubelet", at(7));
        assert_eq!(state_and_since(&record), ("waiting", 7));
        assert_eq!(
            record.waits_for().unwrap(),
            "waits for the kubelet: no kubelet"
        );
        record.entered(Step::Binding, at(8));
        assert_eq!(state_and_since(&record), ("binding", 8));
    }

    #[test]
    fn a_suspended_registration_replaces_an_earlier_failure() {
        let mut record = Record::new(at(0));
        record.entered(Step::Registering, at(1));
        fail(&mut record, "refused", at(1));
        record.entered(Step::Connecting, at(2));
        assert_eq!(state_and_since(&record), ("waiting", 1));
        record.entered(Step::Suspended, at(3));
        assert_eq!(state_and_since(&record), ("suspended", 3));
        let waits_for = "waits until its registration fault ends or is cleared";
        assert_eq!(record.waits_for().unwrap(), waits_for);
    }

    #[test]
    fn a_plugin_whose_stream_ended_starts_again() {
        let mut record = Record::new(at(0));
        record.registered(at(1));
        assert_eq!(state_and_since(&record), ("registered", 1));
        assert_eq!(record.waits_for(), None);
        record.stream_ended("the stream ended".to_owned(), at(9));
        assert_eq!(state_and_since(&record), ("waiting", 9));
        assert_eq!(
            record.waits_for().unwrap(),
            "registers again: the stream ended"
        );
        record.entered(Step::Connecting, at(10));
        assert_eq!(state_and_since(&record), ("connecting", 10));
    }

    #[test]
    fn a_plugin_that_panicked_while_it_was_registered_is_registered_again() {
        let mut record = Record::new(at(0));
        record.registered(at(1));
        record.restarted(Cause::Panic);
        record.failed("the plugin panicked".to_owned(), None, at(2));
        assert_eq!(state_and_since(&record), ("waiting", 2));
        record.entered(Step::Connecting, at(3));
        record.registered(at(4));
        assert_eq!(state_and_since(&record), ("registered", 4));
        assert_eq!(record.waits_for(), None);
    }

    #[test]
    fn restarts_once_when_two_checkpoints_lack_the_resource() {
        use ListingStatus::{Lacking, Listed};
        const OTHER_DEVICES: ListingStatus = ListingStatus::OtherDevices("x");
        let mut record = Record::new(at(0));
        let read = |record: &mut Record, standings: &[ListingStatus]| -> Vec<bool> {
            standings
                .iter()
                .map(|standing| record.listing_read(*standing, at(9)))
                .collect()
        };
        assert_eq!(read(&mut record, &[Lacking, Lacking]), [false, false]);
        record.registered(at(1));
        assert_eq!(read(&mut record, &[Lacking, Listed]), [false, false]);
        assert_eq!(read(&mut record, &[Lacking, OTHER_DEVICES]), [false, false]);
        assert_eq!(read(&mut record, &[Lacking, Lacking]), [false, true]);
        assert_eq!(read(&mut record, &[Lacking, Lacking]), [false, false]);
        // A checkpoint that lists the resource while it is not registered is old and does not count.
        record.stream_ended("the stream ended".to_owned(), at(2));
        assert_eq!(read(&mut record, &[Listed]), [false]);
        record.registered(at(3));
        assert_eq!(
            read(&mut record, &[OTHER_DEVICES, Lacking, Lacking]),
            [false, false, false]
        );
        assert_eq!(read(&mut record, &[Listed, Lacking]), [false, false]);
        // A new registration starts the count again.
        record.registered(at(4));
        assert_eq!(read(&mut record, &[Lacking, Lacking]), [false, true]);
    }

    #[test]
    fn a_checkpoint_describes_a_registration_only_after_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let version = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            FileVersion::at(&path).unwrap()
        };
        let (before, after) = (version("before"), version("after"));
        let mut record = Record::new(at(0));
        assert_eq!(record.is_described_by(after, Instant::now()), Some(false));
        record.checkpoint_before = Some(before);
        record.entered(Step::Registering, at(9));
        assert_eq!(record.is_described_by(after, Instant::now()), None);
        let now = Instant::now();
        // The wall clock was set back by 9 seconds.
        record.registered(at(0));
        assert_eq!(record.is_described_by(after, now), None);
        let later = Instant::now() + LIST_WRITTEN_WITHIN;
        assert_eq!(record.is_described_by(after, later), Some(true));
        assert_eq!(record.is_described_by(before, later), Some(false));
    }

    #[test]
    fn counts_allocate_calls_by_code_and_duration() {
        let mut record = Record::new(at(0));
        record.allocated(0, 3, Duration::from_micros(90));
        record.allocated(5, 0, Duration::from_millis(100));
        record.allocated(99, 0, Duration::from_secs(61));
        assert_eq!(
            (
                record.allocates[0],
                record.allocates[5],
                record.allocates[16]
            ),
            (1, 1, 1)
        );
        assert_eq!(record.allocated_devices, 3);
        let counts = record.allocate_durations.counts;
        assert_eq!((counts[0], counts[3], counts[9]), (1, 1, 1));
        assert_eq!(counts.iter().sum::<u64>(), 3);
    }
}
