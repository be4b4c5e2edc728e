//! The serialized form of a fault, in the config file, on the control socket and in the status.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::{self, Deserializer, Unexpected};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use super::values::{self, ErrorCode, Probability, Times};
use super::{CallFault, Fault, FaultKind, Flap, InjectionPoint, Schedule};

/// The keys of all kinds. An internally tagged serde enum is no alternative: it buffers the values, which loses their
/// line numbers and reads `010` as a number.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, expecting = "a mapping with the key on")]
pub(super) struct FaultKeys {
    #[cfg_attr(test, schemars(with = "String"))]
    on: InjectionPoint,
    /// Device IDs, indexes or index ranges, separated by commas, for example 0,2-3; or all.
    #[serde(default, deserialize_with = "devices")]
    #[cfg_attr(test, schemars(with = "String"))]
    devices: Option<String>,
    /// How long each call is delayed: 10ms to 60s. All calls of the daemon together are delayed by at most 120s in any 5 minutes.
    #[serde(default, deserialize_with = "delay")]
    #[cfg_attr(test, schemars(with = "String"))]
    delay: Option<Duration>,
    /// The gRPC status code that each call returns, for example UNAVAILABLE.
    #[serde(default, deserialize_with = "error")]
    #[cfg_attr(test, schemars(with = "String"))]
    error: Option<ErrorCode>,
    /// The error message: 1 to 256 bytes.
    #[serde(default, deserialize_with = "message")]
    #[cfg_attr(test, schemars(with = "String"))]
    message: Option<String>,
    /// How long the registration is suspended: 1ms to 24h. Default: until the fault is cleared.
    #[serde(default, deserialize_with = "suspension")]
    #[cfg_attr(test, schemars(with = "String"))]
    r#for: Option<Duration>,
    /// How long the devices stay Healthy before each Unhealthy phase: 1s to 24h.
    #[serde(default, deserialize_with = "phase")]
    #[cfg_attr(test, schemars(with = "String"))]
    up: Option<Duration>,
    /// How long the devices stay Unhealthy: 1s to 24h.
    #[serde(default, deserialize_with = "phase")]
    #[cfg_attr(test, schemars(with = "String"))]
    down: Option<Duration>,
    /// The probability of each injection: 0 to 1. Default: 1.
    #[serde(default, deserialize_with = "probability")]
    #[cfg_attr(test, schemars(with = "f64", range(min = 0, max = 1)))]
    probability: Option<Probability>,
    /// How many calls, streams, registrations or phases are skipped first. Default: 0.
    #[cfg_attr(test, schemars(with = "u64"))]
    after: Option<u64>,
    /// The maximum number of injections, or unlimited. Default: 1; for health: unlimited.
    #[serde(default, deserialize_with = "times")]
    #[cfg_attr(test, schemars(with = "serde_json::Value", extend("anyOf" = [{"type": "integer", "minimum": 1}, {"const": "unlimited"}])))]
    times: Option<Times>,
    /// The seed of the probability. The same seed selects the same calls again. Default: random.
    #[cfg_attr(test, schemars(with = "u64"))]
    seed: Option<u64>,
}

/// Why the keys do not make a fault. The texts follow the word "expected".
#[derive(Debug, Error)]
enum KeysError {
    #[error("either delay or error with on: {}; message only with error", on.as_str())]
    NoCallFault { on: InjectionPoint },
    #[error("devices, up and down with on: health")]
    NoFlap,
    #[error("no key \"{key}\" with on: {}", on.as_str())]
    Unused {
        key: &'static str,
        on: InjectionPoint,
    },
}

impl FaultKeys {
    fn into_fault(mut self) -> Result<Fault, KeysError> {
        let on = self.take_kind()?;
        if let Some(key) = self.unused_key() {
            return Err(KeysError::Unused { key, on: self.on });
        }
        let schedule = Schedule {
            probability: self.probability,
            after: self.after.unwrap_or_default(),
            times: self.times,
            seed: self.seed,
        };
        Ok(Fault { on, schedule })
    }

    /// Takes the keys that belong to the kind.
    fn take_kind(&mut self) -> Result<FaultKind, KeysError> {
        Ok(match self.on {
            InjectionPoint::Allocate => FaultKind::Allocate(self.take_call()?),
            InjectionPoint::Preferred => FaultKind::Preferred(self.take_call()?),
            InjectionPoint::PreStart => FaultKind::PreStart(self.take_call()?),
            InjectionPoint::Options => FaultKind::Options(self.take_call()?),
            InjectionPoint::Stream => FaultKind::Stream,
            InjectionPoint::Registration => FaultKind::Registration {
                duration: self.r#for.take(),
            },
            InjectionPoint::Health => FaultKind::Health(self.take_flap()?),
        })
    }

    fn take_call(&mut self) -> Result<CallFault, KeysError> {
        let call = CallFault::new(self.delay.take(), self.error.take(), self.message.take());
        call.ok_or(KeysError::NoCallFault { on: self.on })
    }

    fn take_flap(&mut self) -> Result<Flap, KeysError> {
        match (self.devices.take(), self.up.take(), self.down.take()) {
            (Some(devices), Some(up), Some(down)) => Ok(Flap { devices, up, down }),
            _ => Err(KeysError::NoFlap),
        }
    }

