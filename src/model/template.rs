//! Texts with placeholders: what a container gets, made of its devices.

use std::borrow::Cow;

use thiserror::Error;
use uuid::Uuid;

use crate::model::device::Device;
use crate::util::sanitize::sanitize;

/// A text in which `{…}` stands for something of a device or of all the container's devices. `{{` and
/// `}}` are braces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Source, Vec<Filter>),
}

/// What a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Of(Field),
    /// The place among the container's devices, from 0.
    Position,
    /// Of all the container's devices, comma-joined.
    Each(Field),
}

/// What a device has.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Id,
    Index,
    Path,
    /// Several are joined with `+`, as in `NUMA_NODES`.
    Numa,
    Attribute(String),
}

/// What a placeholder's text goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Upper,
    Alnum,
    Uuid,
}

/// What is the same for every device of a resource on a node.
#[derive(Clone, Copy, Debug)]
pub struct Constants<'a> {
    pub node: &'a str,
    pub resource: &'a str,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("a '}}' for every '{{'; a brace itself is written twice")]
    Unbalanced,
    #[error("a placeholder's name, not '{{{0}}}'")]
    NotAName(String),
    #[error("a filter (upper, alnum, uuid), not '{0}'")]
    UnknownFilter(String),
    #[error("at most {PARTS_MAX} placeholders and texts between them")]
    TooLong,
}

/// A container's env has a bound too.
const PARTS_MAX: usize = 100;

/// The names of the placeholders that are not attributes.
pub(crate) const PLACEHOLDERS: [&str; 11] = [
    "id", "index", "position", "path", "numa", "node", "resource", "ids", "indexes", "paths",
    "numas",
];

impl Template {
    /// A text without placeholders, braces and all.
    pub(crate) fn verbatim(text: &str) -> Self {
        Self(vec![Part::Text(text.to_owned())])
    }

    /// `<prefix>{index}`, as the prefixes of the variables make it.
    pub fn indexed(prefix: &str) -> Self {
        let index = Part::Value(Source::Of(Field::Index), Vec::new());
        Self(vec![Part::Text(prefix.to_owned()), index])
    }

    /// `{id}`.
    pub fn id() -> Self {
        Self(vec![Part::Value(Source::Of(Field::Id), Vec::new())])
    }

    /// Reads a text. A name that is no placeholder's is an attribute's.
    ///
    /// # Errors
    /// Worded as what was expected.
    pub fn parse(text: &str, constants: Constants) -> Result<Self, TemplateError> {
        let mut template = Self::default();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            template.push(Part::Text(rest[..at].to_owned()));
            let (brace, behind) = rest[at..].split_at(1);
            if behind.starts_with(brace) {
                template.push(Part::Text(brace.to_owned()));
                rest = &behind[1..];
            } else if let ("{", Some((inside, behind))) = (brace, behind.split_once('}')) {
                template.push(placeholder(inside, constants)?);
                rest = behind;
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

    /// Texts that meet are one.
    fn push(&mut self, part: Part) {
        match (self.0.last_mut(), part) {
            (_, Part::Text(text)) if text.is_empty() => {}
            (Some(Part::Text(last)), Part::Text(text)) => last.push_str(&text),
            (_, part) => self.0.push(part),
        }
    }

    /// Whether it says something else for each device.
    pub(crate) fn is_per_device(&self) -> bool {
        self.sources()
            .any(|source| !matches!(source, Source::Each(_)))
    }

    /// Whether it says something of all the container's devices.
    pub(crate) fn is_of_all(&self) -> bool {
        self.sources()
            .any(|source| matches!(source, Source::Each(_)))
    }

    /// Whether it depends on which other devices the container has.
    pub(crate) fn is_of_container(&self) -> bool {
        self.is_of_all() || self.sources().any(|source| *source == Source::Position)
    }

    /// The name of a placeholder for which the device has nothing.
    pub fn lacking(&self, device: &Device) -> Option<&str> {
        self.sources().find_map(|source| match source {
            Source::Of(field) | Source::Each(field) => field.lacking(device),
            Source::Position => None,
        })
    }

    /// With what it says of all the container's devices made, so that this is not made again for each of them.
    #[must_use]
    pub(crate) fn prepared(&self, devices: &[&Device]) -> Self {
        let prepared = |part: &Part| match part {
            Part::Value(source @ Source::Each(_), filters) => {
                Part::Text(filtered(source.of(devices, 0), filters))
            }
            part => part.clone(),
        };
        Self(self.0.iter().map(prepared).collect())
    }

    /// The text for the device at this place among all of the container's devices.
    pub fn of(&self, devices: &[&Device], position: usize) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Value(source, filters) => filtered(source.of(devices, position), filters),
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

fn placeholder(inside: &str, constants: Constants) -> Result<Part, TemplateError> {
    let mut words = inside.split('|').map(str::trim);
    let name = words.next().unwrap_or_default();
    let filters = words.map(filter).collect::<Result<Vec<_>, _>>()?;
    let source = match name {
        "node" => return Ok(Part::Text(filtered(constants.node.to_owned(), &filters))),
        "resource" => {
            return Ok(Part::Text(filtered(
                constants.resource.to_owned(),
                &filters,
            )));
        }
        "id" => Source::Of(Field::Id),
        "index" => Source::Of(Field::Index),
        "path" => Source::Of(Field::Path),
        "numa" => Source::Of(Field::Numa),
        "position" => Source::Position,
        "ids" => Source::Each(Field::Id),
        "indexes" => Source::Each(Field::Index),
        "paths" => Source::Each(Field::Path),
        "numas" => Source::Each(Field::Numa),
        attribute if is_attribute(attribute) => Source::Of(Field::Attribute(attribute.to_owned())),
        _ => return Err(TemplateError::NotAName(sanitize(inside))),
    };
    Ok(Part::Value(source, filters))
}

/// Whether a placeholder can have this name: letters, digits, `.`, `_`, `-` and `/`.
pub(crate) fn is_attribute(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
}

fn filter(name: &str) -> Result<Filter, TemplateError> {
    match name {
        "upper" => Ok(Filter::Upper),
        "alnum" => Ok(Filter::Alnum),
        "uuid" => Ok(Filter::Uuid),
        _ => Err(TemplateError::UnknownFilter(sanitize(name))),
    }
}

fn filtered(text: String, filters: &[Filter]) -> String {
    filters.iter().fold(text, |text, filter| match filter {
        Filter::Upper => text.to_uppercase(),
        Filter::Alnum => text
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect(),
        // Version 5: the same for the same text, on every node and in every version.
        Filter::Uuid => Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).to_string(),
    })
}

impl Source {
    fn of(&self, devices: &[&Device], position: usize) -> String {
        match self {
            Self::Of(field) => field.of(devices[position]).into_owned(),
            Self::Position => position.to_string(),
            Self::Each(field) => {
                let texts: Vec<_> = devices.iter().map(|device| field.of(device)).collect();
                texts.join(",")
            }
        }
    }
}

impl Field {
    fn of<'a>(&self, device: &'a Device) -> Cow<'a, str> {
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

    fn lacking(&self, device: &Device) -> Option<&str> {
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
    use crate::model::device::Counted;
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
    fn placeholders_and_filters() {
        let devices = devices();
        let given: Vec<&Device> = devices.as_slice()[1..].iter().collect();
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
            assert_eq!(parsed(text).unwrap().of(&given, 1), expected, "{text}");
        }
        // Part of the contract: it must be the same in every version.
        let uuid = parsed("{id|uuid}").unwrap().of(&given, 0);
        assert_eq!(uuid, "9edf6167-505e-5000-b586-b6717bfb49b7");
    }

    #[test]
    fn what_is_no_template() {
        use TemplateError::*;
        for (text, error) in [
            ("{id", Unbalanced),
            ("id}", Unbalanced),
            ("{", Unbalanced),
            ("{}", NotAName(String::new())),
            ("{a b}", NotAName("a b".to_owned())),
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
    fn knows_of_whom_it_speaks() {
        for (text, per_device, of_all) in [
            ("{node}", false, false),
            ("{id}", true, false),
            ("{position}", true, false),
            ("{ids}", false, true),
            ("{ids}{model}", true, true),
        ] {
            let template = parsed(text).unwrap();
            assert_eq!(
                (template.is_per_device(), template.is_of_all()),
                (per_device, of_all),
                "{text}"
            );
        }
        let counted = Counted::new("d", "n", NumaNodes::default()).devices(1);
        let device = &counted.as_slice()[0];
        assert_eq!(parsed("{id}{index}{numa}").unwrap().lacking(device), None);
        assert_eq!(
            parsed("{id}{model}").unwrap().lacking(device),
            Some("model")
        );
        assert_eq!(parsed("{paths}").unwrap().lacking(device), Some("path"));
    }
}
