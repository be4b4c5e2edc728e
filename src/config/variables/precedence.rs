//! Finds the value of each variable for each resource, by precedence, list and index.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{Form, NUMA_NODES, RESOURCE_NAME};
use crate::config::environment::{Environment, utf8};
use crate::config::error::ConfigErrors;
use crate::config::settings::{At, Origin};

const RESOURCE_NAME_DEFAULT: &str = "example.com/simple-device";

/// The trimmed value of a variable for one resource.
#[derive(Clone, Debug)]
pub(super) struct VariableValue {
    pub(super) at: At<String>,
    /// Whether the value is for this resource only, by its index or as one of several elements.
    pub(super) is_own: bool,
}

/// The variables of one resource.
#[derive(Debug)]
pub(super) struct ResourceVariables {
    pub(super) name: VariableValue,
    /// The variables that are set, by name.
    pub(super) others: BTreeMap<&'static str, VariableValue>,
}

/// Returns the variables of each resource on this node, in index order. Each list is split once and not once for each
/// resource, so the time is linear.
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
        forms.report_unknown(&indexes, errors);
        let values = forms.values(variable, &indexes, errors);
        for (resource, value) in std::iter::zip(&mut resources, values) {
            resource.others.extend(value.map(|value| (variable, value)));
        }
    }
    resources
}

/// The forms of one variable that apply to this node.
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
            if form.node.is_some_and(|other| other != node) {
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

    /// Returns the resources' names by index, for `RESOURCE_NAME`. `NAME.<node>` replaces both `NAME` and `NAME_<i>`.
    /// `NAME_<i>.<node>` always replaces or appends a name.
    fn names(&self, errors: &mut ConfigErrors) -> BTreeMap<usize, VariableValue> {
        let list = self.node.as_ref().or(self.plain.as_ref());
        let elements = list.map(elements).unwrap_or_default();
        let mut names: BTreeMap<usize, VariableValue> = elements.into_iter().enumerate().collect();
        for (index, set) in self.by_index() {
            names.insert(*index, single(set, errors));
        }
        if names.is_empty() {
            let at = At {
                origin: Origin::Variable(RESOURCE_NAME.into()),
                value: RESOURCE_NAME_DEFAULT.to_owned(),
            };
            names.insert(0, VariableValue { at, is_own: true });
        }
        report_empty(&names, list, errors);
        if let Some(gap) = (0..names.len()).find(|index| !names.contains_key(index)) {
            for name in names.range(gap..).map(|(_, name)| name) {
                let expected = format!("indexes without a gap; RESOURCE_NAME_{gap} is not set");
                errors.add_text("", &name.at, expected);
            }
        }
        names
    }

    /// Returns the indexed forms. `NAME.<node>` replaces every `NAME_<i>`.
    fn by_index(&self) -> impl Iterator<Item = (&usize, &At<String>)> {
        let shared = self.indexed.iter().filter(|_| self.node.is_none());
        shared.chain(&self.node_indexed)
    }

    /// Reports indexes that do not belong to a resource.
    fn report_unknown(&self, indexes: &BTreeSet<usize>, errors: &mut ConfigErrors) {
        for (_, set) in self
            .by_index()
            .filter(|(index, _)| !indexes.contains(index))
        {
            let expected = match indexes.len() {
                1 => "index 0, because there is one resource".to_owned(),
                count => format!("an index below {count}, because there are {count} resources"),
            };
            errors.add_text("", set, expected);
        }
    }

    /// Returns the value for each of these resources: the first form that is set wins. A list is not validated if every
    /// resource has a `NAME_<i>.<node>`.
    fn values(
        &self,
        variable: &str,
        indexes: &BTreeSet<usize>,
        errors: &mut ConfigErrors,
    ) -> Vec<Option<VariableValue>> {
        let list = self.node.as_ref().or(self.plain.as_ref());
        let is_list_unused = indexes
            .iter()
            .all(|index| self.node_indexed.contains_key(index));
        let elements = list.filter(|_| !is_list_unused).map_or(Vec::new(), |list| {
            elements_for(variable, indexes.len(), list, errors)
        });
        let by_index: BTreeMap<&usize, &At<String>> = self.by_index().collect();
        let value = |index: &usize| match (by_index.get(index), &*elements) {
            (Some(set), _) => Some(single(set, errors)),
            (None, [shared]) => Some(shared.clone()),
            (None, elements) => elements.get(*index).cloned(),
        };
        indexes.iter().map(value).collect()
    }
}

/// Reports names of resources that are empty. A list is reported once, with the index of its first empty element.
fn report_empty(
    names: &BTreeMap<usize, VariableValue>,
    list: Option<&At<String>>,
    errors: &mut ConfigErrors,
) {
    let is_element = |name: &VariableValue| {
        list.is_some_and(|list| list.origin == name.at.origin && list.value.contains(','))
    };
    let empty = names.iter().filter(|(_, name)| name.at.value.is_empty());
    let (elements, others): (Vec<_>, Vec<_>) = empty.partition(|(_, name)| is_element(name));
    for (_, name) in others {
        errors.add_text("", &name.at, "a resource name, as in example.com/gpu");
    }
    if let (Some(list), [(first, _), ..]) = (list, &*elements) {
        let empty = match elements.len() {
            1 => format!("the element with index {first} is empty"),
            count => format!("{count} elements are empty, the first has index {first}"),
        };
        errors.add_text(
            "",
            list,
            format_args!("a resource name in each element; {empty}"),
        );
    }
}

fn elements(set: &At<String>) -> Vec<VariableValue> {
    let is_own = set.value.contains(',');
    set.value
        .split(',')
        .map(|value| trimmed(set, value, is_own))
        .collect()
}

