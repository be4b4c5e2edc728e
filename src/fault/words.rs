//! The values of a fault: its target, its times, its chances.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use enum_map::Enum;
use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::api::grpc_code::CODES;

/// What a fault is injected into.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enum, Serialize, Deserialize, ValueEnum,
)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Calls of Allocate: each is a pod that is admitted
    Allocate,
    /// Calls of GetPreferredAllocation
    Preferred,
    /// Calls of PreStartContainer
    PreStart,
    /// Calls of GetDevicePluginOptions: each is a registration
    Options,
    /// The stream of ListAndWatch: it is dropped
    Stream,
    /// The registration: it is suspended
    Registration,
    /// The health of devices: they flap
    Health,
}

impl Target {
    /// As it is written, and as a metric's label has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allocate => "allocate",
            Self::Preferred => "preferred",
            Self::PreStart => "pre-start",
            Self::Options => "options",
            Self::Stream => "stream",
            Self::Registration => "registration",
            Self::Health => "health",
        }
    }
}

/// A time within bounds, in milliseconds; written as in `10s` or `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<const MIN: u64, const MAX: u64>(Duration);

impl<const MIN: u64, const MAX: u64> Span<MIN, MAX> {
    /// As the runtime has it.
    pub fn get(self) -> Duration {
        self.0
    }

    fn expected() -> String {
        let word = |ms| humantime::format_duration(Duration::from_millis(ms));
        format!("a time from {} to {}, as in 10s", word(MIN), word(MAX))
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Span<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = humantime::parse_duration(text).ok();
        let bounds = Duration::from_millis(MIN)..=Duration::from_millis(MAX);
        let within = parsed.filter(|time| bounds.contains(time));
        within
            .map(Self)
            .ok_or_else(|| format!("expected {}", Self::expected()))
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Span<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let words = humantime::format_duration(self.0).to_string();
        // One word, so that it can be given again.
        f.write_str(&words.replace(' ', ""))
    }
}

/// How likely it is, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probability(f64);

/// It is never NaN.
impl Eq for Probability {}

impl Probability {
    const EXPECTED: &str = "a number from 0 to 1, as in 0.5";

    /// As a number.
    pub fn get(self) -> f64 {
        self.0
    }

    fn within(number: f64) -> Option<Self> {
        // Without the sign of a negative zero.
        (0.0..=1.0).contains(&number).then_some(Self(number + 0.0))
    }
}

impl FromStr for Probability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.parse().ok().and_then(Self::within);
        parsed.ok_or_else(|| format!("expected {}", Self::EXPECTED))
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How often a fault is injected at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times(Option<NonZeroU64>);

impl Times {
    /// The default of all faults but those of health.
    pub(crate) const ONCE: Self = Self(Some(NonZeroU64::MIN));
    /// Until it is cleared.
    pub(crate) const UNLIMITED: Self = Self(None);

    const EXPECTED: &str = "a whole number from 1, or unlimited";

    /// As a number.
    pub fn most(self) -> u64 {
        self.0.map_or(u64::MAX, u64::from)
    }
}

impl FromStr for Times {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let count = text.parse().map(|count| Self(Some(count)));
        count.map_err(|_| format!("expected {}", Self::EXPECTED))
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some(count) => write!(f, "{count}"),
            None => f.write_str("unlimited"),
        }
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(count) => serializer.serialize_u64(count.get()),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrWord;
        impl Visitor<'_> for NumberOrWord {
            type Value = Times;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(Times::EXPECTED)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Times, E> {
                // The config file's reader has this for whatever is larger still.
                if number == u64::MAX {
                    return Err(de::Error::invalid_value(
                        Unexpected::Unsigned(number),
                        &self,
                    ));
                }
                self.visit_str(&number.to_string())
            }

            /// YAML's plain numbers are texts until somebody wants a number.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Times, E> {
                let wrong = |_| de::Error::invalid_value(Unexpected::Str(text), &self);
                text.parse().map_err(wrong)
            }
        }
        deserializer.deserialize_any(NumberOrWord)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Times {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Times".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{"type": "integer", "minimum": 1}, {"const": "unlimited"}],
        })
    }
}

