//! YAML as a tree whose every node knows its line.
//!
//! serde-saphyr 2.1 would read it into types, but stops at the first error, after which nothing is left to check further.
//! Its errors have a line and no key or value (`invalid u16 at line 2, column 23`), and read into a tree first, as here,
//! `010` and `1.10` become 10 and 1.1.

use std::collections::{BTreeMap, BTreeSet};

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::config::error::ConfigErrors;
use crate::config::settings::Origin;

/// In bytes. Anchors and aliases count again each time, so that a few lines cannot stand for more than
/// memory holds. A file of 1 MiB without aliases takes less.
const SIZE_MAX: usize = 16 << 20;

/// A value in the file.
#[derive(Clone, Debug)]
pub(crate) struct YamlNode {
    /// Counted from 1.
    pub line: usize,
    pub value: YamlValue,
}

#[derive(Clone, Debug)]
pub(crate) enum YamlValue {
    /// A scalar as it is written; quotes are what tells `"5"` from `5`.
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<YamlNode>),
    Map(Vec<(YamlNode, YamlNode)>),
}

/// The whole file; `None` where it cannot be read. Keys that are there twice are errors too.
pub fn parse(text: &str, errors: &mut ConfigErrors) -> Option<YamlNode> {
    let mut builder = Builder {
        errors,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        size: 0,
        root: None,
    };
    for event in Parser::new_from_str(text) {
        let taken = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(Wrong(
                error.marker().line(),
                format!("YAML: {}", error.info()),
            )),
        };
        if let Err(Wrong(line, expected)) = taken {
            let line = Origin::Line(line);
            builder.errors.add_at(&line, "", None, expected);
            return None;
        }
    }
    let nothing = || YamlNode {
        line: 1,
        value: YamlValue::Scalar {
            text: String::new(),
            quoted: false,
        },
    };
    Some(builder.root.unwrap_or_else(nothing))
}

/// What cannot be passed over: the line, and what was expected.
struct Wrong(usize, String);

struct Builder<'a> {
    errors: &'a mut ConfigErrors,
    open: Vec<OpenCollection>,
    anchors: BTreeMap<usize, YamlNode>,
    size: usize,
    root: Option<YamlNode>,
}

/// A list or map whose end has not come yet; a map's keys and values alternate.
struct OpenCollection {
    line: usize,
    anchor: usize,
    is_map: bool,
    children: Vec<YamlNode>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event, span: Span) -> Result<(), Wrong> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), line);
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
                Err(Wrong(line, "one document, not several".to_owned()))
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
    ) -> Result<(), Wrong> {
        if text.contains('\0') {
            self.refuse(line, "a text without NUL");
        }
        let value = YamlValue::Scalar { text, quoted };
        self.close(anchor, YamlNode { line, value }, 1)
    }

    fn refuse_tag(&mut self, is_tagged: bool, line: usize) {
        if is_tagged {
            self.refuse(line, "no tag: quotes make a text");
        }
    }

    /// Reports what does not keep the rest from being read.
    fn refuse(&mut self, line: usize, expected: &str) {
        self.errors.add_at(&Origin::Line(line), "", None, expected);
    }

    /// Ends the innermost open list or map.
    fn end(&mut self) -> Result<(), Wrong> {
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

    fn alias(&mut self, line: usize, anchor: usize) -> Result<(), Wrong> {
        let node = self.anchors.get(&anchor).cloned();
        let node = node.ok_or_else(|| {
            Wrong(
                line,
                "an alias of something that ended before it".to_owned(),
            )
        })?;
        let size = node.size();
        self.close(0, node, size)
    }

    fn open(&mut self, line: usize, anchor: usize, is_map: bool, tagged: bool) {
        self.refuse_tag(tagged, line);
        self.open.push(OpenCollection {
            line,
            anchor,
            is_map,
            children: Vec::new(),
        });
    }

    fn count(&mut self, line: usize, size: usize) -> Result<(), Wrong> {
        self.size += size;
        if self.size > SIZE_MAX {
            let expected = "less: anchors and aliases make more than 16 MiB of it".to_owned();
            return Err(Wrong(line, expected));
        }
        Ok(())
    }

    /// Puts a node that is whole into the one around it.
    fn close(&mut self, anchor: usize, node: YamlNode, size: usize) -> Result<(), Wrong> {
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
        let mut known = BTreeSet::new();
        let mut children = children.into_iter();
        while let (Some(key), Some(value)) = (children.next(), children.next()) {
            match &key.value {
                YamlValue::Scalar { text, .. } if !known.insert(text.clone()) => {
                    let line = Origin::Line(key.line);
                    self.errors.add_at(&line, text, None, "each key once");
                }
                YamlValue::Scalar { .. } => entries.push((key, value)),
                _ => {
                    let line = Origin::Line(key.line);
                    self.errors.add_at(&line, "", None, "a text as key");
                }
            }
        }
        YamlValue::Map(entries)
    }
}

impl YamlNode {
    /// The bytes that it takes in memory.
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

    /// The text of a scalar, for an error to show.
    pub fn shown(&self) -> Option<&str> {
        match &self.value {
            YamlValue::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Takes out what stands at this path: the places of elements and entries from here on.
    pub fn remove(&mut self, path: &[usize]) {
        let Some((place, rest)) = path.split_first() else {
            return;
        };
        let child = match &mut self.value {
            YamlValue::List(list) if rest.is_empty() => return drop(list.remove(*place)),
            YamlValue::Map(map) if rest.is_empty() => return drop(map.remove(*place)),
            YamlValue::List(list) => list.get_mut(*place),
            YamlValue::Map(map) => map.get_mut(*place).map(|(_, value)| value),
            YamlValue::Scalar { .. } => None,
        };
        if let Some(child) = child {
            child.remove(rest);
        }
    }
}
