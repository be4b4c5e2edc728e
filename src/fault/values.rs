//! Parsers for the values of a fault. On failure they return a text that follows the word "expected".

use std::fmt;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

use crate::api::grpc_code::CODES;
use crate::model::selection;

use super::delays::DELAY_MAX;

/// A shorter delay is lost in the duration of the call itself.
const DELAY_MIN: Duration = Duration::from_millis(10);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// In bytes. The message appears in pod events.
const MESSAGE_MAX: usize = 256;

/// Parses the delay of a call.
pub(crate) fn delay(text: &str) -> Result<Duration, String> {
    duration(text, DELAY_MIN..=DELAY_MAX, "10ms to 60s")
}

/// Parses how long a registration is suspended.
pub(crate) fn suspension(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(1)..=DAY, "1ms to 24h")
}

/// Parses how long devices stay Healthy or Unhealthy.
pub(crate) fn phase(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_secs(1)..=DAY, "1s to 24h")
}

/// `range_text` names the range in the units of the documentation: `humantime` writes 60s as `1m`, and 24h as `1day`.
fn duration(
    text: &str,
    range: RangeInclusive<Duration>,
    range_text: &str,
) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).ok();
    parsed
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| format!("a duration from {range_text}, for example 10s"))
}

/// Formats a duration without spaces, so that it is one argument on the command line. It can be parsed again.
pub(super) fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace(' ', "")
}

/// Parses the message of an error.
pub(crate) fn message(text: &str) -> Result<String, String> {
    printable_text(text, MESSAGE_MAX)
}

/// Parses a device selection. Whether the devices exist is checked later: see [`selection`].
pub(crate) fn devices(text: &str) -> Result<String, String> {
    printable_text(text, selection::TEXT_MAX)
}

fn printable_text(text: &str, max: usize) -> Result<String, String> {
    let fits = (1..=max).contains(&text.len()) && !text.chars().any(char::is_control);
    let expected = || format!("text of 1 to {max} bytes without control characters");
    fits.then(|| text.to_owned()).ok_or_else(expected)
}

/// The probability of an injection, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Probability(f64);

/// Total equality holds, because the value is never NaN.
impl Eq for Probability {}

impl Probability {
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = text.parse().ok();
        let number = number.filter(|number| (0.0..=1.0).contains(number));
        // Adding 0.0 turns -0.0 into 0.0.
        number
            .map(|number: f64| Self(number + 0.0))
            .ok_or_else(|| "a number from 0 to 1, for example 0.5".to_owned())
    }

    pub(super) fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The maximum number of injections of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Times {
    Unlimited,
    #[serde(untagged)]
    AtMost(NonZeroU64),
}

impl Times {
    pub(super) const ONCE: Self = Self::AtMost(NonZeroU64::MIN);

    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let count = text.parse().map(Self::AtMost);
        count.map_err(|_| "a whole number, 1 or more, or unlimited".to_owned())
    }

    /// Whether a fault that was injected `count` times is exhausted.
    pub(super) fn is_reached_by(self, count: u64) -> bool {
        match self {
            Self::Unlimited => false,
            Self::AtMost(most) => count >= most.get(),
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::AtMost(count) => count.fmt(f),
        }
    }
}

/// A gRPC status code other than OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(u8);

