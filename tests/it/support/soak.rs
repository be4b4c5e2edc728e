//! What the long-running tests share: numbers from the environment, and what this process holds.

/// A number from the environment, as `make soak` sets it; `None` where the variable is unset or empty.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().expect("a whole number"))
}

/// A count from the environment, or this one.
pub fn count(name: &str, otherwise: usize) -> usize {
    number(name).map_or(otherwise, |count| count.try_into().expect("a count"))
}

/// The seed from the environment, or a random one.
pub fn seed(name: &str) -> u64 {
    number(name).unwrap_or_else(|| fastrand::u64(..))
}

/// How many tasks the runtime of this test has that did not end yet.
pub fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// How many file descriptors this process has open.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("descriptors")
        .count()
}
