//! What became of one resource's plugin so far, for those who look. The time is an argument.

use std::time::{Duration, SystemTime};

/// Where a plugin stands in its life, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not tried yet.
    Starting,
    /// On its way to the kubelet, or in line for it.
    Connecting,
    /// Making its socket.
    Binding,
    /// Leaving the kubelet the time to take leave of a predecessor.
    Quiet,
    /// Register is under way, or ListAndWatch not open yet.
    Registering,
    /// The kubelet has ListAndWatch open.
    Registered,
    /// Ending its run.
    Leaving,
    /// The last try failed; until one gets further, it waits.
    Waiting,
}

impl State {
    /// One word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::Binding => "binding",
            Self::Quiet => "quiet",
            Self::Registering => "registering",
            Self::Registered => "registered",
            Self::Leaving => "leaving",
            Self::Waiting => "waiting",
        }
    }
}

/// How a registration went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// ListAndWatch is open.
    Registered,
    /// The kubelet said no.
    Refused,
    /// The kubelet went meanwhile.
    Broken,
    /// No answer in time.
    TimedOut,
    /// OK, but the kubelet did not ask for the options.
    NotCalledBack,
    /// OK, but the kubelet opened no ListAndWatch.
    NoStream,
}

impl Registration {
    /// All of them, each at its number.
    pub const ALL: [Self; 6] = [
        Self::Registered,
        Self::Refused,
        Self::Broken,
        Self::TimedOut,
        Self::NotCalledBack,
        Self::NoStream,
    ];

    /// As a metric's label has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::NotCalledBack => "not_called_back",
            Self::NoStream => "no_stream",
        }
    }
}

/// Why a plugin started over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Another kubelet came.
    Kubelet,
    /// The stream ended, and the kubelet is the same.
    Stream,
    /// It must register something else.
    Configuration,
    /// The kubelet's checkpoint lacked the resource.
    Checkpoint,
    /// A bug.
    Panic,
}

impl Cause {
    /// All of them, each at its number.
    pub const ALL: [Self; 5] = [
        Self::Kubelet,
        Self::Stream,
        Self::Configuration,
        Self::Checkpoint,
        Self::Panic,
    ];

    /// As a metric's label has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Stream => "stream",
            Self::Configuration => "configuration",
            Self::Checkpoint => "checkpoint",
            Self::Panic => "panic",
        }
    }
}

/// The names of gRPC's codes by their numbers, as Go prints them.
pub const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// How long calls took: how many at most each of [`Self::BOUNDS`], and longer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    /// Of each bound those that none before it has, then the rest.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// In seconds, of all together.
    pub sum: f64,
}

impl Durations {
    /// In seconds: from what an Allocate takes to the longest that a kubelet stands.
    pub const BOUNDS: [f64; 9] = [0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];

    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = Self::BOUNDS.iter().position(|bound| seconds <= *bound);
        self.counts[bucket.unwrap_or(Self::BOUNDS.len())] += 1;
        self.sum += seconds;
    }
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// In words.
    pub what: String,
    /// When.
    pub at: SystemTime,
}

/// One plugin's past and present.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// Where it stands in this try, though it waits.
    step: State,
    /// How far the last try came that failed.
    failed_at: Option<State>,
    /// What went wrong last.
    pub last_error: Option<LastError>,
    /// By [`Registration`].
    pub registrations: [u64; Registration::ALL.len()],
    /// By [`Cause`].
    pub restarts: [u64; Cause::ALL.len()],
    /// Calls of Allocate that were answered, by [`CODES`].
    pub allocates: [u64; CODES.len()],
    /// How long these took.
    pub allocate_seconds: Durations,
    /// Devices in answers to Allocate.
    pub allocated_devices: u64,
    /// Looks in a row at a checkpoint that lacked it.
    missed: u32,
    /// It started over for that, and no look found it since.
    started_over: bool,
}

impl Record {
    /// Nothing happened yet.
    pub fn new(now: SystemTime) -> Self {
        Self {
            state: State::Starting,
            since: now,
            step: State::Starting,
            failed_at: None,
            last_error: None,
            registrations: Default::default(),
            restarts: Default::default(),
            allocates: Default::default(),
            allocate_seconds: Durations::default(),
            allocated_devices: 0,
            missed: 0,
            started_over: false,
        }
    }

    /// Another step of its life. As long as tries fail at the same point, it waits on.
    pub fn entered(&mut self, step: State, now: SystemTime) {
        self.step = step;
        if self.failed_at.is_none_or(|failed| step > failed) {
            self.failed_at = None;
            self.stands(step, now);
        }
    }

    /// The kubelet has its stream.
    pub fn registered(&mut self, now: SystemTime) {
        self.entered(State::Registered, now);
        self.registrations[Registration::Registered as usize] += 1;
        self.missed = 0;
    }

