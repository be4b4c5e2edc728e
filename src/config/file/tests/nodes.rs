//! Tests of the key `nodes`.

use super::{EXAMPLE, FileText, read, read_on};
use crate::config::error::ConfigErrors;
use crate::config::warnings::of_settings;

#[test]
fn warns_about_settings_without_an_effect() {
    let text = "resources: [{name: a/b, deviceFileHostPath: /dev/null}]\nnodes:\n\
                - {match: 'n*', resources: []}\n- {match: n1, resources: []}\n- {match: 'n*', resources: []}\n";
    let file = FileText {
        name: "c.yaml".to_owned(),
        content: Ok(text.into()),
    };
    let settings = read(&file, "n", &mut ConfigErrors::default()).expect("settings");
    assert_eq!(
        of_settings(&settings),
        [
            "c.yaml: the entry of nodes in line 5 has no effect: line 3 has the same match, n*",
            "a/b: deviceFileHostPath has no effect without deviceFilePrefix",
        ]
    );
}

#[test]
fn the_first_matching_node_replaces_keys_and_adds_resources() {
    let on_gpu = read_on("gpu-3.example", EXAMPLE).unwrap().resources;
    let names: Vec<&str> = on_gpu.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        names,
        ["example.com/gpu", "ska-sdp.org/widget", "example.com/nic"]
    );
    assert!(on_gpu[0].devices.is_empty() && on_gpu[0].outputs.envs.is_empty());
    assert!(on_gpu[0].pre_start, "keys without an override are kept");
    assert_eq!(read_on("gpu-7", EXAMPLE).unwrap().resources.len(), 2);
}
