//! What became of one resource's plugin so far. The time is an argument.

mod words;

pub use words::{Cause, RegistrationResult, Step};

use std::time::{Duration, SystemTime};

use enum_map::EnumMap;

use crate::api::grpc_code::CODES;
use crate::fault::InjectionPoint;
use crate::node::checkpoint::ListingStatus;
use crate::util::file_id::FileVersion;

/// How long calls took: how many at most each of [`Self::BOUNDS`], and longer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Durations {
    /// Of each bound those that none before it has, then the rest.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// In seconds, of all together.
    pub sum: f64,
}

impl Durations {
    /// In seconds: from what an Allocate takes to the longest that a kubelet stands.
    pub(crate) const BOUNDS: [f64; 9] = [0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];

    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = Self::BOUNDS.iter().position(|bound| seconds <= *bound);
        self.counts[bucket.unwrap_or(Self::BOUNDS.len())] += 1;
        self.sum += seconds;
    }
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastError {
    pub what: String,
    pub at: SystemTime,
}

/// What happened to one plugin, and where it stands.
#[derive(Clone, Debug)]
pub struct Record {
    step: Step,
    /// How far the last try came, if it failed and no other came further since.
    waits_at: Option<Step>,
    /// Since when it stands where it stands, or waits.
    pub since: SystemTime,
    /// What went wrong last.
    pub(crate) last_error: Option<LastError>,
    /// The kubelet's checkpoint when it registered: what was written before knows nothing of its stream.
    pub(crate) checkpoint_before: Option<FileVersion>,
    /// Registrations by their result.
    pub registrations: EnumMap<RegistrationResult, u64>,
    /// Restarts by their cause.
    pub restarts: EnumMap<Cause, u64>,
    /// Calls of Allocate that were answered, by the number of gRPC's code.
    pub allocates: [u64; CODES.len()],
    /// How long these took.
    pub(crate) allocate_seconds: Durations,
    /// Devices in answers to Allocate.
    pub(crate) allocated_devices: u64,
    /// Injected faults by kind.
    pub faults: EnumMap<InjectionPoint, u64>,
    /// Consecutive reads of the checkpoint that lacked it.
    missed: u32,
    /// It started over for that, and no checkpoint had it since.
    started_over: bool,
}

impl Record {
    pub fn new(now: SystemTime) -> Self {
        Self {
            step: Step::Starting,
            waits_at: None,
            since: now,
            last_error: None,
            checkpoint_before: None,
            registrations: EnumMap::default(),
            restarts: EnumMap::default(),
            allocates: Default::default(),
            allocate_seconds: Durations::default(),
            allocated_devices: 0,
            faults: EnumMap::default(),
            missed: 0,
            started_over: false,
        }
    }

    /// Another step of its run. As long as tries fail at the same one, it waits on, unless a fault is why.
    pub(crate) fn entered(&mut self, step: Step, now: SystemTime) {
        self.step = step;
        if step == Step::Suspended || self.waits_at.is_none_or(|at| step > at) {
            (self.waits_at, self.since) = (None, now);
        }
    }

    /// The kubelet has its stream.
    pub fn registered(&mut self, now: SystemTime) {
        self.entered(Step::Registered, now);
        self.registrations[RegistrationResult::Registered] += 1;
        self.missed = 0;
    }

    /// A try failed; with how the registration went, if it came to that.
    pub fn failed(
        &mut self,
        what: String,
        registration: Option<RegistrationResult>,
        now: SystemTime,
    ) {
        if self.waits_at != Some(self.step) {
            (self.waits_at, self.since) = (Some(self.step), now);
        }
        self.last_error = Some(LastError { what, at: now });
        if let Some(registration) = registration {
            self.registrations[registration] += 1;
        }
    }

    /// The stream ended: what comes is a new start.
    pub(crate) fn stream_ended(&mut self, how: String, now: SystemTime) {
        self.step = Step::Starting;
        self.failed(how, None, now);
    }

    /// Whether it is at this step, and the last try that failed did not come as far.
    pub fn is_at(&self, step: Step) -> bool {
        self.step == step && self.waits_at.is_none()
    }

