//! A serde deserializer for the YAML tree, so that types define the format of the file.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{YamlNode, YamlValue};
use crate::config::error::ConfigErrors;
use crate::config::misspelled::nearest;
use crate::config::settings::Origin;

/// Bounds the time: each error means another pass over the tree.
const ERRORS_MAX: usize = 50;

/// Deserializes the tree, or returns `None` if the errors leave nothing.
///
/// serde stops at the first error. To report all errors, this removes the invalid node and deserializes the rest again. A
/// later error about a node that lost a value this way is not reported, because the removal may have caused it.
pub fn read<T: DeserializeOwned>(mut tree: YamlNode, errors: &mut ConfigErrors) -> Option<T> {
    let mut incomplete: Vec<Vec<usize>> = Vec::new();
    for _ in 0..ERRORS_MAX {
        let error = match T::deserialize(&tree) {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        let path: Vec<usize> = error.path.iter().rev().copied().collect();
        let is_key = error.is_key;
        if !incomplete.contains(&path) {
            error.report(errors);
        }
        let (_, parent) = path.split_last()?;
        // Errors come in the order of the file. The nodes that move to this path are still complete.
        incomplete.retain(|known| !known.starts_with(&path));
        if !is_key {
            incomplete.push(parent.to_vec());
        }
        tree.remove(&path);
    }
    None
}

#[derive(Debug)]
pub struct Error {
    /// 0 until [`Error::at`] sets it.
    line: usize,
    /// The nearest key above the invalid node, or the invalid key itself.
    key: Option<String>,
    value: Option<String>,
    expected: String,
    /// Whether the key itself is invalid, and not its value.
    is_key: bool,
    /// The positions that lead to the invalid node, the innermost first.
    path: Vec<usize>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.expected)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(expected: T) -> Self {
        Self {
            line: 0,
            key: None,
            value: None,
            expected: expected.to_string(),
            is_key: false,
            path: Vec::new(),
        }
    }

    fn invalid_type(unexpected: Unexpected, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let expected = reworded(&expected);
        // Without quotes, these would not be strings.
        let is_quoted = match unexpected {
            Unexpected::Str("true" | "false") => expected == "true or false",
            Unexpected::Str(text) if !text.is_empty() && is_digits(text) => {
                expected.contains("number") || expected.contains("NUMA node")
            }
            _ => false,
        };
        let quotes = if is_quoted { ", without quotes" } else { "" };
        Self::custom(format_args!("{expected}{quotes}"))
    }

    fn invalid_value(_: Unexpected, expected: &dyn Expected) -> Self {
        Self::custom(reworded(&expected.to_string()))
    }

    fn unknown_field(key: &str, expected: &'static [&'static str]) -> Self {
        let keys = expected.join(", ");
        match nearest(key, expected) {
            Some(near) => Self::custom(format_args!(
                "a known key, did you mean {near}? The keys are {keys}"
            )),
            None => Self::custom(format_args!("one of the keys {keys}")),
        }
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        let (last, others) = expected.split_last().unwrap_or((&"", &[]));
        Self::custom(format_args!("{} or {last}", others.join(", ")))
    }

    fn missing_field(key: &'static str) -> Self {
        Self::custom(format_args!("the key {key}"))
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit())
}

/// Replaces serde's names of Rust types.
fn reworded(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "u16" => "a NUMA node from 0 to 1023",
        "u64" => "a whole number, 0 or more",
        "a nonzero u64" => "a whole number, 1 or more",
        other => other,
    }
}

impl Error {
    fn report(self, errors: &mut ConfigErrors) {
        let origin = Origin::Line(self.line);
        let key = self.key.as_deref().unwrap_or_default();
        // Without a key, the value is the whole file.
        let value = self.value.as_deref().filter(|_| !key.is_empty());
        errors.add_at(&origin, key, value, self.expected);
    }

    /// Sets the line and the value, unless an inner node has set them.
    fn at(mut self, node: &YamlNode) -> Self {
        if self.line == 0 {
            self.line = node.line;
            self.value = node.text().map(str::to_owned);
        }
        self
    }

