//! A fault as it is asked for, on the command line, over the control socket and in the config file alike.

use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::device::Devices;
use crate::model::selection::{SelectionError, TEXT_MAX, select};

use super::{
    DELAY_MAX_MS, Effect, ErrorCode, Fault, Flap, Probability, Refusal, Span, Target, Times,
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// In bytes: a message stands in a pod's events.
const MESSAGE_MAX: usize = 256;

/// Beside the work of a call itself, less would tell nothing.
const DELAY_MIN_MS: u64 = 10;

/// A fault as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a fault with the key rpc and more"
)]
pub struct FaultSpec {
    /// What the fault is injected into
    #[arg(value_name = "WHAT")]
    pub rpc: Target,
    /// health: IDs, indexes or ranges of indexes, comma-separated, as in 0,2-3; or all
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<String>,
    /// A call is answered so much later. At most 60s, and 120s for all calls of the program within 5 minutes:
    /// the kubelet admits one pod after the other, and calls itself unhealthy when that takes 5 minutes. It waits for
    /// PreStartContainer 30s, and a registration fails when its options take 15s
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub delay: Option<Span<DELAY_MIN_MS, DELAY_MAX_MS>>,
    /// A call is refused with this code of gRPC, as in UNAVAILABLE
    #[arg(long, value_name = "CODE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub error: Option<ErrorCode>,
    /// The message of the error
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// registration: how long it is suspended [default: until the fault is cleared]
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub r#for: Option<Span<1, DAY_MS>>,
    /// health: how long the devices are Healthy first
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub up: Option<Span<1000, DAY_MS>>,
    /// health: how long they are Unhealthy then
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub down: Option<Span<1000, DAY_MS>>,
    /// Probability of each injection, from 0 to 1 [default: 1]
    #[arg(long, value_name = "P")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<f64>", range(min = 0, max = 1)))]
    pub probability: Option<Probability>,
    /// Skip this many before the first injection
    #[arg(long, value_name = "COUNT")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Stop after this many injections, or unlimited [default: 1; health: unlimited]
    #[arg(long, value_name = "COUNT")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
    /// Seed of the probability: the same seed selects the same calls [default: random, and shown]
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// What does not go together; each tells what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    /// It cannot be without.
    #[error("{needs} for {}", target.as_str())]
    Needs {
        /// The target.
        target: Target,
        /// The missing.
        needs: &'static str,
    },
    /// It has no use for it.
    #[error("no {takes_no} for {}", target.as_str())]
    TakesNo {
        /// The target.
        target: Target,
        /// The surplus.
        takes_no: &'static str,
    },
    /// They are not there.
    #[error("devices that there are: {0}")]
    Devices(#[from] SelectionError),
    /// A text of another kind.
    #[error("{what} of 1 to {most} bytes without control characters")]
    Text {
        /// What is one.
        what: &'static str,
        /// In bytes.
        most: usize,
    },
}

impl FaultSpec {
    /// The fault that it asks for; its devices are evaluated where those of the resource are known.
    ///
    /// # Errors
    /// When its parts do not go together, or there are no such devices.
    pub fn fault(self, devices: Option<&Devices>) -> Result<Fault, SpecError> {
        let effect = match self.rpc {
            Target::Allocate | Target::Preferred | Target::PreStart | Target::Options => {
                self.of_a_call()?
            }
            Target::Stream => {
                self.takes_only(&[])?;
                Effect::DropStream
            }
            Target::Registration => {
                self.takes_only(&["for"])?;
                Effect::SuspendRegistration(self.r#for.map(Span::get))
            }
            Target::Health => Effect::Flap(self.flap(devices)?),
        };
        Ok(Fault { spec: self, effect })
    }

    fn of_a_call(&self) -> Result<Effect, SpecError> {
        self.takes_only(&["delay", "error", "message"])?;
        match (self.delay, self.error) {
            (Some(delay), None) => {
                self.takes_only(&["delay"])?;
                Ok(Effect::Delay(delay.get()))
            }
            (None, Some(code)) => Ok(Effect::Refuse(Refusal {
                code,
                message: self.message()?,
            })),
            _ => Err(self.needs("either a delay or an error")),
        }
    }

    fn message(&self) -> Result<String, SpecError> {
        let default = || "a fault on demand".to_owned();
        let message = self.message.clone().unwrap_or_else(default);
        plain(&message, "a message", MESSAGE_MAX)?;
        Ok(message)
    }

    fn flap(&self, there_are: Option<&Devices>) -> Result<Flap, SpecError> {
        self.takes_only(&["devices", "up", "down"])?;
        let (Some(devices), Some(up), Some(down)) = (&self.devices, self.up, self.down) else {
            return Err(self.needs("devices, up and down"));
        };
        plain(devices, "devices", TEXT_MAX)?;
        if let Some(there_are) = there_are {
            select(there_are, devices)?;
        }
        Ok(Flap {
            devices: devices.clone(),
            up: up.get(),
            down: down.get(),
        })
    }

    fn needs(&self, needs: &'static str) -> SpecError {
        let target = self.rpc;
        SpecError::Needs { target, needs }
    }

    /// What goes with some faults only.
    fn effects(&self) -> [(&'static str, Option<String>); 7] {
        [
            ("devices", self.devices.as_deref().map(quoted)),
            ("delay", text(self.delay.as_ref())),
            ("error", text(self.error.as_ref())),
            ("message", self.message.as_deref().map(quoted)),
            ("for", text(self.r#for.as_ref())),
            ("up", text(self.up.as_ref())),
            ("down", text(self.down.as_ref())),
        ]
    }

    /// What goes with all.
    fn chances(&self) -> [(&'static str, Option<String>); 4] {
        [
            ("probability", text(self.probability.as_ref())),
            ("after", text(self.after.as_ref())),
            ("times", text(self.times.as_ref())),
            ("seed", text(self.seed.as_ref())),
        ]
    }

    fn takes_only(&self, taken: &[&str]) -> Result<(), SpecError> {
        let mut given = self.effects().into_iter();
        let surplus = given.find(|(name, given)| given.is_some() && !taken.contains(name));
        match surplus {
            Some((takes_no, _)) => {
                let target = self.rpc;
                Err(SpecError::TakesNo { target, takes_no })
            }
            None => Ok(()),
        }
    }
}

fn text<T: fmt::Display>(value: Option<&T>) -> Option<String> {
    value.map(T::to_string)
}

fn plain(text: &str, what: &'static str, most: usize) -> Result<(), SpecError> {
    let is_plain = (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
    if is_plain {
        Ok(())
    } else {
        Err(SpecError::Text { what, most })
    }
}

/// As the command line has it.
impl fmt::Display for FaultSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.rpc.as_str())?;
        for (name, value) in self.effects().into_iter().chain(self.chances()) {
            match value {
                Some(value) if name == "devices" => write!(f, " {value}")?,
                Some(value) => write!(f, " --{name} {value}")?,
                None => {}
            }
        }
        Ok(())
    }
}

/// So that a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.,/:".contains(c);
    if text.chars().all(is_word) && !text.is_empty() {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::time::Duration;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        spec: FaultSpec,
    }

    fn spec(line: &[&str]) -> FaultSpec {
        let line = Line::try_parse_from([&["fault"], line].concat());
        line.unwrap_or_else(|error| panic!("{error}")).spec
    }

    #[test]
    fn a_spec_is_told_as_it_is_given() {
        for line in [
            &[
                "allocate",
                "--delay",
                "10s",
                "--probability",
                "0.5",
                "--after",
                "3",
                "--times",
                "2",
                "--seed",
                "7",
            ][..],
            &["pre-start", "--error", "UNAVAILABLE", "--message", "no"],
            &["registration", "--for", "1m30s"],
            &["health", "0,2-3", "--up", "10s", "--down", "5s"],
        ] {
            let spec = spec(line);
            assert_eq!(spec.to_string(), line.join(" "));
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(
                serde_json::from_str::<FaultSpec>(&json).unwrap(),
                spec,
                "{json}"
            );
            assert!(spec.fault(None).is_ok(), "{line:?}");
        }
        let quoted = spec(&["options", "--error", "INTERNAL", "--message", "it's no use"]);
        assert_eq!(
            quoted.to_string(),
            "options --error INTERNAL --message 'it'\\''s no use'"
        );
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let long = "x".repeat(257);
        for (line, expected) in [
            (&["allocate"][..], "either a delay or an error for allocate"),
            (
                &["options", "--delay", "1s", "--error", "INTERNAL"],
                "either a delay or an error for options",
            ),
            (
                &["preferred", "--delay", "1s", "--message", "m"],
                "no message for preferred",
            ),
            (&["stream", "--for", "1s"], "no for for stream"),
            (
                &[
                    "health", "all", "--up", "1s", "--down", "1s", "--delay", "1s",
                ],
                "no delay for health",
            ),
            (
                &["health", "", "--up", "1s", "--down", "1s"],
                "devices of 1 to 4096 bytes without control characters",
            ),
            (
                &["registration", "--delay", "1s"],
                "no delay for registration",
            ),
            (
                &["health", "all", "--up", "1s"],
                "devices, up and down for health",
            ),
            (
                &["allocate", "0", "--delay", "1s"],
                "no devices for allocate",
            ),
            (
                &["allocate", "--error", "INTERNAL", "--message", &long],
                "a message of 1 to 256 bytes without control characters",
            ),
            (
                &["allocate", "--error", "INTERNAL", "--message", "a\u{1b}[2J"],
                "a message of 1 to 256 bytes without control characters",
            ),
        ] {
            assert_eq!(
                spec(line).fault(None).unwrap_err().to_string(),
                expected,
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_delay_is_at_most_a_minute() {
        let line = |delay| Line::try_parse_from(["fault", "allocate", "--delay", delay]);
        let longest = line("60s").map(|line| line.spec.fault(None));
        let effect = longest.expect("a line").expect("a fault").effect().clone();
        assert_eq!(effect, Effect::Delay(Duration::from_secs(60)));
        assert!(line("60001ms").is_err());
        assert!(line("9ms").is_err());
        let longer = ["fault", "registration", "--for", "25h"];
        assert!(Line::try_parse_from(longer).is_err());
    }
}
