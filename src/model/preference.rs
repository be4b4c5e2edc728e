//! GetPreferredAllocation: which of the available devices the kubelet should prefer.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::Deserialize;

use crate::model::device::{Device, Devices};

/// Which of the available devices the kubelet should prefer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// GetPreferredAllocation is not offered, and the kubelet picks devices at random.
    #[default]
    None,
    /// Devices with the lowest indexes.
    Ordered,
    /// Devices from the fewest NUMA nodes, then with the lowest indexes.
    Packed,
    /// One device from each NUMA node in turn, starting with the least used node.
    Spread,
}

impl Policy {
    /// Returns the policy's value in `PREFERRED_ALLOCATION`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ordered => "ordered",
            Self::Packed => "packed",
            Self::Spread => "spread",
        }
    }
}

impl FromStr for Policy {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::None, Self::Ordered, Self::Packed, Self::Spread]
            .into_iter()
            .find(|policy| policy.as_str() == word)
            .ok_or("none, ordered, packed or spread")
    }
}

/// The NUMA nodes of a device. `packed` and `spread` group devices that have the same nodes.
type NumaSet<'a> = &'a [u16];

/// Returns up to `size` IDs: those of `must_include` first, then available ones by policy. The policy skips IDs that are
/// unknown or that Allocate would refuse. Such IDs are not an error, because an error would fail the pod.
pub(crate) fn prefer(
    devices: &Devices,
    policy: Policy,
    available: &[String],
    must_include: &[String],
    size: usize,
) -> Vec<String> {
    let mut included = BTreeSet::new();
    let mut chosen: Vec<String> = must_include
        .iter()
        .filter(|id| included.insert(id.as_str()))
        .cloned()
        .collect();
    chosen.truncate(size);

    let mut candidates: Vec<&Device> = existing(devices, available)
        .filter(|device| device.is_allocatable() && !included.contains(&*device.id))
        .collect();
    candidates.sort_unstable_by_key(|device| device.index);
    candidates.dedup_by_key(|device| device.index);
    let included_devices: Vec<&Device> = existing(devices, &chosen).collect();

    let needed = size - chosen.len();
    let by_policy = match policy {
        Policy::None | Policy::Ordered => candidates,
        Policy::Packed => packed(candidates, &included_devices, needed),
        Policy::Spread => spread(devices, &candidates, &included_devices, needed),
    };
    chosen.extend(by_policy.iter().take(needed).map(|d| d.id.to_string()));
    chosen
}

fn existing<'a>(devices: &'a Devices, ids: &'a [String]) -> impl Iterator<Item = &'a Device> {
    ids.iter().filter_map(|id| devices.get(id))
}

/// Returns the candidates from the fewest NUMA sets that together have enough devices, in index order. The sets of the
/// included devices, and the set of devices without topology, do not count.
fn packed<'a>(
    candidates: Vec<&'a Device>,
    included_devices: &[&Device],
    needed: usize,
) -> Vec<&'a Device> {
    let mut uncounted: BTreeSet<NumaSet> = included_devices
        .iter()
        .map(|device| &*device.numa)
        .collect();
    uncounted.insert(&[]);

    // The number of candidates in each set. The sets are in the order of their lowest index.
    let mut sizes: Vec<(NumaSet, usize)> = Vec::new();
    let mut missing = needed;
    for device in &candidates {
        let set = &*device.numa;
        if uncounted.contains(set) {
            missing = missing.saturating_sub(1);
        } else if let Some((_, size)) = sizes.iter_mut().find(|(known, _)| *known == set) {
            *size += 1;
        } else {
            sizes.push((set, 1));
        }
    }
    uncounted.extend(fewest_sets(&sizes, missing));
    candidates
        .into_iter()
        .filter(|device| uncounted.contains(&*device.numa))
        .collect()
}

