//! The NUMA nodes over which a resource's devices are distributed.

use std::str::FromStr;

use thiserror::Error;

/// The highest NUMA node ID on Linux, where `CONFIG_NODES_SHIFT` is at most 10.
pub(crate) const NUMA_NODE_MAX: u16 = 1023;

/// NUMA nodes over which devices are distributed in turn, in this order. Empty means no topology.
///
/// The text form is `0-1`, `0+2` or `0-1+4`. A node that occurs twice gets twice as many devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaNodes(Vec<u16>);

/// Why a list of NUMA nodes is invalid. Each message completes the sentence `expected …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NumaNodesError {
    #[error("NUMA nodes, as in 0-1 or 0+2")]
    Malformed,
    #[error("NUMA nodes from 0 to {NUMA_NODE_MAX}")]
    TooHigh,
    #[error("a range in ascending order, as in 0-1")]
    Descending,
}

impl NumaNodes {
    /// Creates a list of nodes. The caller ensures that none is above [`NUMA_NODE_MAX`].
    pub(crate) fn new(nodes: Vec<u16>) -> Self {
        Self(nodes)
    }

    /// Returns the NUMA node of the device with this index, or `None` if there is no topology.
    pub(crate) fn node_of(&self, index: usize) -> Option<u16> {
        self.position_of(index).map(|position| self.0[position])
    }

    /// Returns the position in [`NumaNodes::as_slice`] of the node of the device with this index.
    pub fn position_of(&self, index: usize) -> Option<usize> {
        index.checked_rem(self.0.len())
    }

    pub fn as_slice(&self) -> &[u16] {
        &self.0
    }
}

impl FromStr for NumaNodes {
    type Err = NumaNodesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut nodes = Vec::new();
        for term in text.split('+') {
            let (first, last) = term.split_once('-').unwrap_or((term, term));
            let (first, last) = (parse_node(first)?, parse_node(last)?);
            if first > last {
                return Err(NumaNodesError::Descending);
            }
            nodes.extend(first..=last);
        }
        Ok(Self(nodes))
    }
}

fn parse_node(text: &str) -> Result<u16, NumaNodesError> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(NumaNodesError::Malformed);
    }
    text.parse()
        .ok()
        .filter(|node| *node <= NUMA_NODE_MAX)
        .ok_or(NumaNodesError::TooHigh)
}

/// Parses a kernel list such as `0-1,4`, as in `/sys/devices/system/node/online`. Returns `None` if it is invalid.
pub(crate) fn parse_kernel_list(text: &str) -> Option<NumaNodes> {
    text.trim().replace(',', "+").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<u16>, NumaNodesError> {
        text.parse::<NumaNodes>().map(|nodes| nodes.0)
    }

    #[test]
    fn parses_ranges_and_lists() {
        assert_eq!(parsed("0-1"), Ok(vec![0, 1]));
        assert_eq!(parsed("0+2"), Ok(vec![0, 2]));
        assert_eq!(parsed("3"), Ok(vec![3]));
        assert_eq!(parsed("0-1+1023"), Ok(vec![0, 1, 1023]));
        assert_eq!(parse_kernel_list("0-1,4\n"), Some(NumaNodes(vec![0, 1, 4])));
    }

    #[test]
    fn refuses_invalid_lists() {
        use NumaNodesError::*;
        for text in ["", "a", "0,1", "0-", "-1", "0++1", "0 1", "+0", "0-1-2"] {
            assert_eq!(parsed(text), Err(Malformed), "{text}");
        }
        assert_eq!(parsed("1024"), Err(TooHigh));
        assert_eq!(parsed("99999999999999999999"), Err(TooHigh));
        assert_eq!(parsed("2-1"), Err(Descending));
    }

    #[test]
    fn distributes_devices_in_turn() {
        let nodes: NumaNodes = "0+2".parse().unwrap();
        let distributed: Vec<_> = (0..4).filter_map(|index| nodes.node_of(index)).collect();
        assert_eq!(distributed, [0, 2, 0, 2]);
        assert_eq!(NumaNodes::default().node_of(0), None);
    }
}
