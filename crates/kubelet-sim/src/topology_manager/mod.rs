//! The topology manager: merges the hints for a container's resources into the NUMA nodes from which its devices should
//! come, and rejects the pod if the policy requires that. It follows `pkg/kubelet/cm/topologymanager`. It does no I/O.
//!
//! The scope is the container, a kubelet's default: each container is aligned by itself.

mod numa_mask;

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::admission_error::AdmissionError;
use crate::settings::TopologyPolicy;

pub(crate) use numa_mask::{NUMA_NODES_MAX, NumaMask};

/// NUMA nodes that together have enough devices of a resource (`TopologyHint`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopologyHint {
    /// `None` for any nodes.
    pub(crate) nodes: Option<NumaMask>,
    /// Whether the devices could not be on fewer nodes, even if all of them were free.
    pub(crate) preferred: bool,
}

/// The hints for one resource. `None` if its devices have no topology; empty if no NUMA nodes have enough devices.
pub(crate) type ResourceHints = Option<Vec<TopologyHint>>;

/// Returns the NUMA nodes from which a container's devices should come, or `None` for any.
///
/// # Errors
/// Returns [`AdmissionError::TopologyAffinity`] if the policy rejects the pod.
pub(crate) fn affinity(
    policy: TopologyPolicy,
    host: NumaMask,
    hints: Vec<ResourceHints>,
) -> Result<Option<NumaMask>, AdmissionError> {
    if policy == TopologyPolicy::None {
        return Ok(None);
    }
    let mut hints: Vec<Vec<TopologyHint>> = hints.into_iter().map(or_any_nodes).collect();
    if policy == TopologyPolicy::SingleNumaNode {
        for hints in &mut hints {
            hints.retain(|hint| hint.preferred && hint.nodes.is_none_or(|n| n.count() == 1));
        }
    }
    let best = best_merged(host, &hints);
    match policy {
        TopologyPolicy::Restricted | TopologyPolicy::SingleNumaNode if !best.preferred => {
            Err(AdmissionError::TopologyAffinity)
        }
        TopologyPolicy::SingleNumaNode if best.nodes == host => Ok(None),
        _ => Ok(Some(best.nodes)),
    }
}

/// Replaces missing and empty hints (`filterProvidersHints` in `policy.go`).
fn or_any_nodes(hints: ResourceHints) -> Vec<TopologyHint> {
    let any = |preferred| TopologyHint {
        nodes: None,
        preferred,
    };
    match hints {
        None => vec![any(true)],
        Some(hints) if hints.is_empty() => vec![any(false)],
        Some(hints) => hints,
    }
}

/// The intersection of one hint for each resource (`mergePermutation` in `policy.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Merged {
    nodes: NumaMask,
    /// Whether all hints are preferred and name the same nodes.
    preferred: bool,
    /// The nodes that the hints name. Irrelevant, and therefore `None`, if they are not preferred.
    named: Option<NumaMask>,
}

impl Merged {
    fn and(self, hint: TopologyHint) -> Self {
        let mut preferred = self.preferred && hint.preferred;
        let Some(nodes) = hint.nodes else {
            let named = self.named.filter(|_| preferred);
            return Self {
                preferred,
                named,
                ..self
            };
        };
        preferred &= self.named.is_none_or(|named| named == nodes);
        Self {
            nodes: self.nodes.intersection(nodes),
            preferred,
            named: preferred.then_some(nodes),
        }
    }
}

/// Merges every combination of one hint for each resource, and returns the best result (`HintMerger` in `policy.go`).
/// Equal results are merged further only once, since the combinations can be many millions.
fn best_merged(host: NumaMask, hints: &[Vec<TopologyHint>]) -> Merged {
    let start = Merged {
        nodes: host,
        preferred: true,
        named: None,
    };
    let mut merged = BTreeSet::from([start]);
    for hints in hints {
        let next = merged
            .iter()
            .flat_map(|m| hints.iter().map(|hint| m.and(*hint)));
        merged = next.collect();
    }
    let needed = nodes_needed(hints);
    let possible = merged.into_iter().filter(|merged| merged.nodes.count() > 0);
    let none = Merged {
        preferred: false,
        ..start
    };
    possible.min_by_key(|m| rank(*m, needed)).unwrap_or(none)
}

/// Returns how many NUMA nodes the most demanding resource needs (`maxOfMinAffinityCounts` in `policy.go`).
fn nodes_needed(hints: &[Vec<TopologyHint>]) -> u32 {
    let narrowest = |hints: &Vec<TopologyHint>| {
        let counts = hints.iter().filter_map(|hint| hint.nodes);
        counts.map(NumaMask::count).min()
    };
    hints.iter().filter_map(narrowest).max().unwrap_or(0)
}

