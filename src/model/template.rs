//! Templates for the values that containers receive, such as `GPU_{index}`.

use std::borrow::Cow;

use thiserror::Error;
use uuid::Uuid;

use crate::model::device::Device;
use crate::util::sanitize::sanitize;

/// A text with placeholders in braces. A placeholder is replaced by a value of one device, or of all devices of the
/// container. `{{` and `}}` are literal braces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Source, Vec<Filter>),
}

/// Where the value of a placeholder comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Device(Field),
    /// The position of the device among the container's devices, from 0.
    Position,
    /// The field of each of the container's devices, joined with commas.
    AllDevices(Field),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Id,
    Index,
    Path,
    /// Several nodes are joined with `+`, as in `NUMA_NODES`.
    Numa,
    Attribute(String),
}

/// A transformation of a placeholder's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Upper,
    Alnum,
    Uuid,
}

/// Values that are the same for all devices of a resource on a node.
#[derive(Clone, Copy, Debug)]
pub struct Constants<'a> {
    pub node: &'a str,
    pub resource: &'a str,
}

/// Why a template is invalid. Each message completes the sentence `expected …`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("a '}}' for every '{{'; write '{{{{' or '}}}}' for a literal brace")]
    Unbalanced,
    #[error("the name of a placeholder or attribute in the braces, not '{{{0}}}'")]
    InvalidName(String),
    #[error("a filter (upper, alnum, uuid), not '{0}'")]
    UnknownFilter(String),
    #[error("at most {PARTS_MAX} placeholders and texts between them, counted together")]
    TooLong,
}

/// Bounds the work of rendering a template.
const PARTS_MAX: usize = 100;

/// The names of the built-in placeholders, which an attribute cannot have.
pub(crate) const PLACEHOLDERS: [&str; 11] = [
    "id", "index", "position", "path", "numa", "node", "resource", "ids", "indexes", "paths",
    "numas",
];

impl Template {
    /// Creates a template without placeholders. Braces in the text are literal.
    pub(crate) fn verbatim(text: &str) -> Self {
        Self(vec![Part::Text(text.to_owned())])
    }

    /// Creates the template `<prefix>{index}`. Braces in the prefix are literal.
    pub fn indexed(prefix: &str) -> Self {
        let index = Part::Value(Source::Device(Field::Index), Vec::new());
        Self(vec![Part::Text(prefix.to_owned()), index])
    }

    /// Creates the template `{id}`.
    pub fn id() -> Self {
        Self(vec![Part::Value(Source::Device(Field::Id), Vec::new())])
    }

    /// Parses a template. A name that is not one of [`PLACEHOLDERS`] refers to an attribute.
    ///
    /// # Errors
    /// Returns an error if the braces are unbalanced, a name or filter is invalid, or the template has too many parts.
    pub fn parse(text: &str, constants: Constants) -> Result<Self, TemplateError> {
        let mut template = Self::default();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            template.push(Part::Text(rest[..at].to_owned()));
            let (brace, after) = rest[at..].split_at(1);
            if after.starts_with(brace) {
                template.push(Part::Text(brace.to_owned()));
                rest = &after[1..];
            } else if let ("{", Some((inside, after))) = (brace, after.split_once('}')) {
                template.push(parse_placeholder(inside, constants)?);
                rest = after;
            } else {
                return Err(TemplateError::Unbalanced);
            }
        }
        template.push(Part::Text(rest.to_owned()));
        if template.0.len() > PARTS_MAX {
            return Err(TemplateError::TooLong);
        }
        Ok(template)
    }

    /// Appends a part. Adjacent texts are merged and empty texts are dropped.
    fn push(&mut self, part: Part) {
        match (self.0.last_mut(), part) {
            (_, Part::Text(text)) if text.is_empty() => {}
            (Some(Part::Text(last)), Part::Text(text)) => last.push_str(&text),
            (_, part) => self.0.push(part),
        }
    }

    /// Whether the result can differ between the devices of a container.
    pub(crate) fn is_per_device(&self) -> bool {
        self.sources()
            .any(|source| !matches!(source, Source::AllDevices(_)))
    }

    /// Whether the template has a placeholder for all of the container's devices, such as `{ids}`.
    pub(crate) fn uses_all_devices(&self) -> bool {
        self.sources()
            .any(|source| matches!(source, Source::AllDevices(_)))
    }

    /// Whether the result depends on the container's other devices.
    pub(crate) fn depends_on_container(&self) -> bool {
        self.uses_all_devices() || self.sources().any(|source| *source == Source::Position)
    }

    /// Returns the name of the first placeholder for which the device has no value.
    pub fn missing_value(&self, device: &Device) -> Option<&str> {
        self.sources().find_map(|source| match source {
            Source::Device(field) | Source::AllDevices(field) => field.missing_value(device),
            Source::Position => None,
        })
    }

    /// Renders the placeholders for all devices, such as `{ids}`, so that they are not rendered again for each device.
    #[must_use]
    pub(crate) fn with_all_devices_rendered(&self, devices: &[&Device]) -> Self {
        let render = |part: &Part| match part {
            Part::Value(source @ Source::AllDevices(_), filters) => {
                Part::Text(apply_filters(source.value(devices, 0), filters))
            }
            part => part.clone(),
        };
        Self(self.0.iter().map(render).collect())
    }

    /// Renders the template for the device at `position` in `devices`, which are all of the container's devices.
    pub fn of(&self, devices: &[&Device], position: usize) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Value(source, filters) => apply_filters(source.value(devices, position), filters),
        };
        self.0.iter().map(text).collect()
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().filter_map(|part| match part {
            Part::Value(source, _) => Some(source),
            Part::Text(_) => None,
        })
    }
}