    /// A try failed; with how the registration went, if it came to that.
    pub fn failed(&mut self, what: String, registration: Option<Registration>, now: SystemTime) {
        self.failed_at = Some(self.step);
        self.wrong(what, now);
        if let Some(registration) = registration {
            self.registrations[registration as usize] += 1;
        }
    }

    /// The stream ended: what comes is a new start.
    pub fn stream_ended(&mut self, now: SystemTime) {
        self.wrong("the stream ended".to_owned(), now);
    }

    fn wrong(&mut self, what: String, now: SystemTime) {
        self.stands(State::Waiting, now);
        self.last_error = Some(LastError { what, at: now });
    }

    fn stands(&mut self, state: State, now: SystemTime) {
        if self.state != state {
            (self.state, self.since) = (state, now);
        }
    }

    /// What it waits for; `None` where the kubelet has its stream.
    pub fn waits_for(&self) -> Option<String> {
        let what = |step| match step {
            State::Starting => "waits for its start",
            State::Connecting => "waits for the kubelet",
            State::Binding => "waits for its socket",
            State::Quiet => {
                "waits half a second, as the kubelet may be taking leave of a predecessor"
            }
            State::Registering => "waits for the kubelet to open ListAndWatch",
            State::Registered | State::Waiting => "starts over",
            State::Leaving => "is leaving",
        };
        match (self.state, &self.last_error) {
            (State::Registered, _) => None,
            (State::Waiting, Some(error)) => {
                let failed = self.failed_at.unwrap_or(State::Waiting);
                Some(format!("{}: {}", what(failed), error.what))
            }
            (state, _) => Some(what(state).to_owned()),
        }
    }

    /// It starts over.
    pub fn restarted(&mut self, cause: Cause) {
        self.restarts[cause as usize] += 1;
        self.failed_at = None;
    }

    /// An Allocate was answered with this code of gRPC, and so many devices.
    pub fn allocated(&mut self, code: usize, devices: usize, took: Duration) {
        self.allocates[code.min(CODES.len() - 1)] += 1;
        self.allocated_devices += devices as u64;
        self.allocate_seconds.add(took);
    }

    /// Somebody looked into the kubelet's checkpoint. Returns whether it should start over: it was missing
    /// twice while it was registered, and did not start over for that before.
    pub fn looked(&mut self, is_there: bool) -> bool {
        if is_there {
            (self.missed, self.started_over) = (0, false);
        } else if self.state == State::Registered {
            self.missed += 1;
        }
        let twice = self.missed >= 2;
        twice && !std::mem::replace(&mut self.started_over, twice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn stands(record: &Record) -> (State, u64) {
        let since = record.since.duration_since(SystemTime::UNIX_EPOCH);
        (record.state, since.unwrap().as_secs())
    }

    #[test]
    fn waits_since_the_first_of_tries_that_fail_alike() {
        let mut record = Record::new(at(0));
        for second in [1, 2, 3] {
            record.entered(State::Connecting, at(second));
            record.failed("no kubelet".to_owned(), None, at(second));
            assert_eq!(stands(&record), (State::Waiting, 1));
        }
        record.entered(State::Connecting, at(4));
        assert_eq!(stands(&record), (State::Waiting, 1));
        record.entered(State::Binding, at(4));
        assert_eq!(stands(&record), (State::Binding, 4));
        record.failed("taken".to_owned(), None, at(5));
        assert_eq!(stands(&record), (State::Waiting, 5));
        assert_eq!(record.waits_for().unwrap(), "waits for its socket: taken");
        assert_eq!(record.last_error.unwrap().what, "taken");
    }

    #[test]
    fn a_stream_that_ended_is_followed_by_a_new_start() {
        let mut record = Record::new(at(0));
        record.registered(at(1));
        assert_eq!(stands(&record), (State::Registered, 1));
        record.stream_ended(at(9));
        assert_eq!(stands(&record), (State::Waiting, 9));
        assert_eq!(record.waits_for().unwrap(), "starts over: the stream ended");
        record.entered(State::Connecting, at(10));
        assert_eq!(stands(&record), (State::Connecting, 10));
    }

    #[test]
    fn starts_over_once_when_the_checkpoint_lacks_it_twice() {
        let mut record = Record::new(at(0));
        let looks = |record: &mut Record, there: &[bool]| -> Vec<bool> {
            there.iter().map(|there| record.looked(*there)).collect()
        };
        assert_eq!(looks(&mut record, &[false, false]), [false, false]);
        record.registered(at(1));
        assert_eq!(looks(&mut record, &[false, true]), [false, false]);
        assert_eq!(looks(&mut record, &[false, false]), [false, true]);
        assert_eq!(looks(&mut record, &[false, false]), [false, false]);
        record.registered(at(2));
        assert_eq!(looks(&mut record, &[false, false]), [false, false]);
        assert_eq!(
            looks(&mut record, &[true, false, false]),
            [false, false, true]
        );
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
