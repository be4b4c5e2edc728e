//! Binding of this process and its later child processes to one processor.

use rustix::io;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// While this exists, the process and the children that it starts run on one processor.
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
        sched_setaffinity(None, &self.before).expect("the process had this affinity before");
    }
}