    /// The first key that does not belong to the kind. Call it after [`Self::take_kind`].
    fn unused_key(&self) -> Option<&'static str> {
        let keys = [
            ("devices", self.devices.is_some()),
            ("delay", self.delay.is_some()),
            ("error", self.error.is_some()),
            ("message", self.message.is_some()),
            ("for", self.r#for.is_some()),
            ("up", self.up.is_some()),
            ("down", self.down.is_some()),
        ];
        keys.into_iter()
            .find_map(|(key, is_unused)| is_unused.then_some(key))
    }
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = FaultKeys::deserialize(deserializer)?;
        keys.into_fault().map_err(|error| {
            let expected = error.to_string();
            de::Error::invalid_value(Unexpected::Map, &&*expected)
        })
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct WrittenFault<'a> {
            on: InjectionPoint,
            #[serde(flatten)]
            keys: BTreeMap<&'static str, String>,
            #[serde(flatten)]
            schedule: &'a Schedule,
        }
        let written = WrittenFault {
            on: self.point(),
            keys: self.on.keys().into_iter().collect(),
            schedule: &self.schedule,
        };
        written.serialize(serializer)
    }
}

/// Reads a number or string as a string. In the config file, a number with a fraction is a string already.
fn scalar<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a number or a string")]
    enum Scalar {
        Whole(u64),
        Fraction(f64),
        Text(String),
    }
    let given = Option::deserialize(from)?;
    Ok(given.map(|scalar| match scalar {
        Scalar::Whole(number) => number.to_string(),
        Scalar::Fraction(number) => number.to_string(),
        Scalar::Text(text) => text,
    }))
}

fn parsed<T, E: de::Error>(
    given: Option<String>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, E> {
    let Some(text) = given else {
        return Ok(None);
    };
    let invalid = |expected: String| E::invalid_value(Unexpected::Str(&text), &&*expected);
    parse(&text).map(Some).map_err(invalid)
}

fn devices<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    parsed(Option::deserialize(from)?, values::devices)
}

fn delay<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    parsed(Option::deserialize(from)?, values::delay)
}

fn error<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ErrorCode>, D::Error> {
    parsed(Option::deserialize(from)?, ErrorCode::parse)
}

fn message<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    parsed(Option::deserialize(from)?, values::message)
}

fn suspension<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    parsed(Option::deserialize(from)?, values::suspension)
}

fn phase<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    parsed(Option::deserialize(from)?, values::phase)
}

fn probability<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Probability>, D::Error> {
    parsed(scalar(from)?, Probability::parse)
}

fn times<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Times>, D::Error> {
    parsed(scalar(from)?, Times::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Fault, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_is_read_and_written_as_json() {
        for json in [
            r#"{"on":"allocate","delay":"10s","probability":0.5,"after":3,"times":2,"seed":7}"#,
            r#"{"on":"preferred","error":"UNAVAILABLE","message":"no luck","times":"unlimited"}"#,
            r#"{"on":"pre-start","delay":"1s500ms"}"#,
            r#"{"on":"options","error":"INTERNAL"}"#,
            r#"{"on":"stream"}"#,
            r#"{"on":"registration"}"#,
            r#"{"on":"registration","for":"1m 30s"}"#,
            r#"{"on":"health","devices":"0-1","down":"5s","up":"10s"}"#,
        ] {
            let written = serde_json::to_string(&read(json).unwrap()).unwrap();
            assert_eq!(written, json.replace("1m 30s", "1m30s"));
        }
    }

    #[test]
    fn numbers_are_read_from_json_numbers_and_strings() {
        let probability = |json: &str| {
            let fault = read(&r#"{"on":"stream","probability":P}"#.replace('P', json)).unwrap();
            fault.schedule.probability.map(Probability::get)
        };
        for (json, number) in [
            ("0.5", 0.5),
            ("1", 1.0),
            ("1.0", 1.0),
            ("0", 0.0),
            (r#""0.5""#, 0.5),
        ] {
            assert_eq!(probability(json), Some(number), "{json}");
        }
        let times = |json: &str| read(&r#"{"on":"stream","times":N}"#.replace('N', json));
        assert_eq!(times("3"), times(r#""3""#));
        for wrong in ["0", "-1", "1.5", "true", "[]"] {
            assert!(times(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_name_missing_and_unused_keys() {
        for (json, expected) in [
            (
                r#"{"on": "allocate"}"#,
                "expected either delay or error with on: allocate",
            ),
            (
                r#"{"on": "options", "delay": "1s", "error": "INTERNAL"}"#,
                "expected either delay or error with on: options",
            ),
            (
                r#"{"on": "preferred", "delay": "1s", "message": "m"}"#,
                "expected either delay or error with on: preferred; message only with error",
            ),
            (
                r#"{"on": "pre-start", "delay": "1s", "devices": "0"}"#,
                "expected no key \"devices\" with on: pre-start",
            ),
            (
                r#"{"on": "stream", "up": "1s"}"#,
                "expected no key \"up\" with on: stream",
            ),
            (
                r#"{"on": "stream", "down": "1s"}"#,
                "expected no key \"down\" with on: stream",
            ),
            (
                r#"{"on": "stream", "error": "INTERNAL"}"#,
                "expected no key \"error\" with on: stream",
            ),
            (
                r#"{"on": "stream", "message": "m"}"#,
                "expected no key \"message\" with on: stream",
            ),
            (
                r#"{"on": "registration", "delay": "1s"}"#,
                "expected no key \"delay\" with on: registration",
            ),
            (
                r#"{"on": "health", "devices": "all", "up": "1s", "down": "1s", "for": "1s"}"#,
                "expected no key \"for\" with on: health",
            ),
            (
                r#"{"on": "health", "devices": "all", "up": "1s"}"#,
                "expected devices, up and down with on: health",
            ),
            (
                r#"{"on": "health", "devices": "", "up": "1s", "down": "1s"}"#,
                "expected text of 1 to 4096 bytes",
            ),
            (
                r#"{"rpc": "stream"}"#,
                "unknown field `rpc`, expected one of `on`",
            ),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