/// Returns the fewest NUMA sets that together have `missing` devices. Of several solutions, returns the one whose sets
/// come first in `sizes`. Returns all sets if they have too few devices.
fn fewest_sets<'a>(sizes: &[(NumaSet<'a>, usize)], mut missing: usize) -> Vec<NumaSet<'a>> {
    let mut largest: Vec<usize> = sizes.iter().map(|(_, size)| *size).collect();
    largest.sort_unstable_by(|a, b| b.cmp(a));
    let mut sum = 0;
    let count = largest
        .iter()
        .take_while(|size| {
            let more = sum < missing;
            sum += **size;
            more
        })
        .count();

    let mut sets = Vec::with_capacity(count);
    for (position, (set, size)) in sizes.iter().enumerate() {
        if sets.len() == count {
            break;
        }
        let left = count - sets.len() - 1;
        if size + sum_of_largest(&sizes[position + 1..], left) >= missing
            || sizes.len() - position == left + 1
        {
            sets.push(*set);
            missing = missing.saturating_sub(*size);
        }
    }
    sets
}

fn sum_of_largest(sizes: &[(NumaSet, usize)], count: usize) -> usize {
    let mut sizes: Vec<usize> = sizes.iter().map(|(_, size)| *size).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.iter().take(count).sum()
}

/// Returns one candidate from each NUMA set in turn. The next set is the one with the fewest devices for this
/// container, then the fewest devices in use, then the lowest index.
fn spread<'a>(
    devices: &Devices,
    candidates: &[&'a Device],
    included_devices: &[&Device],
    needed: usize,
) -> Vec<&'a Device> {
    let mut sets: BTreeMap<NumaSet, Usage> = BTreeMap::new();
    for device in devices.as_slice() {
        sets.entry(&device.numa).or_default().in_use += 1;
    }
    for device in candidates.iter().rev() {
        let usage = sets.entry(&device.numa).or_default();
        usage.in_use -= 1;
        usage.candidates.push(device);
    }
    for device in included_devices {
        let usage = sets.entry(&device.numa).or_default();
        usage.in_use -= 1;
        usage.chosen += 1;
    }

    let mut chosen = Vec::new();
    while chosen.len() < needed {
        let next = sets
            .values_mut()
            .filter(|usage| !usage.candidates.is_empty())
            .min_by_key(|usage| {
                (
                    usage.chosen,
                    usage.in_use,
                    usage.candidates.last().map(|d| d.index),
                )
            });
        let Some(usage) = next else { break };
        usage.chosen += 1;
        chosen.extend(usage.candidates.pop());
    }
    chosen
}

