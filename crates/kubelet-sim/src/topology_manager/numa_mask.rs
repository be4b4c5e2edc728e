//! Sets of NUMA nodes. It follows `pkg/kubelet/cm/topologymanager/bitmask`.

/// The maximum number of NUMA nodes of a host. With a topology policy, a kubelet refuses to start on a host with more
/// (`defaultMaxAllowableNUMANodes` in `topology_manager.go`).
pub(crate) const NUMA_NODES_MAX: usize = 8;

/// A set of NUMA nodes, whose IDs are below 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NumaMask(u64);

impl NumaMask {
    pub(crate) fn contains(self, node: i64) -> bool {
        (0..64).contains(&node) && self.0 & 1 << node != 0
    }

    pub(crate) fn contains_any(self, nodes: &[i64]) -> bool {
        nodes.iter().any(|node| self.contains(*node))
    }

    pub(crate) fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Returns every subset but the empty one.
    pub(crate) fn subsets(self) -> impl Iterator<Item = Self> {
        let smaller = move |subset: &u64| Some(subset.wrapping_sub(1) & self.0);
        let subsets = std::iter::successors(Some(self.0), smaller);
        subsets.take_while(|subset| *subset != 0).map(Self)
    }
}

impl FromIterator<i64> for NumaMask {
    /// Ignores the IDs that are not below 64, as the host has no such node.
    fn from_iter<T: IntoIterator<Item = i64>>(nodes: T) -> Self {
        let valid = nodes.into_iter().filter(|node| (0..64).contains(node));
        Self(valid.fold(0, |mask, node| mask | 1 << node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subsets_of_a_mask_are_all_but_the_empty_one() {
        let mask = |nodes: &[i64]| nodes.iter().copied().collect::<NumaMask>();
        let mut subsets: Vec<NumaMask> = mask(&[1, 3]).subsets().collect();
        subsets.sort();
        assert_eq!(subsets, [mask(&[1]), mask(&[3]), mask(&[1, 3])]);
        assert_eq!(mask(&[]).subsets().count(), 0);
    }

    #[test]
    fn a_node_that_no_host_has_is_in_no_mask() {
        let mask: NumaMask = [-1, 0, 64].into_iter().collect();
        assert_eq!(mask.count(), 1);
        assert!(mask.contains_any(&[64, 0]));
        assert!(!mask.contains_any(&[64, -1]));
    }
}