    /// Marks an error about a key, which is reported without a value.
    fn at_key(mut self) -> Self {
        (self.value, self.is_key) = (None, true);
        self
    }

    fn within(mut self, position: usize, key: Option<&YamlNode>) -> Self {
        self.path.push(position);
        self.key = self
            .key
            .or_else(|| key.and_then(YamlNode::text).map(str::to_owned));
        self
    }
}

impl<'de> Deserializer<'de> for &'de YamlNode {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let visited = match &self.value {
            YamlValue::Scalar { text, quoted: true } => visitor.visit_str(text),
            YamlValue::Scalar { text, .. } => plain(text, visitor),
            YamlValue::List(list) => visitor.visit_seq(Elements(list.iter().enumerate())),
            YamlValue::Map(map) => visitor.visit_map(Entries {
                entries: map.iter().enumerate(),
                value: None,
            }),
        };
        visited.map_err(|error: Error| error.at(self))
    }

    /// Returns any scalar but null as written, so that `010` stays a text.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            YamlValue::Scalar { text, quoted } if *quoted || !is_null(text) => visitor
                .visit_str(text)
                .map_err(|error: Error| error.at(self)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            YamlValue::Scalar {
                text,
                quoted: false,
            } if is_null(text) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// Accepts only a map. serde's derived visitors would accept a list of values too.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if matches!(self.value, YamlValue::Map(_)) {
            return self.deserialize_any(visitor);
        }
        Err(<Error as de::Error>::invalid_type(Unexpected::Seq, &visitor).at(self))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// Only [`At`](crate::config::settings::At) asks for a tuple, of line and value. The file itself has no tuples.
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(LineThenValue {
            node: self,
            is_line_read: false,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Some(text) = self.text() else {
            return Err(<Error as de::Error>::unknown_variant("", variants).at(self));
        };
        let word: StrDeserializer<Error> = text.into_deserializer();
        visitor
            .visit_enum(word)
            .map_err(|error: Error| error.at(self))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq
        tuple_struct map ignored_any
    }
}

/// Deserializes a scalar without quotes as YAML's core schema does, with one exception: all numbers but those that
/// consist of digits are strings.
fn plain<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value, Error> {
    match text {
        _ if is_null(text) => visitor.visit_unit(),
        "true" | "True" | "TRUE" => visitor.visit_bool(true),
        "false" | "False" | "FALSE" => visitor.visit_bool(false),
        // No setting accepts more than 64 bits, so the exact value of a larger number does not matter.
        _ if is_digits(text) => match text.parse() {
            Ok(number) => visitor.visit_u64(number),
            Err(_) => visitor.visit_u128(u128::MAX),
        },
        _ => visitor.visit_str(text),
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

struct Elements<'de>(std::iter::Enumerate<std::slice::Iter<'de, YamlNode>>);

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let next = self.0.next();
        let element = next.map(|(position, node)| {
            seed.deserialize(node)
                .map_err(|error| error.at(node).within(position, None))
        });
        element.transpose()
    }
}

struct Entries<'de> {
    entries: std::iter::Enumerate<std::slice::Iter<'de, (YamlNode, YamlNode)>>,
    value: Option<(usize, &'de YamlNode, &'de YamlNode)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((position, (key, value))) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((position, key, value));
        let read = seed
            .deserialize(key)
            .map_err(|error| error.at_key().within(position, Some(key)));
        read.map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let (position, key, value) = self
            .value
            .take()
            .ok_or_else(|| de::Error::custom("a value"))?;
        seed.deserialize(value)
            .map_err(|error| error.at(value).within(position, Some(key)))
    }
}

struct LineThenValue<'de> {
    node: &'de YamlNode,
    is_line_read: bool,
}

impl<'de> SeqAccess<'de> for LineThenValue<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let value = if std::mem::replace(&mut self.is_line_read, true) {
            seed.deserialize(self.node)
        } else {
            seed.deserialize(self.node.line.into_deserializer())
        };
        value.map(Some)
    }
}
