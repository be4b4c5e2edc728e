//! Detects whether this process is in a user namespace, as in a pod with `hostUsers: false`. There the kubelet cannot
//! be recognized: every host user without a mapping, root included, has the same UID.

/// The instruction for users, which completes a sentence of an error or log message.
pub(crate) const REMEDY: &str = "set hostUsers: true in the pod's spec";

/// The UID that the kernel reports for a user without a mapping (default of `/proc/sys/kernel/overflowuid`).
const OVERFLOW_UID: u32 = 65534;

/// Returns whether a peer with this UID is outside this process's user namespace.
pub(crate) fn is_outside(uid: u32) -> bool {
    uid == OVERFLOW_UID && in_user_namespace()
}

/// Returns whether some UIDs of the host have no mapping in this process's user namespace.
pub(crate) fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_all(&map))
}

/// Checks for the one line of the initial namespace, which maps every UID to itself (`user_namespaces(7)`).
fn maps_all(map: &str) -> bool {
    let fields: Vec<&str> = map.split_whitespace().collect();
    fields == ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_initial_namespace_maps_every_uid() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0     100000      65536\n"));
        assert!(!maps_all("0 1000 1\n1 100000 65536\n"));
    }
}
