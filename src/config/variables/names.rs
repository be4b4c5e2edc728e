//! The names of the variables of resources, with their index and node.

pub const RESOURCE_NAME: &str = "RESOURCE_NAME";
pub const NUMBER_DEVICES: &str = "NUMBER_DEVICES";
pub const DEVICE_ID_PREFIX: &str = "DEVICE_ID_PREFIX";
pub const PLUGIN_NAME: &str = "PLUGIN_NAME";
pub const ENV_PREFIX: &str = "ENV_PREFIX";
pub const ANNOTATION_PREFIX: &str = "ANNOTATION_PREFIX";
pub const DEVICE_FILE_PREFIX: &str = "DEVICE_FILE_PREFIX";
pub const DEVICE_FILE_HOST_PATH: &str = "DEVICE_FILE_HOST_PATH";
pub const NUMA_NODES: &str = "NUMA_NODES";
pub const PREFERRED_ALLOCATION: &str = "PREFERRED_ALLOCATION";

/// The variables of each resource. `RESOURCE_NAME` determines the number of resources.
pub(crate) const RESOURCE_VARIABLES: [&str; 10] = [
    RESOURCE_NAME,
    NUMBER_DEVICES,
    DEVICE_ID_PREFIX,
    PLUGIN_NAME,
    ENV_PREFIX,
    ANNOTATION_PREFIX,
    DEVICE_FILE_PREFIX,
    DEVICE_FILE_HOST_PATH,
    NUMA_NODES,
    PREFERRED_ALLOCATION,
];

/// The parts of a variable's name, which is `NAME`, `NAME_<i>`, `NAME.<node>` or `NAME_<i>.<node>`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Form<'a> {
    pub variable: &'static str,
    pub index: Option<usize>,
    pub node: Option<&'a str>,
}

impl<'a> Form<'a> {
    pub fn of(name: &'a str) -> Option<Self> {
        let (stem, node) = match name.split_once('.') {
            Some((stem, node)) => (stem, Some(node)),
            None => (name, None),
        };
        RESOURCE_VARIABLES.into_iter().find_map(|variable| {
            let index = match stem.strip_prefix(variable)? {
                "" => None,
                suffix => Some(index(suffix.strip_prefix('_')?)?),
            };
            Some(Self {
                variable,
                index,
                node,
            })
        })
    }
}

/// Parses a decimal index without leading zeros. An index that overflows becomes `usize::MAX`, which no resource has.
fn index(digits: &str) -> Option<usize> {
    let decimal = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    (decimal && !leading_zero).then(|| digits.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_a_name_into_variable_index_and_node() {
        let form = |variable, index, node| {
            Some(Form {
                variable,
                index,
                node,
            })
        };
        for (name, expected) in [
            ("ENV_PREFIX", form(ENV_PREFIX, None, None)),
            ("ENV_PREFIX_12", form(ENV_PREFIX, Some(12), None)),
            ("ENV_PREFIX.a.b", form(ENV_PREFIX, None, Some("a.b"))),
            ("ENV_PREFIX_0.a_1", form(ENV_PREFIX, Some(0), Some("a_1"))),
            (
                "ENV_PREFIX_99999999999999999999",
                form(ENV_PREFIX, Some(usize::MAX), None),
            ),
            ("ENV_PREFIX_01", None),
            ("ENV_PREFIX_", None),
            ("ENV_PREFIX_x", None),
            ("ENV_PREFIX_+1", None),
            ("ENV_PREFIXES", None),
            ("MY_ENV_PREFIX", None),
        ] {
            assert_eq!(Form::of(name), expected, "{name}");
        }
    }
}
