//! The JSON schema of a fault. It has one alternative for each kind, so that editors offer only the keys of that kind.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::Fault;
use super::keys::FaultKeys;

const CALLS: &[&str] = &["allocate", "preferred", "pre-start", "options"];

/// The kinds of faults: the values of `on`, the required keys and the optional keys.
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
            // The default is null for every optional key, which is of no use to an editor.
            property
                .as_object_mut()
                .map(|property| property.remove("default"));
            property
        };
        let kinds = KINDS.map(|(on, required_keys, optional_keys)| {
            let keys = required_keys.iter().chain(optional_keys).chain(&SCHEDULE);
            let on = ("on".to_owned(), json!({"enum": on}));
            let keys = keys.map(|key| ((*key).to_owned(), property(key)));
            let properties: Map<String, Value> = std::iter::once(on).chain(keys).collect();
            let required: Vec<&str> = std::iter::once("on").chain(required_keys.iter().copied()).collect();
            json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
        });
        json_schema!({"description": "A fault to inject, and its schedule.", "oneOf": kinds})
    }
}

#[test]
fn every_kind_in_the_schema_can_be_deserialized() {
    let sample = |key: &str| match key {
        "error" => "INTERNAL",
        _ => "10s",
    };
    for (on, required_keys, optional_keys) in KINDS {
        for on in on {
            let keys = |keys: &[&str]| -> Map<String, Value> {
                let on = ("on".to_owned(), json!(on));
                let keys = keys
                    .iter()
                    .map(|key| ((*key).to_owned(), json!(sample(key))));
                std::iter::once(on).chain(keys).collect()
            };
            let is_fault = |keys| serde_json::from_value::<Fault>(Value::Object(keys)).is_ok();
            assert!(is_fault(keys(required_keys)), "{on} {required_keys:?}");
            assert!(
                is_fault(keys(&[required_keys, optional_keys].concat())),
                "{on} {optional_keys:?}"
            );
            for missing in required_keys {
                let mut incomplete = keys(required_keys);
                incomplete.remove(*missing);
                assert!(!is_fault(incomplete), "{on} without {missing}");
            }
        }
    }
}
