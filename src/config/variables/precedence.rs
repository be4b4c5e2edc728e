//! Which variable gives a resource's value: precedence, lists and indexes.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{Form, RESOURCE_NAME};
use crate::config::environment::{Environment, utf8};
use crate::config::error::ConfigErrors;
use crate::config::settings::{At, Origin};

const RESOURCE_NAME_DEFAULT: &str = "example.com/simple-device";

/// A resource's value of one variable, trimmed; empty where it was set empty.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) at: At<String>,
    /// Whether it is meant for this resource alone: given by index or as one of several elements.
    pub(super) own: bool,
}

/// All that the variables say of one resource.
#[derive(Debug)]
pub(super) struct ResourceVariables {
    pub(super) name: Found,
    /// By the variable's name; what is missing was not set.
    pub(super) others: BTreeMap<&'static str, Found>,
}

/// What the variables say of each resource of this node, in index order. Each variable is read once, so that the time
/// grows with the number of resources and not with its square.
pub(super) fn by_resource(
    environment: &Environment,
    node: &str,
    errors: &mut ConfigErrors,
) -> Vec<ResourceVariables> {
    let mut all = Forms::gather(environment, node, errors);
    let names = all.remove(RESOURCE_NAME).unwrap_or_default();
    let names = names.names(errors);
    let indexes: BTreeSet<usize> = names.keys().copied().collect();
    let named = |name| ResourceVariables {
        name,
        others: BTreeMap::new(),
    };
    let mut resources: Vec<ResourceVariables> = names.into_values().map(named).collect();
    for (variable, forms) in all {
        forms.refuse_unknown(&indexes, errors);
        let values = forms.values(&indexes, errors);
        for (resource, value) in std::iter::zip(&mut resources, values) {
            resource.others.extend(value.map(|value| (variable, value)));
        }
    }
    resources
}

/// One variable's forms that concern this node.
#[derive(Debug, Default)]
struct Forms {
    /// 1. `NAME_<i>.<node>`
    node_indexed: BTreeMap<usize, At<String>>,
    /// 2. `NAME.<node>`
    node: Option<At<String>>,
    /// 3. `NAME_<i>`
    indexed: BTreeMap<usize, At<String>>,
    /// 4. `NAME`
    plain: Option<At<String>>,
}

impl Forms {
    fn gather(
        environment: &Environment,
        node: &str,
        errors: &mut ConfigErrors,
    ) -> BTreeMap<&'static str, Self> {
        let mut all: BTreeMap<&'static str, Self> = BTreeMap::new();
        for (name, value) in environment {
            let Some(form) = Form::of(name) else { continue };
            if form.node.is_some_and(|of| of != node) {
                continue;
            }
            let set = At {
                origin: Origin::Variable(name.as_str().into()),
                value: utf8(name, value, errors),
            };
            let variable = all.entry(form.variable).or_default();
            match (form.index, form.node) {
                (Some(index), Some(_)) => drop(variable.node_indexed.insert(index, set)),
                (None, Some(_)) => variable.node = Some(set),
                (Some(index), None) => drop(variable.indexed.insert(index, set)),
                (None, None) => variable.plain = Some(set),
            }
        }
        all
    }

    /// `RESOURCE_NAME`: the resources' names by index. `NAME.<node>` is the node's whole list, else
    /// `NAME` with `NAME_<i>` over it; `NAME_<i>.<node>` replaces or appends in any case.
    fn names(&self, errors: &mut ConfigErrors) -> BTreeMap<usize, Found> {
        let list = self.node.as_ref().or(self.plain.as_ref());
        let elements = list.map(elements).unwrap_or_default();
        let mut names: BTreeMap<usize, Found> = elements.into_iter().enumerate().collect();
        for (index, set) in self.by_index() {
            names.insert(*index, single(set, errors));
        }
        if names.is_empty() {
            let at = At {
                origin: Origin::Variable(RESOURCE_NAME.into()),
                value: RESOURCE_NAME_DEFAULT.to_owned(),
            };
            names.insert(0, Found { at, own: true });
        }
        if let Some(gap) = (0..names.len()).find(|index| !names.contains_key(index)) {
            for found in names.range(gap..).map(|(_, found)| found) {
                let expected = format!("no gap: there is no resource {gap}");
                errors.add_text("", &found.at, expected);
            }
        }
        names
    }

    /// What is set for one resource by its index. What the node's own list replaces is meant for other nodes.
    fn by_index(&self) -> impl Iterator<Item = (&usize, &At<String>)> {
        let shared = self.indexed.iter().filter(|_| self.node.is_none());
        shared.chain(&self.node_indexed)
    }

    /// Reports indexes that no resource has.
    fn refuse_unknown(&self, indexes: &BTreeSet<usize>, errors: &mut ConfigErrors) {
        for (_, set) in self
            .by_index()
            .filter(|(index, _)| !indexes.contains(index))
        {
            let expected = match indexes.len() {
                1 => "index 0, there is one resource".to_owned(),
                count => format!("an index below {count}, there are {count} resources"),
            };
            errors.add_text("", set, expected);
        }
    }

    /// The value for each of these resources; the first form that is set wins. Where every resource has a value of this
    /// node's own, the list is meant for other nodes and not validated.
    fn values(&self, indexes: &BTreeSet<usize>, errors: &mut ConfigErrors) -> Vec<Option<Found>> {
        let list = self.node.as_ref().or(self.plain.as_ref());
        let all_own = indexes
            .iter()
            .all(|index| self.node_indexed.contains_key(index));
        let elements = list
            .filter(|_| !all_own)
            .map_or(Vec::new(), |list| elements_for(indexes.len(), list, errors));
        let by_index: BTreeMap<&usize, &At<String>> = self.by_index().collect();
        let value = |index: &usize| match (by_index.get(index), &*elements) {
            (Some(set), _) => Some(single(set, errors)),
            (None, [shared]) => Some(shared.clone()),
            (None, elements) => elements.get(*index).cloned(),
        };
        indexes.iter().map(value).collect()
    }
}