/// The devices of one NUMA set, while [`spread`] chooses from it.
#[derive(Default)]
struct Usage<'a> {
    /// The number of devices that are not available, for example because another container holds them.
    in_use: usize,
    /// The number of devices for this container.
    chosen: usize,
    /// The remaining candidates, by descending index.
    candidates: Vec<&'a Device>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::CountedDevices;
    use crate::model::numa::NumaNodes;
    use proptest::prelude::*;

    fn devices(count: usize, numa: &str) -> Devices {
        let numa: NumaNodes = numa.parse().unwrap_or_default();
        CountedDevices::new("d", "n", numa).devices(count)
    }

    fn ids(indexes: &[usize]) -> Vec<String> {
        indexes.iter().map(|i| format!("d-n-{i}")).collect()
    }

    #[track_caller]
    fn check(
        devices: &Devices,
        policy: Policy,
        available: &[usize],
        must: &[usize],
        size: usize,
        expected: &[usize],
    ) {
        let preferred = prefer(devices, policy, &ids(available), &ids(must), size);
        assert_eq!(preferred, ids(expected));
    }

    #[test]
    fn ordered_takes_the_lowest_indexes() {
        let all = devices(12, "");
        check(&all, Policy::Ordered, &[10, 9, 2, 11], &[], 2, &[2, 9]);
        check(&all, Policy::Ordered, &[10, 9, 2], &[10], 2, &[10, 2]);
        check(&all, Policy::Ordered, &[3, 1], &[], 5, &[1, 3]);
        check(&all, Policy::Ordered, &[3, 1], &[3, 1, 3], 1, &[3]);
        check(&all, Policy::Ordered, &[3, 3, 1], &[], 0, &[]);
    }

    #[test]
    fn packed_takes_the_fewest_numa_nodes() {
        let all = devices(8, "0-1");
        check(&all, Policy::Packed, &[0, 1, 2, 3], &[], 2, &[0, 2]);
        check(&all, Policy::Packed, &[0, 1, 3], &[], 2, &[1, 3]);
        // The must-include device decides the node, although the other node has lower indexes.
        check(&all, Policy::Packed, &[0, 2, 5, 7], &[5], 2, &[5, 7]);
        check(&all, Policy::Packed, &[0, 1, 2, 3], &[], 3, &[0, 1, 2]);
    }

    #[test]
    fn packed_prefers_low_indexes_among_equally_few_nodes() {
        // Node 0 has 0 3 6, node 1 has 1 4 7, node 2 has 2 5 8 11. Any two nodes have five devices.
        let all = devices(12, "0-2");
        let available = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11];
        check(&all, Policy::Packed, &available, &[], 5, &[0, 1, 3, 4, 6]);
        check(&all, Policy::Packed, &available, &[], 4, &[2, 5, 8, 11]);
        check(
            &all,
            Policy::Packed,
            &available,
            &[],
            7,
            &[0, 2, 3, 5, 6, 8, 11],
        );
    }

    #[test]
    fn spread_takes_turns_and_starts_with_the_least_used() {
        let all = devices(8, "0-1");
        check(
            &all,
            Policy::Spread,
            &[0, 2, 4, 6, 1, 3, 5, 7],
            &[],
            3,
            &[0, 1, 2],
        );
        // Node 0 has two devices in use, node 1 none.
        check(
            &all,
            Policy::Spread,
            &[4, 6, 1, 3, 5, 7],
            &[],
            3,
            &[1, 4, 3],
        );
        // Node 0 has the must-include device.
        check(
            &all,
            Policy::Spread,
            &[0, 1, 2, 3, 4, 5, 6, 7],
            &[0],
            2,
            &[0, 1],
        );
        check(&devices(4, ""), Policy::Spread, &[3, 1, 2], &[], 2, &[1, 2]);
    }

    #[test]
    fn ignores_unknown_ids() {
        let all = devices(2, "0-1");
        for policy in [Policy::Ordered, Policy::Packed, Policy::Spread] {
            let preferred = prefer(
                &all,
                policy,
                &["x".into(), "d-n-1".into()],
                &["y".into()],
                3,
            );
            assert_eq!(preferred, ["y", "d-n-1"]);
        }
    }

    proptest! {
        /// The result has as many distinct available IDs as possible, up to the size, with must-include IDs first.
        #[test]
        fn every_policy_gives_a_valid_hint(
            count in 0_usize..40,
            numa in "([0-3](\\+[0-3]){0,3})?",
            policy in prop::sample::select(vec![Policy::None, Policy::Ordered, Policy::Packed, Policy::Spread]),
            offered in prop::collection::vec(0_usize..40, 0..40),
            must_include in 0_usize..5,
            size in 0_usize..45,
        ) {
            let devices = devices(count, &numa);
            let offered: Vec<usize> = offered.into_iter().filter(|i| *i < count).collect();
            let available = ids(&offered);
            let must = &available[..must_include.min(available.len())];
            let preferred = prefer(&devices, policy, &available, must, size);

            let distinct: BTreeSet<_> = available.iter().collect();
            prop_assert_eq!(preferred.len(), size.min(distinct.len()));
            prop_assert_eq!(preferred.iter().collect::<BTreeSet<_>>().len(), preferred.len());
            prop_assert!(preferred.iter().all(|id| distinct.contains(id)));
            let first: BTreeSet<_> = must.iter().collect();
            let head: BTreeSet<_> = preferred.iter().take(first.len()).collect();
            prop_assert!(head.is_subset(&first));
        }

        /// Compares with the smallest of all subsets of nodes that have enough devices.
        #[test]
        fn packed_uses_the_fewest_nodes(
            offered in prop::collection::btree_set(0_usize..24, 1..24),
            size in 1_usize..24,
        ) {
            let devices = devices(24, "0+1+2+0+3");
            let offered: Vec<usize> = offered.into_iter().collect();
            prop_assume!(size <= offered.len());
            let preferred = prefer(&devices, Policy::Packed, &ids(&offered), &[], size);
            let node = |id: &str| devices.get(id).unwrap().numa[0];
            let used: BTreeSet<u16> = preferred.iter().map(|id| node(id)).collect();
            let fewest = (0_u8..16)
                .filter(|set| {
                    let in_set = |i: &usize| set & (1 << devices.as_slice()[*i].numa[0]) != 0;
                    offered.iter().filter(|i| in_set(i)).count() >= size
                })
                .map(u8::count_ones)
                .min();
            prop_assert_eq!(Some(used.len()), fewest.map(|n| n as usize));
        }
    }
}
