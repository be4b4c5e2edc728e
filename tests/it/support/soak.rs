//! Helpers of the soak tests: numbers from the environment, and counts of this process's tasks and descriptors.

/// Returns a number from the environment, which `make soak` sets. `None` if the variable is unset or empty.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().expect("a whole number"))
}

/// Returns a count from the environment, or the default.
pub fn count(name: &str, default: usize) -> usize {
    number(name).map_or(default, |count| count.try_into().expect("a count"))
}

/// Returns the seed from the environment, or a random seed.
pub fn seed(name: &str) -> u64 {
    number(name).unwrap_or_else(|| fastrand::u64(..))
}

/// Returns the number of tasks of the test's runtime that have not ended.
pub fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// Returns the number of open file descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("descriptors")
        .count()
}
