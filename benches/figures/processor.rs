//! One processor for this process and whoever it starts from then on.

use rustix::io;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// All are on one processor until this is dropped.
pub struct OneProcessor {
    before: CpuSet,
}

impl OneProcessor {
    pub fn share() -> io::Result<Self> {
        let before = sched_getaffinity(None)?;
        let first = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu));
        let mut one = CpuSet::new();
        if let Some(first) = first {
            one.set(first);
        }
        sched_setaffinity(None, &one)?;
        Ok(Self { before })
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        sched_setaffinity(None, &self.before).expect("they were ours");
    }
}
