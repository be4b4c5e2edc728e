//! The tree as serde sees it, so that what the file can say is written as types.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{YamlNode, YamlValue};
use crate::config::error::ConfigErrors;
use crate::config::settings::Origin;

/// A file with more errors than this has another problem.
const ERRORS_MAX: usize = 50;

/// Reads the tree into types; `None` where nothing is left of it. serde stops at the first error: so
/// that all of them are reported, what is wrong is taken out and the rest is read again. An error about something that
/// lost a value that way is not reported: it may come of that.
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
        let (_, around) = path.split_last()?;
        // Errors come in the order of the file: what follows moves up, and is complete.
        incomplete.retain(|known| !known.starts_with(&path));
        if !is_key {
            incomplete.push(around.to_vec());
        }
        tree.remove(&path);
    }
    None
}

/// What is wrong, and where.
#[derive(Debug)]
pub struct Error {
    line: usize,
    /// The key that it stands under.
    key: Option<String>,
    value: Option<String>,
    expected: String,
    /// Whether the key itself is wrong, and not its value.
    is_key: bool,
    /// The places that lead to it, the innermost first.
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

    fn invalid_type(_: Unexpected, expected: &dyn Expected) -> Self {
        Self::custom(in_our_words(&expected.to_string()))
    }

    fn invalid_value(_: Unexpected, expected: &dyn Expected) -> Self {
        Self::custom(in_our_words(&expected.to_string()))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("one of the keys {}", expected.join(", ")))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        let (last, others) = expected.split_last().unwrap_or((&"", &[]));
        Self::custom(format_args!("{} or {last}", others.join(", ")))
    }

    fn missing_field(key: &'static str) -> Self {
        Self::custom(format_args!("the key {key}"))
    }
}

/// What serde says of its own types is for those who write Rust.
fn in_our_words(expected: &str) -> &str {
    match expected {
        "a string" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "u16" => "a NUMA node from 0 to 1023",
        "u64" => "a whole number",
        "a nonzero u64" => "a whole number from 1",
        other => other,
    }
}

impl Error {
    fn report(self, errors: &mut ConfigErrors) {
        let origin = Origin::Line(self.line);
        let key = self.key.as_deref().unwrap_or_default();
        // A value without a key is the whole file.
        let value = self.value.as_deref().filter(|_| !key.is_empty());
        errors.add_at(&origin, key, value, self.expected);
    }

    /// The place where it went wrong, unless that is known already.
    fn of(mut self, node: &YamlNode) -> Self {
        if self.line == 0 {
            self.line = node.line;
            self.value = node.shown().map(str::to_owned);
        }
        self
    }

    /// A key stands for itself.
    fn of_key(mut self) -> Self {
        (self.value, self.is_key) = (None, true);
        self
    }

    fn within(mut self, place: usize, key: Option<&YamlNode>) -> Self {
        self.path.push(place);
        self.key = self
            .key
            .or_else(|| key.and_then(YamlNode::shown).map(str::to_owned));
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
        visited.map_err(|error: Error| error.of(self))
    }

    /// As it is written, whatever it looks like: `010` is no number here.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            YamlValue::Scalar { text, quoted } if *quoted || !is_null(text) => visitor
                .visit_str(text)
                .map_err(|error: Error| error.of(self)),
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

    /// A struct's keys are always named: serde alone would take a list too.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if matches!(self.value, YamlValue::Map(_)) {
            return self.deserialize_any(visitor);
        }
        Err(<Error as de::Error>::invalid_type(Unexpected::Seq, &visitor).of(self))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// The file has no tuples: only [`At`](crate::config::settings::At) asks for one, of line and value.
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
        let Some(text) = self.shown() else {
            return Err(<Error as de::Error>::unknown_variant("", variants).of(self));
        };
        let word: StrDeserializer<Error> = text.into_deserializer();
        visitor
            .visit_enum(word)
            .map_err(|error: Error| error.of(self))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq
        tuple_struct map ignored_any
    }
}

/// A scalar without quotes, by YAML's core schema.
fn plain<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value, Error> {
    match text {
        _ if is_null(text) => visitor.visit_unit(),
        "true" | "True" | "TRUE" => visitor.visit_bool(true),
        "false" | "False" | "FALSE" => visitor.visit_bool(false),
        // Nothing asks for more than 64 bits, so that it does not matter which larger number it is.
        _ if text.bytes().all(|c| c.is_ascii_digit()) => match text.parse() {
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
        let read = next.map(|(place, node)| {
            seed.deserialize(node)
                .map_err(|error| error.of(node).within(place, None))
        });
        read.transpose()
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
        let Some((place, (key, value))) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((place, key, value));
        let read = seed
            .deserialize(key)
            .map_err(|error| error.of_key().within(place, Some(key)));
        read.map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let (place, key, value) = self
            .value
            .take()
            .ok_or_else(|| de::Error::custom("a value"))?;
        seed.deserialize(value)
            .map_err(|error| error.of(value).within(place, Some(key)))
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