impl ErrorCode {
    /// Parses a code in either spelling: `FAILED_PRECONDITION` or `FailedPrecondition`. Case does not matter.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bare = text.replace('_', "");
        // The gRPC specification writes CANCELLED, and grpc-go also Canceled.
        let bare = if bare.eq_ignore_ascii_case("cancelled") {
            "Canceled"
        } else {
            &*bare
        };
        let mut numbered = (0..).zip(CODES).skip(1);
        let found = numbered.find(|(_, name)| name.eq_ignore_ascii_case(bare));
        found.map(|(number, _)| Self(number)).ok_or_else(|| {
            let codes = (0..).zip(CODES).skip(1);
            let codes: Vec<String> = codes.map(|(number, _)| Self(number).to_string()).collect();
            format!("one of the gRPC status codes {}", codes.join(", "))
        })
    }

    pub(crate) fn number(self) -> i32 {
        self.0.into()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = CODES[usize::from(self.0)];
        for (position, letter) in name.char_indices() {
            if position > 0 && letter.is_uppercase() {
                f.write_str("_")?;
            }
            write!(f, "{}", letter.to_ascii_uppercase())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_duration_outside_its_range() {
        type Parser = fn(&str) -> Result<Duration, String>;
        let parsers: [(Parser, &[&str], &[&str], &str); 3] = [
            (
                delay,
                &["10ms", "1500ms", "60s", "1m"],
                &["9ms", "60001ms"],
                "a duration from 10ms to 60s, for example 10s",
            ),
            (
                suspension,
                &["1ms", "24h"],
                &["999us", "24h1ms"],
                "a duration from 1ms to 24h, for example 10s",
            ),
            (
                phase,
                &["1s", "24h"],
                &["999ms", "25h"],
                "a duration from 1s to 24h, for example 10s",
            ),
        ];
        for (parse, right, wrong, expected) in parsers {
            for text in right {
                let duration = parse(text).unwrap();
                assert_eq!(parse(&format_duration(duration)), Ok(duration), "{text}");
            }
            for text in wrong.iter().chain(&["", "10", "-1s", "ten"]) {
                assert_eq!(parse(text).unwrap_err(), expected, "{text}");
            }
        }
    }

    #[test]
    fn a_duration_is_formatted_without_spaces() {
        for (text, expected) in [("60s", "1m"), ("1500ms", "1s500ms"), ("100ms", "100ms")] {
            assert_eq!(delay(text).map(format_duration).unwrap(), expected);
        }
    }

    #[test]
    fn refuses_text_of_the_wrong_length_or_with_control_characters() {
        let longest = "x".repeat(256);
        for text in ["no luck", "é", &longest] {
            assert_eq!(message(text).unwrap(), text);
        }
        let longer = "x".repeat(257);
        for text in ["", "a\u{1b}[2J", "a\nb", &longer] {
            let expected = "text of 1 to 256 bytes without control characters";
            assert_eq!(message(text).unwrap_err(), expected, "{text:?}");
        }
        assert_eq!(devices(&longer).unwrap(), longer);
        assert!(devices(&"x".repeat(4097)).is_err());
    }

    #[test]
    fn status_codes_are_parsed_in_both_spellings() {
        for (text, number, name) in [
            ("UNAVAILABLE", 14, "UNAVAILABLE"),
            ("Unavailable", 14, "UNAVAILABLE"),
            ("failed_precondition", 9, "FAILED_PRECONDITION"),
            ("CANCELLED", 1, "CANCELED"),
        ] {
            let code = ErrorCode::parse(text).unwrap();
            assert_eq!((code.number(), &*code.to_string()), (number, name));
        }
        for wrong in ["", "OK", "14", "BROKEN"] {
            let expected = ErrorCode::parse(wrong).unwrap_err();
            let start = "one of the gRPC status codes CANCELED, UNKNOWN, INVALID_ARGUMENT, ";
            assert!(expected.starts_with(start), "{expected}");
            assert!(expected.ends_with(", UNAUTHENTICATED"), "{expected}");
        }
    }

    #[test]
    fn parses_probabilities_from_0_to_1() {
        for (text, number) in [
            ("0", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("1.0", "1"),
            ("0.25", "0.25"),
        ] {
            assert_eq!(Probability::parse(text).unwrap().to_string(), number);
        }
        for wrong in ["", "1.1", "-0.1", "NaN", "inf", "half"] {
            assert!(Probability::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parses_times_of_1_or_more_and_unlimited() {
        for text in ["1", "3", "18446744073709551615", "unlimited"] {
            assert_eq!(Times::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "0", "-1", "1.5", "Unlimited"] {
            assert!(Times::parse(wrong).is_err(), "{wrong}");
        }
    }
}
