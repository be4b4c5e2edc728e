//! Parses YAML into a tree in which each node has its line number.
//!
//! serde-saphyr 2.1 could deserialize YAML directly, but it stops at the first error, and its errors name a line but no key or
//! value (`invalid u16 at line 2, column 23`). Its own tree would turn `010` and `1.10` into 10 and 1.1.

use std::collections::{BTreeMap, BTreeSet};

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::config::error::ConfigErrors;
use crate::config::settings::Origin;

/// In bytes of memory. The content of an anchor counts again for each alias, so that a small file cannot expand without
/// limit. A file of 1 MiB without aliases takes less.
const SIZE_MAX: usize = 16 << 20;

#[derive(Clone, Debug)]
pub(crate) struct YamlNode {
    /// Counted from 1.
    pub line: usize,
    pub value: YamlValue,
}

#[derive(Clone, Debug)]
pub(crate) enum YamlValue {
    /// The text as written. Only `quoted` distinguishes `"5"` from `5`.
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<YamlNode>),
    Map(Vec<(YamlNode, YamlNode)>),
}

/// Parses the file, or returns `None` after a syntax error. Duplicate keys are reported too.
pub fn parse(text: &str, errors: &mut ConfigErrors) -> Option<YamlNode> {
    let mut builder = Builder {
        errors,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        size: 0,
        root: None,
    };
    for event in Parser::new_from_str(text) {
        let handled = match event {
            Ok((event, span)) => builder.handle(event, span),
            Err(error) => Err(FatalError(
                error.marker().line(),
                format!("valid YAML: {}", error.info()),
            )),
        };
        if let Err(FatalError(line, expected)) = handled {
            let line = Origin::Line(line);
            builder.errors.add_at(&line, "", None, expected);
            return None;
        }
    }
    let empty_file = || YamlNode {
        line: 1,
        value: YamlValue::Scalar {
            text: String::new(),
            quoted: false,
        },
    };
    Some(builder.root.unwrap_or_else(empty_file))
}

/// The line of an error that ends the parsing, and what was expected.
struct FatalError(usize, String);

struct Builder<'a> {
    errors: &'a mut ConfigErrors,
    open: Vec<OpenCollection>,
    anchors: BTreeMap<usize, YamlNode>,
    /// In bytes, of all nodes so far, to compare with [`SIZE_MAX`].
    size: usize,
    root: Option<YamlNode>,
}

/// A list or map whose end has not been parsed yet. The children of a map alternate between keys and values.
struct OpenCollection {
    line: usize,
    anchor: usize,
    is_map: bool,
    children: Vec<YamlNode>,
}

impl Builder<'_> {
    fn handle(&mut self, event: Event, span: Span) -> Result<(), FatalError> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.report_tag(tag.is_some(), line);
                let quoted = style != ScalarStyle::Plain;
                self.scalar(line, anchor, text.into_owned(), quoted)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(line, anchor, false, tag.is_some());
                Ok(())
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(line, anchor, true, tag.is_some());
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(line, anchor),
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(FatalError(line, "a single YAML document".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        line: usize,
        anchor: usize,
        text: String,
        quoted: bool,
    ) -> Result<(), FatalError> {
        if text.contains('\0') {
            self.report(line, "a string without NUL characters");
        }
        let value = YamlValue::Scalar { text, quoted };
        self.close(anchor, YamlNode { line, value }, 1)
    }

    fn report_tag(&mut self, is_tagged: bool, line: usize) {
        if is_tagged {
            self.report(
                line,
                "no tag; put quotes around a value to make it a string",
            );
        }
    }

    /// Reports an error after which parsing continues.
    fn report(&mut self, line: usize, expected: &str) {
        self.errors.add_at(&Origin::Line(line), "", None, expected);
    }

    /// Ends the innermost open list or map.
    fn end(&mut self) -> Result<(), FatalError> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = if open.is_map {
            self.map(open.children)
        } else {
            YamlValue::List(open.children)
        };
        let line = open.line;
        self.close(open.anchor, YamlNode { line, value }, 1)
    }

    fn alias(&mut self, line: usize, anchor: usize) -> Result<(), FatalError> {
        let node = self.anchors.get(&anchor).cloned();
        let node = node.ok_or_else(|| {
            FatalError(
                line,
                "an alias whose anchor is complete: a value cannot contain itself".to_owned(),
            )
        })?;
        let size = node.size();
        self.close(0, node, size)
    }

    fn open(&mut self, line: usize, anchor: usize, is_map: bool, tagged: bool) {
        self.report_tag(tagged, line);
        self.open.push(OpenCollection {
            line,
            anchor,
            is_map,
            children: Vec::new(),
        });
    }

    fn count(&mut self, line: usize, size: usize) -> Result<(), FatalError> {
        self.size += size;
        if self.size > SIZE_MAX {
            let expected = "fewer aliases: they expand the file to more than 16 MiB".to_owned();
            return Err(FatalError(line, expected));
        }
        Ok(())
    }

    /// Adds a complete node to the list or map that contains it.
    fn close(&mut self, anchor: usize, node: YamlNode, size: usize) -> Result<(), FatalError> {
        self.count(node.line, size)?;
        if anchor != 0 {
            self.count(node.line, node.size())?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            Some(open) => open.children.push(node),
            None => self.root = Some(node),
        }
        Ok(())
    }

    fn map(&mut self, children: Vec<YamlNode>) -> YamlValue {
        let mut entries = Vec::with_capacity(children.len() / 2);
        let mut seen = BTreeSet::new();
        let mut children = children.into_iter();
        while let (Some(key), Some(value)) = (children.next(), children.next()) {
            match &key.value {
                YamlValue::Scalar { text, .. } if !seen.insert(text.clone()) => {
                    let line = Origin::Line(key.line);
                    self.errors.add_at(&line, text, None, "each key only once");
                }
                YamlValue::Scalar { .. } => entries.push((key, value)),
                _ => {
                    let line = Origin::Line(key.line);
                    self.errors.add_at(&line, "", None, "a string as the key");
                }
            }
        }
        YamlValue::Map(entries)
    }
}

impl YamlNode {
    /// In bytes of memory.
    fn size(&self) -> usize {
        size_of::<Self>()
            + match &self.value {
                YamlValue::Scalar { text, .. } => text.len(),
                YamlValue::List(list) => list.iter().map(Self::size).sum(),
                YamlValue::Map(map) => map
                    .iter()
                    .map(|(key, value)| key.size() + value.size())
                    .sum(),
            }
    }

    /// Returns the text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            YamlValue::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Removes the node at this path, which consists of positions in lists and maps.
    pub fn remove(&mut self, path: &[usize]) {
        let Some((position, rest)) = path.split_first() else {
            return;
        };
        let child = match &mut self.value {
            YamlValue::List(list) if rest.is_empty() => return drop(list.remove(*position)),
            YamlValue::Map(map) if rest.is_empty() => return drop(map.remove(*position)),
            YamlValue::List(list) => list.get_mut(*position),
            YamlValue::Map(map) => map.get_mut(*position).map(|(_, value)| value),
            YamlValue::Scalar { .. } => None,
        };
        if let Some(child) = child {
            child.remove(rest);
        }
    }
}