/// Orders merged hints from best to worst (`compare` in `policy.go`): preferred ones, the narrowest first; then those
/// with as many nodes as the most demanding resource needs, with fewer, and with more.
fn rank(merged: Merged, needed: u32) -> (u8, u32, NumaMask) {
    let count = merged.nodes.count();
    let (class, distance) = if merged.preferred {
        (0, count)
    } else {
        match count.cmp(&needed) {
            Ordering::Equal => (1, 0),
            Ordering::Less => (2, needed - count),
            Ordering::Greater => (3, count),
        }
    };
    (class, distance, merged.nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use TopologyPolicy::{BestEffort, None as NoPolicy, Restricted, SingleNumaNode};

    fn mask(nodes: &[i64]) -> NumaMask {
        nodes.iter().copied().collect()
    }

    fn preferred(nodes: &[i64]) -> TopologyHint {
        TopologyHint {
            nodes: Some(mask(nodes)),
            preferred: true,
        }
    }

    fn possible(nodes: &[i64]) -> TopologyHint {
        TopologyHint {
            preferred: false,
            ..preferred(nodes)
        }
    }

    /// Returns the affinity for these hints on a host with three NUMA nodes, for each policy but none.
    fn affinities(hints: &[&[TopologyHint]]) -> [Result<Option<NumaMask>, AdmissionError>; 3] {
        [BestEffort, Restricted, SingleNumaNode].map(|policy| {
            let hints = hints.iter().map(|hints| Some(hints.to_vec()));
            affinity(policy, mask(&[0, 1, 2]), hints.collect())
        })
    }

    const REFUSED: Result<Option<NumaMask>, AdmissionError> = Err(AdmissionError::TopologyAffinity);

    #[test]
    fn the_narrowest_preferred_nodes_are_best_for_every_policy() {
        let hints = [preferred(&[2]), preferred(&[1]), possible(&[0, 1, 2])];
        let found = affinities(&[&hints, &[preferred(&[1]), possible(&[1, 2])]]);
        assert_eq!(found, [(); 3].map(|()| Ok(Some(mask(&[1])))));
    }

    #[test]
    fn devices_on_two_nodes_are_refused_by_single_numa_node_only() {
        let found = affinities(&[&[preferred(&[0, 1]), possible(&[0, 1, 2])]]);
        let both = || Ok(Some(mask(&[0, 1])));
        assert_eq!(found, [both(), both(), REFUSED]);
    }

    #[test]
    fn resources_on_different_nodes_are_aligned_by_best_effort_only() {
        let found = affinities(&[&[preferred(&[0])], &[preferred(&[0]), possible(&[0, 1])]]);
        assert_eq!(found[1], Ok(Some(mask(&[0]))));
        // All nodes of the most demanding resource, of which only a part is the other's.
        let found = affinities(&[
            &[preferred(&[1, 2]), possible(&[0, 1, 2])],
            &[preferred(&[0, 1]), possible(&[0, 1, 2])],
        ]);
        assert_eq!(found, [Ok(Some(mask(&[0, 1]))), REFUSED, REFUSED]);
    }

    #[test]
    fn among_nodes_that_are_not_preferred_the_number_that_is_needed_is_best() {
        let found = |hints: &[TopologyHint]| affinities(&[hints])[0].clone();
        let hints = [possible(&[0, 1, 2]), possible(&[0, 2]), possible(&[1, 2])];
        assert_eq!(found(&hints), Ok(Some(mask(&[0, 2]))));
        let [fewer, ..] = affinities(&[&[preferred(&[0]), preferred(&[1])], &[possible(&[1, 2])]]);
        assert_eq!(fewer, Ok(Some(mask(&[1]))));
    }

    #[test]
    fn without_possible_nodes_best_effort_uses_all_and_the_others_refuse() {
        let all = Ok(Some(mask(&[0, 1, 2])));
        assert_eq!(affinities(&[&[]]), [all, REFUSED, REFUSED]);
    }

    #[test]
    fn resources_without_topology_fit_everywhere() {
        for policy in [NoPolicy, SingleNumaNode] {
            assert_eq!(affinity(policy, mask(&[0, 1]), vec![None]), Ok(None));
        }
        let hints = || vec![None, Some(vec![preferred(&[1])])];
        let found = affinity(SingleNumaNode, mask(&[0, 1]), hints());
        assert_eq!(found, Ok(Some(mask(&[1]))));
        assert_eq!(affinity(NoPolicy, mask(&[0, 1]), hints()), Ok(None));
    }
}