    /// Where it stands, in one word: a step, or `waiting` where the last try failed.
    pub fn state(&self) -> &'static str {
        match self.waits_at {
            Some(_) => "waiting",
            None => self.step.as_str(),
        }
    }

    /// What it waits for; `None` where the kubelet has its stream.
    pub(crate) fn waits_for(&self) -> Option<String> {
        match (self.waits_at, &self.last_error) {
            (Some(Step::Starting), Some(error)) => Some(format!("starts over: {}", error.what)),
            (Some(at), Some(error)) => Some(format!("{}: {}", at.waits_for(), error.what)),
            _ if self.step == Step::Registered => None,
            _ => Some(self.step.waits_for().to_owned()),
        }
    }

    pub fn restarted(&mut self, cause: Cause) {
        self.restarts[cause] += 1;
        self.waits_at = None;
    }

    /// A fault was injected.
    pub fn injected(&mut self, point: InjectionPoint) {
        self.faults[point] += 1;
    }

    /// An Allocate was answered with this code of gRPC, and so many devices.
    pub fn allocated(&mut self, code: usize, devices: usize, took: Duration) {
        self.allocates[code.min(CODES.len() - 1)] += 1;
        self.allocated_devices += devices as u64;
        self.allocate_seconds.add(took);
    }

    /// The kubelet's checkpoint was read. Returns whether it should start over: it was missing
    /// twice in a row while it was registered, and was seen there since it last started over for that.
    pub(crate) fn checkpoint_read(&mut self, standing: ListingStatus, now: SystemTime) -> bool {
        let registered = self.is_at(Step::Registered);
        match standing {
            ListingStatus::Lacking if registered => self.missed += 1,
            ListingStatus::Listed if registered => {
                (self.missed, self.started_over) = (0, false);
            }
            _ => self.missed = 0,
        }
        let forgotten = self.missed >= 2 && !self.started_over;
        if forgotten {
            self.started_over = true;
            let what = "the kubelet's checkpoint lacked it though its stream was open".to_owned();
            self.last_error = Some(LastError { what, at: now });
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn stands(record: &Record) -> (&'static str, u64) {
        let since = record.since.duration_since(SystemTime::UNIX_EPOCH);
        (record.state(), since.unwrap().as_secs())
    }

    fn fails(record: &mut Record, what: &str, now: SystemTime) {
        record.failed(what.to_owned(), None, now);
    }

    #[test]
    fn waits_since_the_first_of_tries_that_fail_alike() {
        let mut record = Record::new(at(0));
        for second in [1, 2, 3] {
            record.entered(Step::Connecting, at(second));
            fails(&mut record, "no kubelet", at(second));
            assert_eq!(stands(&record), ("waiting", 1));
        }
        record.entered(Step::Connecting, at(4));
        assert_eq!(stands(&record), ("waiting", 1));
        record.entered(Step::Binding, at(4));
        assert_eq!(stands(&record), ("binding", 4));
        fails(&mut record, "taken", at(5));
        assert_eq!(stands(&record), ("waiting", 5));
        assert_eq!(record.waits_for().unwrap(), "waits for its socket: taken");
        // It gets less far: another trouble.
        record.entered(Step::Connecting, at(6));
        assert_eq!(stands(&record), ("waiting", 5));
        fails(&mut record, "no kubelet", at(7));
        assert_eq!(stands(&record), ("waiting", 7));
        assert_eq!(
            record.waits_for().unwrap(),
            "waits for the kubelet: no kubelet"
        );
        record.entered(Step::Binding, at(8));
        assert_eq!(stands(&record), ("binding", 8));
    }

    #[test]
    fn a_suspending_fault_is_reported_whatever_failed_before() {
        let mut record = Record::new(at(0));
        record.entered(Step::Registering, at(1));
        fails(&mut record, "refused", at(1));
        record.entered(Step::Connecting, at(2));
        assert_eq!(stands(&record), ("waiting", 1));
        record.entered(Step::Suspended, at(3));
        assert_eq!(stands(&record), ("suspended", 3));
        let waits_for = "waits until the fault that suspends its registration ends";
        assert_eq!(record.waits_for().unwrap(), waits_for);
    }

    #[test]
    fn a_stream_that_ended_is_followed_by_a_new_start() {
        let mut record = Record::new(at(0));
        record.registered(at(1));
        assert_eq!(stands(&record), ("registered", 1));
        assert_eq!(record.waits_for(), None);
        record.stream_ended("the stream ended".to_owned(), at(9));
        assert_eq!(stands(&record), ("waiting", 9));
        assert_eq!(record.waits_for().unwrap(), "starts over: the stream ended");
        record.entered(Step::Connecting, at(10));
        assert_eq!(stands(&record), ("connecting", 10));
    }

    #[test]
    fn starts_over_once_when_the_checkpoint_lacks_it_twice() {
        use ListingStatus::{Lacking, Listed, OtherDevices};
        let mut record = Record::new(at(0));
        let read = |record: &mut Record, standings: &[ListingStatus]| -> Vec<bool> {
            standings
                .iter()
                .map(|standing| record.checkpoint_read(*standing, at(9)))
                .collect()
        };
        assert_eq!(read(&mut record, &[Lacking, Lacking]), [false, false]);
        record.registered(at(1));
        assert_eq!(read(&mut record, &[Lacking, Listed]), [false, false]);
        assert_eq!(read(&mut record, &[Lacking, OtherDevices]), [false, false]);
        assert_eq!(read(&mut record, &[Lacking, Lacking]), [false, true]);
        assert_eq!(read(&mut record, &[Lacking, Lacking]), [false, false]);
        // Seen while it is not registered: by a checkpoint from before.
        record.stream_ended("the stream ended".to_owned(), at(2));
        assert_eq!(read(&mut record, &[Listed]), [false]);
        record.registered(at(3));
        assert_eq!(
            read(&mut record, &[OtherDevices, Lacking, Lacking]),
            [false, false, false]
        );
        assert_eq!(read(&mut record, &[Listed, Lacking]), [false, false]);
        // A stream of its own counts anew.
        record.registered(at(4));
        assert_eq!(read(&mut record, &[Lacking, Lacking]), [false, true]);
    }

    #[test]
    fn calls_are_counted_by_code_and_time() {
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
        let counts = record.allocate_seconds.counts;
        assert_eq!((counts[0], counts[3], counts[9]), (1, 1, 1));
        assert_eq!(counts.iter().sum::<u64>(), 3);
    }
}
