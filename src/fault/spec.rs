//! A fault as it is asked for, on the command line, over the control socket and in the config file alike.

use std::fmt;
use std::num::NonZeroU64;

use clap::Args;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{DELAY_MAX_MS, Effect, ErrorCode, Fault, Flap, Probability, Refusal, Span, Target};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// In bytes: a message stands in a pod's events.
const MESSAGE_MAX: usize = 256;

/// In bytes, as long as the list of an example may be.
const DEVICES_MAX: usize = 4096;

/// A fault as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a fault with the key rpc and more"
)]
pub struct FaultSpec {
    /// What it strikes
    #[arg(value_name = "WHAT")]
    pub rpc: Target,
    /// health: IDs, indexes or ranges of indexes, comma-separated, as in 0,2-3; or all
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<String>,
    /// A call is answered so much later. At most 60s, and 120s for all calls of the program within 5 minutes:
    /// the kubelet admits one pod after the other, and calls itself unhealthy when that takes 5 minutes
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub delay: Option<Span<1, DELAY_MAX_MS>>,
    /// A call is refused with this code of gRPC, as in UNAVAILABLE
    #[arg(long, value_name = "CODE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub error: Option<ErrorCode>,
    /// What a refused call is told
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// registration: it is withheld for so long; unless told, until the fault is cleared
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub r#for: Option<Span<1, DAY_MS>>,
    /// health: the devices are well for so long
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub up: Option<Span<100, DAY_MS>>,
    /// health: they are ill for so long then
    #[arg(long, value_name = "TIME")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub down: Option<Span<100, DAY_MS>>,
    /// How likely it strikes each time, from 0 to 1; unless told 1
    #[arg(long, value_name = "P")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<f64>", range(min = 0, max = 1)))]
    pub probability: Option<Probability>,
    /// So many go by before it can strike
    #[arg(long, value_name = "COUNT")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// How often it strikes at most; unless told, the stream and the registration once
    #[arg(long, value_name = "COUNT")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<NonZeroU64>,
    /// The same seed strikes the same calls again; unless told one is made up, and shown
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
        /// What it strikes.
        target: Target,
        /// The missing.
        needs: &'static str,
    },
    /// It has no use for it.
    #[error("no {takes_no} for {}", target.as_str())]
    TakesNo {
        /// What it strikes.
        target: Target,
        /// The surplus.
        takes_no: &'static str,
    },
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
    /// The fault that it asks for.
    ///
    /// # Errors
    /// When its parts do not go together.
    pub fn fault(self) -> Result<Fault, SpecError> {
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
                Effect::Withhold(self.r#for.map(Span::get))
            }
            Target::Health => self.flap()?,
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
        let unless_told = || "a fault on demand".to_owned();
        let message = self.message.clone().unwrap_or_else(unless_told);
        plain(&message, "a message", MESSAGE_MAX)?;
        Ok(message)
    }

    fn flap(&self) -> Result<Effect, SpecError> {
        self.takes_only(&["devices", "up", "down"])?;
        let (Some(devices), Some(up), Some(down)) = (&self.devices, self.up, self.down) else {
            return Err(self.needs("devices, up and down"));
        };
        plain(devices, "devices", DEVICES_MAX)?;
        Ok(Effect::Flap(Flap {
            devices: devices.clone(),
            up: up.get(),
            down: down.get(),
        }))
    }

    fn needs(&self, needs: &'static str) -> SpecError {
        let target = self.rpc;
        SpecError::Needs { target, needs }
    }

    fn takes_only(&self, taken: &[&str]) -> Result<(), SpecError> {
        let given = [
            ("devices", self.devices.is_some()),
            ("delay", self.delay.is_some()),
            ("error", self.error.is_some()),
            ("message", self.message.is_some()),
            ("for", self.r#for.is_some()),
            ("up", self.up.is_some()),
            ("down", self.down.is_some()),
        ];
        let surplus = given
            .iter()
            .find(|(name, given)| *given && !taken.contains(name));
        match surplus {
            Some((takes_no, _)) => {
                let target = self.rpc;
                Err(SpecError::TakesNo { target, takes_no })
            }
            None => Ok(()),
        }
    }
}

fn plain(text: &str, what: &'static str, most: usize) -> Result<(), SpecError> {
    let is_plain = (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
    is_plain.then_some(()).ok_or(SpecError::Text { what, most })
}

/// As the command line has it.
impl fmt::Display for FaultSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.rpc.as_str())?;
        if let Some(devices) = &self.devices {
            write!(f, " {}", quoted(devices))?;
        }
        let mut option = |name: &str, value: Option<&dyn fmt::Display>| match value {
            Some(value) => write!(f, " --{name} {value}"),
            None => Ok(()),
        };
        let message = self.message.as_deref().map(quoted);
        option("delay", self.delay.as_ref().map(|v| v as _))?;
        option("error", self.error.as_ref().map(|v| v as _))?;
        option("message", message.as_ref().map(|v| v as _))?;
        option("for", self.r#for.as_ref().map(|v| v as _))?;
        option("up", self.up.as_ref().map(|v| v as _))?;
        option("down", self.down.as_ref().map(|v| v as _))?;
        option("probability", self.probability.as_ref().map(|v| v as _))?;
        option("after", self.after.as_ref().map(|v| v as _))?;
        option("times", self.times.as_ref().map(|v| v as _))?;
        option("seed", self.seed.as_ref().map(|v| v as _))
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
            assert!(spec.fault().is_ok(), "{line:?}");
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
                spec(line).fault().unwrap_err().to_string(),
                expected,
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_delay_is_at_most_a_minute() {
        let line = |delay| Line::try_parse_from(["fault", "allocate", "--delay", delay]);
        let longest = line("60s").map(|line| line.spec.fault());
        let effect = longest.expect("a line").expect("a fault").effect().clone();
        assert_eq!(effect, Effect::Delay(Duration::from_secs(60)));
        assert!(line("60001ms").is_err());
    }
}
