//! The JSON schema of a fault: one alternative for each kind, so that editors offer no other keys.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::Fault;
use super::keys::FaultKeys;

const CALLS: &[&str] = &["allocate", "preferred", "pre-start", "options"];

/// What a fault can be: `on`, the keys that it needs beside it, and those that it can have.
const KINDS: [(&[&str], &[&str], &[&str]); 5] = [
    (CALLS, &["delay"], &[]),
    (CALLS, &["error"], &["message"]),
    (&["stream"], &[], &[]),
    (&["registration"], &[], &["for"]),
    (&["health"], &["devices", "up", "down"], &[]),
];

const SCHEDULE: [&str; 4] = ["probability", "after", "times", "seed"];

impl JsonSchema for Fault {
    fn schema_name() -> Cow<'static, str> {
        "Fault".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let all = FaultKeys::json_schema(generator);
        let property = |key: &str| {
            let mut property = all.as_value()["properties"][key].clone();
            // It is null for every key that can be left out, and tells nothing.
            property
                .as_object_mut()
                .map(|property| property.remove("default"));
            property
        };
        let kinds = KINDS.map(|(on, needs, takes)| {
            let keys = needs.iter().chain(takes).chain(&SCHEDULE);
            let on = ("on".to_owned(), json!({"enum": on}));
            let keys = keys.map(|key| ((*key).to_owned(), property(key)));
            let properties: Map<String, Value> = std::iter::once(on).chain(keys).collect();
            let required: Vec<&str> = std::iter::once("on").chain(needs.iter().copied()).collect();
            json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
        });
        json_schema!({"description": "What goes wrong, and when.", "oneOf": kinds})
    }
}

#[test]
fn the_kinds_of_the_schema_are_those_that_can_be_read() {
    let sample = |key: &str| match key {
        "error" => "INTERNAL",
        _ => "10s",
    };
    for (on, needs, takes) in KINDS {
        for on in on {
            let keys = |keys: &[&str]| -> Map<String, Value> {
                let on = ("on".to_owned(), json!(on));
                let keys = keys
                    .iter()
                    .map(|key| ((*key).to_owned(), json!(sample(key))));
                std::iter::once(on).chain(keys).collect()
            };
            let is_fault = |keys| serde_json::from_value::<Fault>(Value::Object(keys)).is_ok();
            assert!(is_fault(keys(needs)), "{on} {needs:?}");
            assert!(is_fault(keys(&[needs, takes].concat())), "{on} {takes:?}");
            for left_out in needs {
                let mut fewer = keys(needs);
                fewer.remove(*left_out);
                assert!(!is_fault(fewer), "{on} without {left_out}");
            }
        }
    }
}