fn elements(set: &At<String>) -> Vec<Found> {
    let own = set.value.contains(',');
    set.value
        .split(',')
        .map(|value| found(set, value, own))
        .collect()
}

/// The elements of a list that serves this many resources: one for all of them, or one for each; none, if their number
/// is wrong.
fn elements_for(count: usize, set: &At<String>, errors: &mut ConfigErrors) -> Vec<Found> {
    let elements = elements(set);
    let length = elements.len();
    if length == 1 || length == count {
        return elements;
    }
    let expected = match count {
        1 => format!("one element for the one resource, not {length}"),
        _ => format!("1 or {count} elements for the {count} resources, not {length}"),
    };
    errors.add_text("", set, expected);
    Vec::new()
}

/// The one value of an indexed form. Where it has a comma, its first part stands for it from here
/// on, so that nothing is reported twice.
fn single(set: &At<String>, errors: &mut ConfigErrors) -> Found {
    if set.value.contains(',') {
        let expected = "one value without a comma, since the name has an index";
        errors.add_text("", set, expected);
    }
    let first = set.value.split(',').next().unwrap_or_default();
    found(set, first, true)
}

fn found(set: &At<String>, value: &str, own: bool) -> Found {
    let at = At {
        origin: set.origin.clone(),
        value: value.trim().to_owned(),
    };
    Found { at, own }
}

