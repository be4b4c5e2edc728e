//! Tests of errors, which name the line, key and value.

use super::{errors_of, refused};

#[test]
fn reports_every_error_of_syntax_and_type_with_its_line() {
    refused(
        "removalGrace: soon\nresource: []\nresources:\n\
         - {name: a/b, devices: many, count: 4}\n\
         - name: a/c\n  preferredAllocation: best\n  numaNodes: [0, x]\n  env: {F: [1]}\n\
         \x20 deviceFiles: [{containerPath: /x}]\n  devices: [{id: a, health: Sick}, {path: x}, text]\n\
         \x20 preStart: yes\n  devices: 3\n- devices: 2\n- text\n",
        &[
            r#"c.yaml:1: removalGrace="soon": expected a duration from 1s to 24h"#,
            "c.yaml:2: resource: expected a known key, did you mean resources? The keys are removalGrace, resources, nodes",
            r#"c.yaml:4: devices="many": expected a whole number, 0 or more, or a list of devices"#,
            "c.yaml:4: count: expected one of the keys name, devices,",
            r#"c.yaml:6: preferredAllocation="best": expected none, ordered, packed or spread"#,
            r#"c.yaml:7: numaNodes="x": expected a NUMA node from 0 to 1023"#,
            "c.yaml:8: F: expected a string",
            "c.yaml:9: deviceFiles: expected the key hostPath",
            r#"c.yaml:10: health="Sick": expected Healthy or Unhealthy"#,
            "c.yaml:10: devices: expected the key id",
            r#"c.yaml:10: devices="text": expected a device with at least the key id"#,
            r#"c.yaml:11: preStart="yes": expected true or false"#,
            "c.yaml:12: devices: expected each key only once",
            "c.yaml:13: resources: expected the key name",
            r#"c.yaml:14: resources="text": expected a resource with at least the key name"#,
        ],
    );
}

#[test]
fn a_number_or_boolean_in_quotes_is_an_error_that_names_the_quotes() {
    refused(
        "resources:\n\
         - {name: a/b, devices: '4', preStart: \"true\", numaNodes: ['1']}\n\
         - {name: a/c, devices: [{id: x, numa: '0'}], preStart: '1'}\n",
        &[
            r#"c.yaml:2: devices="4": expected a whole number, 0 or more, or a list of devices, without quotes"#,
            r#"c.yaml:2: preStart="true": expected true or false, without quotes"#,
            r#"c.yaml:2: numaNodes="1": expected a NUMA node from 0 to 1023, without quotes"#,
            r#"c.yaml:3: numa="0": expected a list"#,
            r#"c.yaml:3: preStart="1": expected true or false"#,
        ],
    );
}

#[test]
fn reports_every_invalid_value_with_its_line() {
    refused(
        "resources:\n\
         - {name: a/b, devices: 99999999999999999999999, numaNodes: [2000], pluginName: kubelet}\n\
         - {name: a/b, devices: [{id: x}, {id: x}, {id: ''}], pluginName: p}\n\
         - {name: b, devices: [{id: x, attributes: {id: y, 'a b': z}}], pluginName: p}\n\
         nodes:\n\
         - {match: 'gpu-[', resources: []}\n\
         - {match: n, resources: [{name: c/d}, {name: c/d}]}\n",
        &[
            "c.yaml:2: devices=\"99999999999999999999999\": expected at most 300000 devices",
            "c.yaml:2: numaNodes=\"2000\": expected a NUMA node from 0 to 1023",
            "c.yaml:2: pluginName=\"kubelet\": expected another name",
            "c.yaml:3: name=\"a/b\": expected each resource only once; it is already set in line 2",
            "c.yaml:3: id=\"x\": expected each ID only once; it is already set in line 3",
            "c.yaml:3: id=\"\": expected a device ID",
            "c.yaml:4: name=\"b\": expected a name with one '/'",
            "c.yaml:4: pluginName=\"p\": expected a unique name; line 3 already uses the socket p.sock",
            "c.yaml:4: attributes=\"id\": expected another name",
            "c.yaml:4: attributes=\"a b\": expected a name of letters",
            "c.yaml:6: match=\"gpu-[\": expected a valid glob: unclosed character class at byte 4; missing ']'",
            "c.yaml:7: name=\"c/d\": expected each resource only once; it is already set in line 7",
        ],
    );
}

#[test]
fn every_duplicate_refers_to_the_first() {
    refused(
        "resources:\n\
         - {name: a/b, devices: [{id: x},\n\
         \x20 {id: x},\n\
         \x20 {id: x}]}\n\
         - name: a/b\n- name: a/b\n",
        &[
            "c.yaml:3: id=\"x\": expected each ID only once; it is already set in line 2",
            "c.yaml:4: id=\"x\": expected each ID only once; it is already set in line 2",
            "c.yaml:5: name=\"a/b\": expected each resource only once; it is already set in line 2",
            "c.yaml:6: name=\"a/b\": expected each resource only once; it is already set in line 2",
        ],
    );
}

#[test]
fn escapes_text_from_the_file() {
    let errors = errors_of(
        "resources: [{name: a/b, devices: [{id: \"x\\nINFO fake\", path: /x}, {id: y}], env: {A: '{paths}', 'B_{\\e}': x}}]",
    );
    assert!(
        !errors.contains("\nINFO") && !errors.contains('\u{1b}'),
        "{errors}"
    );
}

#[test]
fn does_not_report_consequences_of_another_error() {
    let text = "
resources:
  - name: [example.com/gpu]
    devices:
      - {id: [a], path: /dev/a}
      - {id: b, health: [Sick]}
      - {path: /dev/c}
    faults:
      - {on: allocate, delay: 61s}
      - {on: health, devices: 0, up: 1s}
  - {name: example.com/nic, devices: [many]}
  - {count: 2}
";
    let errors = errors_of(text);
    let lines = errors
        .lines()
        .map(|line| line.split(": expected").next().unwrap_or_default());
    let lines: Vec<&str> = lines.collect();
    assert_eq!(
        lines,
        [
            "c.yaml:3: name",
            "c.yaml:5: id",
            "c.yaml:6: health",
            "c.yaml:7: devices",
            "c.yaml:9: delay=\"61s\"",
            "c.yaml:10: faults",
            "c.yaml:11: devices=\"many\"",
            // The unknown key does not hide the error about the missing key.
            "c.yaml:12: count",
            "c.yaml:12: resources",
        ],
        "{errors}"
    );
}