/// One of gRPC's codes but OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(u8);

impl ErrorCode {
    const EXPECTED: &str = "a code of gRPC but OK, as in UNAVAILABLE";

    /// Its number.
    pub fn number(self) -> i32 {
        self.0.into()
    }
}

/// However it is written: `FAILED_PRECONDITION` and `FailedPrecondition` are one.
impl FromStr for ErrorCode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.replace('_', "");
        // gRPC has two spellings itself.
        let bare = if bare.eq_ignore_ascii_case("cancelled") {
            "Canceled"
        } else {
            &*bare
        };
        let mut numbered = (0_u8..).zip(CODES).skip(1);
        let found = numbered.find(|(_, name)| name.eq_ignore_ascii_case(bare));
        found
            .map(|(number, _)| Self(number))
            .ok_or_else(|| format!("expected {}", Self::EXPECTED))
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = CODES[usize::from(self.0)];
        for (place, letter) in name.char_indices() {
            if place > 0 && letter.is_uppercase() {
                f.write_str("_")?;
            }
            write!(f, "{}", letter.to_ascii_uppercase())?;
        }
        Ok(())
    }
}

/// Written as it is told, read as it is parsed.
macro_rules! as_text {
    ([$($generics:tt)*] $type:ty, $expected:expr) => {
        impl<$($generics)*> Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de, $($generics)*> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let wrong = |_| de::Error::invalid_value(Unexpected::Str(&text), &&*$expected);
                text.parse().map_err(wrong)
            }
        }
    };
}

as_text!([const MIN: u64, const MAX: u64] Span<MIN, MAX>, Self::expected());
as_text!([] ErrorCode, Self::EXPECTED);

impl Serialize for Probability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for Probability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Probability;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(Probability::EXPECTED)
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Probability, E> {
                let wrong = || de::Error::invalid_value(Unexpected::Float(number), &self);
                Probability::within(number).ok_or_else(wrong)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Probability, E> {
                self.visit_str(&number.to_string())
            }

            /// YAML's plain numbers are texts until somebody wants a number.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Probability, E> {
                let wrong = |_| de::Error::invalid_value(Unexpected::Str(text), &self);
                text.parse().map_err(wrong)
            }
        }
        deserializer.deserialize_any(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_bounds_and_are_one_word() {
        type Bounded = Span<100, 60_000>;
        let written = |text: &str| text.parse::<Bounded>().map(|span| span.to_string());
        assert_eq!(
            written("90s").unwrap_err(),
            "expected a time from 100ms to 1m, as in 10s"
        );
        for (text, expected) in [("60s", "1m"), ("1500ms", "1s500ms"), ("100ms", "100ms")] {
            assert_eq!(written(text).unwrap(), expected);
            assert_eq!(written(expected).unwrap(), expected);
        }
        for wrong in ["", "10", "99ms", "60001ms", "-1s", "ten"] {
            assert!(written(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn codes_are_read_in_both_spellings() {
        let written = |text: &str| {
            text.parse::<ErrorCode>()
                .map(|code| (code.number(), code.to_string()))
        };
        for (text, number, name) in [
            ("UNAVAILABLE", 14, "UNAVAILABLE"),
            ("Unavailable", 14, "UNAVAILABLE"),
            ("failed_precondition", 9, "FAILED_PRECONDITION"),
            ("CANCELLED", 1, "CANCELED"),
        ] {
            assert_eq!(written(text).unwrap(), (number, name.to_owned()));
        }
        for wrong in ["", "OK", "14", "SICK"] {
            assert_eq!(
                written(wrong).unwrap_err(),
                "expected a code of gRPC but OK, as in UNAVAILABLE"
            );
        }
    }

    #[test]
    fn a_probability_is_from_0_to_1() {
        for (text, number) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25)] {
            assert_eq!(
                text.parse::<Probability>().map(Probability::get),
                Ok(number)
            );
        }
        for wrong in ["", "1.1", "-0.1", "NaN", "half"] {
            assert!(wrong.parse::<Probability>().is_err(), "{wrong}");
        }
    }
}