#[cfg(test)]
mod tests {
    use super::super::names::NUMBER_DEVICES;
    use super::*;
    use std::ffi::OsString;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), OsString::from(value));
        pairs.iter().map(owned).collect()
    }

    /// The values of a variable for each resource on node `n`, or the errors.
    fn values(pairs: &[(&str, &str)], variable: &str) -> Result<Vec<String>, Vec<String>> {
        let mut errors = ConfigErrors::default();
        let resources = by_resource(&environment(pairs), "n", &mut errors);
        if !errors.as_slice().is_empty() {
            return Err(errors.as_slice().iter().map(ToString::to_string).collect());
        }
        let value = |resource: &ResourceVariables| {
            let name = Some(&resource.name).filter(|_| variable == RESOURCE_NAME);
            let found = name.or(resource.others.get(variable));
            found.map_or("-".into(), |found| found.at.value.clone())
        };
        Ok(resources.iter().map(value).collect())
    }

    #[track_caller]
    fn check(variable: &str, pairs: &[(&str, &str)], expected: &[&str]) {
        let expected = expected.iter().map(|v| (*v).to_owned()).collect();
        assert_eq!(values(pairs, variable), Ok(expected));
    }

    #[track_caller]
    fn refused(pairs: &[(&str, &str)], expected: &[&str]) {
        let errors = values(pairs, NUMBER_DEVICES).expect_err("no error");
        assert_eq!(errors, expected);
    }

    #[test]
    fn the_first_form_that_is_set_wins() {
        let forms = [
            ("NUMBER_DEVICES_0.n", "1"),
            ("NUMBER_DEVICES.n", "2"),
            ("NUMBER_DEVICES_0", "3"),
            ("NUMBER_DEVICES", "4"),
        ];
        for first in 0..forms.len() {
            check(NUMBER_DEVICES, &forms[first..], &[forms[first].1]);
        }
        check(NUMBER_DEVICES, &[], &["-"]);
        check(
            NUMBER_DEVICES,
            &[("NUMBER_DEVICES_0", ""), ("NUMBER_DEVICES", "4")],
            &[""],
        );
    }

    #[test]
    fn one_element_serves_all_and_several_serve_each() {
        let two = ("RESOURCE_NAME", "a/x, a/y");
        check(RESOURCE_NAME, &[two], &["a/x", "a/y"]);
        check(
            NUMBER_DEVICES,
            &[two, ("NUMBER_DEVICES", " 3 ")],
            &["3", "3"],
        );
        check(NUMBER_DEVICES, &[two], &["-", "-"]);
        check(
            NUMBER_DEVICES,
            &[two, ("NUMBER_DEVICES", "3 ,")],
            &["3", ""],
        );
        check(
            NUMBER_DEVICES,
            &[two, ("NUMBER_DEVICES", "3,4"), ("NUMBER_DEVICES_1", "5")],
            &["3", "5"],
        );
    }

    #[test]
    fn resources_are_replaced_and_appended_by_index() {
        check(RESOURCE_NAME, &[], &["example.com/simple-device"]);
        check(
            RESOURCE_NAME,
            &[("RESOURCE_NAME_0", "a/x"), ("RESOURCE_NAME_1", "a/y")],
            &["a/x", "a/y"],
        );
        let list = ("RESOURCE_NAME", "a/x,a/y");
        check(
            RESOURCE_NAME,
            &[list, ("RESOURCE_NAME_1", "a/z")],
            &["a/x", "a/z"],
        );
        check(
            RESOURCE_NAME,
            &[list, ("RESOURCE_NAME_2.n", "a/z")],
            &["a/x", "a/y", "a/z"],
        );
        // A node's list is its whole list; only what is meant for the node goes over it.
        let nodes = ("RESOURCE_NAME.n", "a/n");
        check(
            RESOURCE_NAME,
            &[list, nodes, ("RESOURCE_NAME_0", "a/z")],
            &["a/n"],
        );
        check(
            RESOURCE_NAME,
            &[list, nodes, ("RESOURCE_NAME_0.n", "a/z")],
            &["a/z"],
        );
    }

    #[test]
    fn other_nodes_are_not_judged() {
        check(
            NUMBER_DEVICES,
            &[("NUMBER_DEVICES_7.other", "x,y"), ("NUMBER_DEVICES", "4")],
            &["4"],
        );
        check(
            RESOURCE_NAME,
            &[("RESOURCE_NAME.other", "a/x")],
            &["example.com/simple-device"],
        );
    }

    #[test]
    fn shadowed_forms_are_not_judged() {
        let others = [("NUMBER_DEVICES_3", "1"), ("NUMBER_DEVICES", "1,2")];
        let with = |own| [&others[..], &[own]].concat();
        check(NUMBER_DEVICES, &with(("NUMBER_DEVICES.n", "4")), &["4"]);
        let list = [others[1], ("NUMBER_DEVICES_0.n", "4")];
        check(NUMBER_DEVICES, &list, &["4"]);
        refused(
            &[others[1], ("NUMBER_DEVICES_0", "4")],
            &["NUMBER_DEVICES=\"1,2\": expected one element for the one resource, not 2"],
        );
    }

    #[test]
    fn mistakes_name_the_variable() {
        refused(
            &[("RESOURCE_NAME", "a/x,a/y"), ("NUMBER_DEVICES", "1,2,3")],
            &["NUMBER_DEVICES=\"1,2,3\": expected 1 or 2 elements for the 2 resources, not 3"],
        );
        refused(
            &[("NUMBER_DEVICES_0.n", "1,2")],
            &[
                "NUMBER_DEVICES_0.n=\"1,2\": expected one value without a comma, since the name has an index",
            ],
        );
        refused(
            &[
                ("NUMBER_DEVICES_1", "2"),
                ("ENV_PREFIX_99999999999999999999", "X"),
            ],
            &[
                "ENV_PREFIX_99999999999999999999=\"X\": expected index 0, there is one resource",
                "NUMBER_DEVICES_1=\"2\": expected index 0, there is one resource",
            ],
        );
        refused(
            &[
                ("RESOURCE_NAME_0", "a/x"),
                ("RESOURCE_NAME_2", "a/z"),
                ("NUMBER_DEVICES_2", "3,4"),
            ],
            &[
                "RESOURCE_NAME_2=\"a/z\": expected no gap: there is no resource 1",
                "NUMBER_DEVICES_2=\"3,4\": expected one value without a comma, since the name has an index",
            ],
        );
    }
}