/// Returns the elements of a list for this many resources: one for all of them, or one for each. If the number of elements
/// is wrong, reports it and returns none.
fn elements_for(
    variable: &str,
    count: usize,
    set: &At<String>,
    errors: &mut ConfigErrors,
) -> Vec<VariableValue> {
    let elements = elements(set);
    let length = elements.len();
    if length == 1 || length == count {
        return elements;
    }
    let hint = match variable {
        NUMA_NODES => "; to join NUMA nodes write 0-1 or 0+1",
        _ => "",
    };
    let expected = match count {
        1 => format!("1 element instead of {length}, because there is one resource{hint}"),
        _ => format!(
            "1 or {count} elements instead of {length}, because there are {count} resources"
        ),
    };
    errors.add_text("", set, expected);
    Vec::new()
}

/// Returns the value of an indexed form. A comma is reported, and only the text before it is validated further, so that the
/// value is reported once.
fn single(set: &At<String>, errors: &mut ConfigErrors) -> VariableValue {
    if set.value.contains(',') {
        let expected = "a single value without a comma, because the name has an index";
        errors.add_text("", set, expected);
    }
    let first = set.value.split(',').next().unwrap_or_default();
    trimmed(set, first, true)
}

fn trimmed(set: &At<String>, value: &str, is_own: bool) -> VariableValue {
    let at = At {
        origin: set.origin.clone(),
        value: value.trim().to_owned(),
    };
    VariableValue { at, is_own }
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
            let value = name.or(resource.others.get(variable));
            value.map_or("-".into(), |value| value.at.value.clone())
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
    fn a_list_has_one_element_for_all_resources_or_one_for_each() {
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
    fn reports_the_index_of_an_empty_resource_name() {
        refused(
            &[("RESOURCE_NAME", "a/x,,a/z")],
            &[
                "RESOURCE_NAME=\"a/x,,a/z\": expected a resource name in each element; the element with index 1 is empty",
            ],
        );
        refused(
            &[("RESOURCE_NAME.n", "a/x, ")],
            &[
                "RESOURCE_NAME.n=\"a/x, \": expected a resource name in each element; the element with index 1 is empty",
            ],
        );
        refused(
            &[("RESOURCE_NAME", ",a/y,"), ("RESOURCE_NAME_3", "")],
            &[
                "RESOURCE_NAME_3=\"\": expected a resource name, as in example.com/gpu",
                "RESOURCE_NAME=\",a/y,\": expected a resource name in each element; 2 elements are empty, the first has index 0",
            ],
        );
        let replaced = [("RESOURCE_NAME", "a/x,"), ("RESOURCE_NAME_1", "a/y")];
        check(RESOURCE_NAME, &replaced, &["a/x", "a/y"]);
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
        // A node's list replaces everything that is set for all nodes.
        let of_node = ("RESOURCE_NAME.n", "a/n");
        check(
            RESOURCE_NAME,
            &[list, of_node, ("RESOURCE_NAME_0", "a/z")],
            &["a/n"],
        );
        check(
            RESOURCE_NAME,
            &[list, of_node, ("RESOURCE_NAME_0.n", "a/z")],
            &["a/z"],
        );
    }

    #[test]
    fn does_not_validate_variables_of_other_nodes() {
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
    fn does_not_validate_overridden_forms() {
        let others = [("NUMBER_DEVICES_3", "1"), ("NUMBER_DEVICES", "1,2")];
        let with = |own| [&others[..], &[own]].concat();
        check(NUMBER_DEVICES, &with(("NUMBER_DEVICES.n", "4")), &["4"]);
        let list = [others[1], ("NUMBER_DEVICES_0.n", "4")];
        check(NUMBER_DEVICES, &list, &["4"]);
        refused(
            &[others[1], ("NUMBER_DEVICES_0", "4")],
            &[
                "NUMBER_DEVICES=\"1,2\": expected 1 element instead of 2, because there is one resource",
            ],
        );
    }

    #[test]
    fn errors_name_the_variable() {
        refused(
            &[("NUMA_NODES", "0,1")],
            &[
                "NUMA_NODES=\"0,1\": expected 1 element instead of 2, because there is one resource; to join NUMA nodes write 0-1 or 0+1",
            ],
        );
        refused(
            &[("RESOURCE_NAME", "a/x,a/y"), ("NUMBER_DEVICES", "1,2,3")],
            &[
                "NUMBER_DEVICES=\"1,2,3\": expected 1 or 2 elements instead of 3, because there are 2 resources",
            ],
        );
        refused(
            &[("NUMBER_DEVICES_0.n", "1,2")],
            &[
                "NUMBER_DEVICES_0.n=\"1,2\": expected a single value without a comma, because the name has an index",
            ],
        );
        refused(
            &[
                ("NUMBER_DEVICES_1", "2"),
                ("ENV_PREFIX_99999999999999999999", "X"),
            ],
            &[
                "ENV_PREFIX_99999999999999999999=\"X\": expected index 0, because there is one resource",
                "NUMBER_DEVICES_1=\"2\": expected index 0, because there is one resource",
            ],
        );
        refused(
            &[
                ("RESOURCE_NAME_0", "a/x"),
                ("RESOURCE_NAME_2", "a/z"),
                ("NUMBER_DEVICES_2", "3,4"),
            ],
            &[
                "RESOURCE_NAME_2=\"a/z\": expected indexes without a gap; RESOURCE_NAME_1 is not set",
                "NUMBER_DEVICES_2=\"3,4\": expected a single value without a comma, because the name has an index",
            ],
        );
    }
}