fn parse_placeholder(inside: &str, constants: Constants) -> Result<Part, TemplateError> {
    let mut terms = inside.split('|').map(str::trim);
    let name = terms.next().unwrap_or_default();
    let filters = terms.map(parse_filter).collect::<Result<Vec<_>, _>>()?;
    let source = match name {
        "node" => {
            return Ok(Part::Text(apply_filters(
                constants.node.to_owned(),
                &filters,
            )));
        }
        "resource" => {
            return Ok(Part::Text(apply_filters(
                constants.resource.to_owned(),
                &filters,
            )));
        }
        "id" => Source::Device(Field::Id),
        "index" => Source::Device(Field::Index),
        "path" => Source::Device(Field::Path),
        "numa" => Source::Device(Field::Numa),
        "position" => Source::Position,
        "ids" => Source::AllDevices(Field::Id),
        "indexes" => Source::AllDevices(Field::Index),
        "paths" => Source::AllDevices(Field::Path),
        "numas" => Source::AllDevices(Field::Numa),
        attribute if is_attribute(attribute) => {
            Source::Device(Field::Attribute(attribute.to_owned()))
        }
        _ => return Err(TemplateError::InvalidName(sanitize(inside))),
    };
    Ok(Part::Value(source, filters))
}

/// Whether an attribute can have this name, which consists of letters, digits, `.`, `_`, `-` and `/`.
pub(crate) fn is_attribute(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
}

fn parse_filter(name: &str) -> Result<Filter, TemplateError> {
    match name {
        "upper" => Ok(Filter::Upper),
        "alnum" => Ok(Filter::Alnum),
        "uuid" => Ok(Filter::Uuid),
        _ => Err(TemplateError::UnknownFilter(sanitize(name))),
    }
}

fn apply_filters(text: String, filters: &[Filter]) -> String {
    filters.iter().fold(text, |text, filter| match filter {
        Filter::Upper => text.to_uppercase(),
        Filter::Alnum => text
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect(),
        // A version 5 UUID depends only on the text, so it is the same on every node and in every version.
        Filter::Uuid => Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).to_string(),
    })
}

impl Source {
    fn value(&self, devices: &[&Device], position: usize) -> String {
        match self {
            Self::Device(field) => field.value(devices[position]).into_owned(),
            Self::Position => position.to_string(),
            Self::AllDevices(field) => {
                let texts: Vec<_> = devices.iter().map(|device| field.value(device)).collect();
                texts.join(",")
            }
        }
    }
}

