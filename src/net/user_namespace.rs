//! Whether this process is in a user namespace, as a pod with `hostUsers: false` is. There the kubelet, which is root on
//! the host, has no uid of its own, and cannot be told from any other stranger.

/// What to do about it.
pub(crate) const REMEDY: &str = "set hostUsers: true in the pod's spec";

/// Every uid that has none in the namespace appears as this one (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_UID: u32 = 65534;

/// Whether a peer with this uid comes from outside of our user namespace.
pub(crate) fn is_outside(uid: u32) -> bool {
    uid == OVERFLOW_UID && in_user_namespace()
}

/// Whether some uids of the host have none here.
pub(crate) fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_all(&map))
}

/// The initial namespace has one line, which maps every uid to itself (`user_namespaces(7)`).
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
