//! Which processors this process runs on, and whoever it starts from then on.

use rustix::io;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process may use; given back on drop.
pub struct Processors(CpuSet);

impl Processors {
    pub fn available() -> io::Result<Self> {
        Ok(Self(sched_getaffinity(None)?))
    }

    /// From here on the last processor alone.
    pub fn servers(&self) -> io::Result<()> {
        only(self.each().last())
    }

    /// From here on the first processor alone.
    pub fn caller(&self) -> io::Result<()> {
        only(self.each().next())
    }

    fn each(&self) -> impl Iterator<Item = usize> {
        (0..CpuSet::MAX_CPU).filter(|cpu| self.0.is_set(*cpu))
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        sched_setaffinity(None, &self.0).expect("they were ours");
    }
}

fn only(cpu: Option<usize>) -> io::Result<()> {
    let mut one = CpuSet::new();
    if let Some(cpu) = cpu {
        one.set(cpu);
    }
    sched_setaffinity(None, &one)
}