impl Field {
    fn value<'a>(&self, device: &'a Device) -> Cow<'a, str> {
        match self {
            Self::Id => Cow::Borrowed(&*device.id),
            Self::Index => device.index.to_string().into(),
            Self::Path => device.path().unwrap_or_default().into(),
            Self::Attribute(name) => device.attribute(name).unwrap_or_default().into(),
            Self::Numa => {
                let nodes: Vec<_> = device.numa.iter().map(u16::to_string).collect();
                nodes.join("+").into()
            }
        }
    }

    fn missing_value(&self, device: &Device) -> Option<&str> {
        match self {
            Self::Path if device.path().is_none() => Some("path"),
            Self::Attribute(name) if device.attribute(name).is_none() => Some(name),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::CountedDevices;
    use crate::model::device::{Detail, Devices};
    use crate::model::numa::NumaNodes;

    fn devices() -> Devices {
        let device = |index: usize| {
            let numa = [u16::try_from(index % 2).unwrap()];
            let detail = Detail {
                path: Some(format!("/dev/x{index}")),
                attributes: [("model".to_owned(), "v-1".to_owned())].into(),
            };
            Device {
                detail: Some(detail.into()),
                ..Device::new(format!("gpu-w-{index}"), index, numa.into())
            }
        };
        Devices::from_list((0..3).map(device).collect())
    }

    fn parsed(text: &str) -> Result<Template, TemplateError> {
        Template::parse(
            text,
            Constants {
                node: "w.x",
                resource: "a.b/c",
            },
        )
    }

    #[test]
    fn renders_placeholders_and_filters() {
        let devices = devices();
        let container: Vec<&Device> = devices.as_slice()[1..].iter().collect();
        for (text, expected) in [
            ("plain", "plain"),
            (
                "{id} {index} {position} {path} {numa}",
                "gpu-w-2 2 1 /dev/x2 0",
            ),
            (
                "{ids}|{indexes}|{paths}|{numas}",
                "gpu-w-1,gpu-w-2|1,2|/dev/x1,/dev/x2|1,0",
            ),
            ("{node}/{resource}", "w.x/a.b/c"),
            ("{resource|upper|alnum}_{ id | alnum }", "ABC_gpuw2"),
            ("{model}", "v-1"),
            ("{{{id}}}", "{gpu-w-2}"),
        ] {
            assert_eq!(parsed(text).unwrap().of(&container, 1), expected, "{text}");
        }
        // The UUID must never change, because users rely on it.
        let uuid = parsed("{id|uuid}").unwrap().of(&container, 0);
        assert_eq!(uuid, "9edf6167-505e-5000-b586-b6717bfb49b7");
    }

    #[test]
    fn refuses_invalid_templates() {
        use TemplateError::*;
        for (text, error) in [
            ("{id", Unbalanced),
            ("id}", Unbalanced),
            ("{", Unbalanced),
            ("{}", InvalidName(String::new())),
            ("{a b}", InvalidName("a b".to_owned())),
            ("{id|lower}", UnknownFilter("lower".to_owned())),
            ("{id|}", UnknownFilter(String::new())),
        ] {
            assert_eq!(parsed(text), Err(error), "{text}");
        }
        assert_eq!(
            parsed("{id|x}").unwrap_err().to_string(),
            "a filter (upper, alnum, uuid), not 'x'"
        );
    }

    #[test]
    fn detects_which_devices_a_template_depends_on() {
        for (text, per_device, of_all) in [
            ("{node}", false, false),
            ("{id}", true, false),
            ("{position}", true, false),
            ("{ids}", false, true),
            ("{ids}{model}", true, true),
        ] {
            let template = parsed(text).unwrap();
            assert_eq!(
                (template.is_per_device(), template.uses_all_devices()),
                (per_device, of_all),
                "{text}"
            );
        }
        let counted = CountedDevices::new("d", "n", NumaNodes::default()).devices(1);
        let device = &counted.as_slice()[0];
        assert_eq!(
            parsed("{id}{index}{numa}").unwrap().missing_value(device),
            None
        );
        assert_eq!(
            parsed("{id}{model}").unwrap().missing_value(device),
            Some("model")
        );
        assert_eq!(
            parsed("{paths}").unwrap().missing_value(device),
            Some("path")
        );
    }
}
