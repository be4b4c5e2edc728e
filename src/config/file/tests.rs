//! What a file says, and what is wrong with one.

use proptest::prelude::*;

use super::super::error::Place;
use super::*;
use crate::model::allocation::{Allocation, allocate};
use crate::model::device::Health;
use crate::model::preference::Policy;

#[track_caller]
fn errors_of(text: &str) -> String {
    read_on("n", text).expect_err(text).to_string()
}

fn read_on(node: &str, text: impl Into<Vec<u8>>) -> Result<Vec<Resource>, ConfigErrors> {
    let file = FileText {
        name: "c.yaml".to_owned(),
        content: Ok(text.into()),
    };
    let mut errors = ConfigErrors::default();
    let allowed = AllowedHostPaths::new(["/opt".into()], None);
    let resources = read(&file, node, &allowed, &mut errors);
    errors.unless_any(resources)
}

#[track_caller]
fn resources(text: &str) -> Vec<Resource> {
    read_on("n", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// What a container with all of the devices gets.
fn all_given(resource: &Resource) -> Allocation {
    let ids: Vec<String> = resource
        .devices
        .as_slice()
        .iter()
        .map(|d| d.id.to_string())
        .collect();
    allocate(&resource.devices, &resource.outputs, &ids).unwrap()
}

fn pairs(pairs: &[(String, String)]) -> Vec<String> {
    pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// The example of the README, whole.
const EXAMPLE: &str = r#"
removalGrace: 1m
resources:
  - name: example.com/gpu
    devices: 4
    deviceIdPrefix: gpu
    numaNodes: [0, 1]
    preferredAllocation: packed
    envPrefix: GPU
    preStart: true
  - name: ska-sdp.org/widget
    pluginName: widget
    devices:
      - {id: w0, path: /dev/wibble1, health: Unhealthy, numa: [0, 1], attributes: {type: snaffler, model: v1}}
      - {id: 010, path: /dev/wibble2, attributes: {type: snaffler, model: 2}}
      - {id: w2, path: /dev/wibble3, attributes: {type: other, model: v1}}
    env:
      PATHS: "{paths}"
      "DEV_{position}": "{id}"
      "{type|upper}_{id|alnum}": "{numa}"
      PLAIN: 1.50
    annotations: {"widget.example/{index}": "{id} on {node}"}
    deviceFiles: [{hostPath: /dev/null, containerPath: "/dev/widget-{index}", permissions: r}]
    mounts:
      - {hostPath: /opt/widget}
      - {hostPath: "/opt/{id}", containerPath: "/w/{id}", readOnly: false}
    cdiDevices: ["ska-sdp.org/widget={id}", "ska-sdp.org/widget=all"]
nodes:
  - match: gpu-[0-4]*
    resources: [{name: example.com/gpu, devices: 0, envPrefix: ""}, {name: example.com/nic, devices: 1}]
  - match: "*"
    resources: []
"#;

#[test]
fn the_example_says_what_it_says() {
    let resources = resources(EXAMPLE);
    let [gpu, widget] = &resources[..] else {
        panic!("{resources:?}")
    };
    assert_eq!(
        gpu.socket.as_str(),
        "simple-device-plugin-example.com_gpu.sock"
    );
    assert_eq!(gpu.devices.as_slice()[3].id, "gpu-n-3".into());
    assert_eq!(*gpu.devices.as_slice()[3].numa, [1]);
    assert_eq!((gpu.preference, gpu.pre_start), (Policy::Packed, true));
    assert_eq!(gpu.removal_grace, Duration::from_secs(60));
    assert_eq!(pairs(&all_given(gpu).envs[..1]), ["GPU_0=/dev/0"]);

    assert_eq!(widget.socket.as_str(), "widget.sock");
    let ids: Vec<&str> = widget.devices.as_slice().iter().map(|d| &*d.id).collect();
    assert_eq!(ids, ["w0", "010", "w2"]);
    assert_eq!(widget.devices.as_slice()[0].health, Health::Unhealthy);
    assert_eq!(*widget.devices.as_slice()[0].numa, [0, 1]);
}

#[test]
fn outputs_are_made_of_templates() {
    let mut widget = resources(EXAMPLE).remove(1);
    let devices = std::sync::Arc::make_mut(&mut widget.devices);
    devices.set_health("w0", Health::Healthy).unwrap();
    let got = all_given(&widget);
    assert_eq!(
        pairs(&got.envs),
        [
            "DEV_0=w0",
            "SNAFFLER_w0=0+1",
            "DEV_1=010",
            "SNAFFLER_010=",
            "DEV_2=w2",
            "OTHER_w2=",
            "PATHS=/dev/wibble1,/dev/wibble2,/dev/wibble3",
            "PLAIN=1.50",
        ]
    );
    assert_eq!(pairs(&got.annotations)[1], "widget.example/1=010 on n");
    assert_eq!(got.device_files[2].container_path, "/dev/widget-2");
    assert_eq!(got.device_files[2].permissions, "r");
    let mounts: Vec<_> = got
        .mounts
        .iter()
        .map(|m| (&*m.host_path, &*m.container_path, m.read_only))
        .collect();
    assert_eq!(mounts[0], ("/opt/w0", "/w/w0", false));
    assert_eq!(mounts[3], ("/opt/widget", "/opt/widget", true));
    assert_eq!(got.cdi_devices.len(), 4);
}

#[test]
fn the_first_matching_node_replaces_keys_and_adds_resources() {
    let on_gpu = read_on("gpu-3.example", EXAMPLE).unwrap();
    let names: Vec<&str> = on_gpu.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        names,
        ["example.com/gpu", "ska-sdp.org/widget", "example.com/nic"]
    );
    assert!(on_gpu[0].devices.is_empty() && on_gpu[0].outputs.envs.is_empty());
    assert!(on_gpu[0].pre_start, "what is not named stays");
    assert_eq!(read_on("gpu-7", EXAMPLE).unwrap().len(), 2);
}

#[test]
fn little_is_enough() {
    assert!(resources("resources: []").is_empty());
    let [one] = &resources("resources: [{name: a/b}]")[..] else {
        panic!()
    };
    let ids: Vec<&str> = one.devices.as_slice().iter().map(|d| &*d.id).collect();
    // Not simple-device: a second resource must not change the first one's IDs.
    assert_eq!(ids, ["b-n-0", "b-n-1"]);
    assert_eq!(one.removal_grace, Duration::from_secs(30));
    let anchors = "resources: [&x {name: a/b, env: &e {A: b}}, {name: a/c, env: *e}]";
    assert_eq!(pairs(&all_given(&resources(anchors)[1]).envs), ["A=b"]);
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let errors = read_on("n", text).expect_err(text).to_string();
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{errors}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{line}\nlacks {expected}");
    }
}

#[test]
fn all_mistakes_of_form_are_told_with_their_lines() {
    refused(
        "removalGrace: soon\nresource: []\nresources:\n\
         - {name: a/b, devices: many, count: 4}\n\
         - name: a/c\n  preferredAllocation: best\n  numaNodes: [0, x]\n  env: {F: [1]}\n\
         \x20 deviceFiles: [{containerPath: /x}]\n  devices: [{id: a, health: Sick}, {path: x}, text]\n\
         \x20 preStart: yes\n  devices: 3\n- devices: 2\n- text\n",
        &[
            r#"c.yaml:1: removalGrace="soon": expected a time from 1s to 24h"#,
            "c.yaml:2: resource: expected one of the keys removalGrace, resources, nodes",
            r#"c.yaml:4: devices="many": expected a whole number, or a list of devices"#,
            "c.yaml:4: count: expected one of the keys name, devices,",
            r#"c.yaml:6: preferredAllocation="best": expected none, ordered, packed or spread"#,
            r#"c.yaml:7: numaNodes="x": expected a NUMA node from 0 to 1023"#,
            "c.yaml:8: F: expected a text",
            "c.yaml:9: deviceFiles: expected the key hostPath",
            r#"c.yaml:10: health="Sick": expected Healthy or Unhealthy"#,
            "c.yaml:10: devices: expected the key id",
            r#"c.yaml:10: devices="text": expected a device with the key id"#,
            r#"c.yaml:11: preStart="yes": expected true or false"#,
            "c.yaml:12: devices: expected each key once",
            "c.yaml:13: resources: expected the key name",
            r#"c.yaml:14: resources="text": expected a resource"#,
        ],
    );
}

#[test]
fn all_mistakes_of_sense_are_told_with_their_lines() {
    refused(
        "resources:\n\
         - {name: a/b, devices: 99999999999999999999999, numaNodes: [2000], pluginName: kubelet}\n\
         - {name: a/b, devices: [{id: x}, {id: x}, {id: ''}], pluginName: p}\n\
         - {name: b, devices: [{id: x, attributes: {id: y, 'a b': z}}], pluginName: p}\n\
         nodes:\n\
         - {match: 'gpu-[', resources: []}\n\
         - {match: n, resources: [{name: c/d}, {name: c/d}]}\n",
        &[
            "c.yaml:2: pluginName=\"kubelet\": expected another name",
            "c.yaml:2: numaNodes=\"2000\": expected a NUMA node from 0 to 1023",
            "c.yaml:2: devices=\"18446744073709551615\": expected at most",
            "c.yaml:3: name=\"a/b\": expected each resource once; line 2 has it already",
            "c.yaml:3: id=\"x\": expected each ID once; line 3 has it already",
            "c.yaml:3: id=\"\": expected an ID",
            "c.yaml:4: name=\"b\": expected a name with one '/'",
            "c.yaml:4: pluginName=\"p\": expected a name of its own; line 3 has the socket p.sock already",
            "c.yaml:4: attributes=\"id\": expected another name",
            "c.yaml:4: attributes=\"a b\": expected a name of letters",
            "c.yaml:6: match=\"gpu-[\": expected a ']' for every '['",
            "c.yaml:7: name=\"c/d\": expected each resource once; line 7 has it already",
        ],
    );
}

#[test]
fn what_a_container_gets_is_judged_with_the_devices() {
    refused(
        "resources:\n\
         - name: a/b\n\
         \x20 devices: [{id: x, path: /dev/x, attributes: {ok: o, sign: '='}}, {id: y, attributes: {sign: '='}}]\n\
         \x20 env: {A: '{id}', 'B=C': '', 'C_{nope}': '', 'D_{id': '', 'E_{id|low}': '', F: '{paths}', 'G_{ok}': '', 'H_{sign}': ''}\n\
         \x20 deviceFiles:\n\
         \x20 - {hostPath: /etc/shadow}\n\
         \x20 - {hostPath: /dev/../etc/passwd, permissions: rx}\n\
         \x20 - {hostPath: /dev/null, containerPath: 'x{index}'}\n\
         \x20 - {hostPath: '/opt/{ids}'}\n\
         \x20 - {hostPath: '/opt/{id}', containerPath: /a}\n\
         \x20 mounts: [{hostPath: '/opt/../{id}'}]\n\
         \x20 cdiDevices: [a.b/c]\n\
         \x20 deviceFilePrefix: gpu\n",
        &[
            "4: env=\"{id}\": expected a device's placeholder in the name too",
            "4: env=\"B=C\": expected a name, without '='",
            "4: env=\"C_{nope}\": expected a placeholder or the name of an attribute, not {nope}",
            "4: env=\"D_{id\": expected a '}' for every '{'",
            "4: env=\"E_{id|low}\": expected a filter (upper, alnum, uuid), not 'low'",
            "4: env=\"{paths}\": expected {path} only where every device has one; y has none",
            "4: env=\"G_{ok}\": expected an attribute that every device has; y lacks ok",
            "4: env=\"H_{sign}\": expected a name, without '='; device x makes it \"H_=\"",
            "6: hostPath=\"/etc/shadow\": expected /dev/null, zero",
            "7: containerPath=\"/dev/../etc/passwd\": expected an absolute path, without ..",
            "7: hostPath=\"/dev/../etc/passwd\": expected /dev/null, zero",
            "7: permissions=\"rx\": expected some of r, w and m",
            "8: containerPath=\"x{index}\": expected an absolute path, without ..; device x makes it \"x0\"",
            "9: hostPath=\"/opt/{ids}\": expected a path that depends on nothing but its device",
            "10: containerPath=\"/a\": expected a device's placeholder, since hostPath has one",
            "11: containerPath=\"/opt/../{id}\": expected an absolute path, without ..; device x",
            "11: hostPath=\"/opt/../{id}\": expected /dev/null",
            "12: cdiDevices=\"a.b/c\": expected a CDI device's name",
            "13: deviceFilePrefix=\"gpu\": expected /dev/null, zero",
        ],
    );
}

#[test]
fn what_is_no_yaml_is_told_with_its_line() {
    let deep = format!("resources: {}", "[".repeat(3000));
    let doubling = ('b'..='i').zip('a'..).map(|(name, of)| {
        let of = vec![format!("*{of}"); 9].join(",");
        format!("{name}: &{name} [{of}]")
    });
    let doubling: Vec<String> = doubling.collect();
    let bomb = format!("a: &a [1,1,1,1,1,1,1,1,1]\n{}", doubling.join("\n"));
    for (text, expected) in [
        ("resources: [1,\n", "c.yaml:1: expected YAML: "),
        ("a: b: c", "c.yaml:1: expected YAML: "),
        (
            "",
            "c.yaml:1: expected the keys resources, nodes and removalGrace",
        ),
        ("[]", "c.yaml:1: expected the keys resources"),
        (
            "resources: []\n---\nresources: []",
            "c.yaml:2: expected one document",
        ),
        ("resources: !!seq []", "c.yaml:1: expected no tag"),
        ("resources: *x", "c.yaml:1: expected YAML: "),
        (
            "resources: &x [*x]",
            "c.yaml:1: expected an alias of something that ended before it",
        ),
        ("nodes: []", "c.yaml:1: expected the key resources"),
        (&deep, "c.yaml:1: expected YAML: "),
        (
            &bomb,
            "expected less: anchors and aliases make more than 32 MiB of it",
        ),
    ] {
        let errors = read_on("n", text).expect_err(text).to_string();
        assert!(errors.contains(expected), "{errors}\nlacks {expected}");
    }
    assert!(
        read_on("n", b"\xff".to_vec())
            .unwrap_err()
            .to_string()
            .contains("text in UTF-8")
    );
    let large = read_on("n", vec![b' '; FileText::SIZE_MAX + 1])
        .unwrap_err()
        .to_string();
    assert!(large.contains("a file of at most 1048576 bytes"), "{large}");
}

#[test]
fn one_name_for_several_devices_is_warned_of() {
    let resources = resources(
        "resources: [{name: a/b, devices: [{id: a-1}, {id: a1}], env: {'{id|alnum}': x}}]",
    );
    let warnings = crate::config::warnings::of(&resources, None);
    assert!(
        warnings[0].starts_with("a/b has the env a1 for several devices: one wins"),
        "{warnings:?}"
    );
}

#[test]
fn without_devices_what_a_container_gets_is_judged_all_the_same() {
    let outputs = "env: {'A_{nope}': ''}, mounts: [{hostPath: /etc}], deviceFileHostPath: /dev/mem, deviceFilePrefix: mem";
    for devices in ["devices: 0", "devices: 2", "numaNodes: [5000]"] {
        let errors = errors_of(&format!("resources: [{{name: a/b, {devices}, {outputs}}}]"));
        for expected in [
            "env=\"A_{nope}\"",
            "hostPath=\"/etc\"",
            "deviceFileHostPath=\"/dev/mem\"",
        ] {
            assert!(errors.contains(expected), "{devices}: {errors}");
        }
    }
    let listed = errors_of(&format!(
        "resources: [{{name: a/b, devices: [], {outputs}}}]"
    ));
    assert!(listed.contains("hostPath=\"/etc\""), "{listed}");
}

/// What would take memory or time without end is refused instead.
#[test]
fn no_file_is_too_much() {
    let long = "x".repeat(5000);
    let scalars = format!(
        "a: &a \"{}\"\nb: [{}]\n",
        "x".repeat(500_000),
        "*a,".repeat(1000)
    );
    let anchors = format!(
        "a: {}{}{}",
        "&a [".repeat(200),
        "x,".repeat(100_000),
        "]".repeat(200)
    );
    let parts = "{id} ".repeat(80_000);
    let rules: Vec<String> = (0..300).map(|i| format!("'A{i}_{{index}}': x")).collect();
    for (text, expected) in [
        (scalars, "anchors and aliases make more than 32 MiB"),
        (anchors, "anchors and aliases make more than 32 MiB"),
        (
            format!("resources: [{{name: a/b, env: {{'X_{{id}}': \"{parts}\"}}}}]"),
            "at most 100 placeholders",
        ),
        (
            format!("resources: [{{name: a/b, devices: [{{id: {long}}}]}}]"),
            "at most 4096 bytes",
        ),
        (
            "resources: [{name: a/b, devices: 150000}, {name: a/c, devices: 150001}]".to_owned(),
            "at most 300000 devices",
        ),
        (
            format!(
                "resources: [{{name: a/b, devices: 10000, env: {{{}}}}}]",
                rules.join(", ")
            ),
            "fewer devices or fewer outputs",
        ),
    ] {
        let errors = errors_of(&text);
        assert!(errors.contains(expected), "{errors:.200}\nlacks {expected}");
        assert!(errors.lines().all(|line| line.len() < 2000));
    }
    let resources: Vec<String> = (0..1001).map(|i| format!("{{name: a/b{i}}}")).collect();
    let errors = errors_of(&format!("resources: [{}]", resources.join(",")));
    assert!(
        errors.ends_with("expected at most 1000 resources"),
        "{errors}"
    );
    let many = format!(
        "resources: [{{name: a/b, devices: [{}]}}]",
        "{id: ''},\n".repeat(20_000)
    );
    let errors = read_on("n", many).unwrap_err();
    assert_eq!(errors.as_slice().len(), 200);
    assert_eq!(
        errors.summary(),
        "200 errors in the configuration, and 19800 more"
    );
}

#[test]
fn what_others_wrote_is_escaped() {
    let errors = errors_of(
        "resources: [{name: a/b, devices: [{id: \"x\\nINFO fake\", path: /x}, {id: y}], env: {A: '{paths}', 'B_{\\e}': x}}]",
    );
    assert!(
        !errors.contains("\nINFO") && !errors.contains('\u{1b}'),
        "{errors}"
    );
}

/// YAML that looks like a config file, here and there.
fn any_yaml() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "resources",
        "nodes",
        "name",
        "devices",
        "id",
        "env",
        "numa",
        "health",
        "match",
        "a/b",
        "{id}",
        "{ids}",
        "{x|uuid}",
        "Healthy",
        "n",
        "*",
        "99999999999999999999",
        "-1",
        "0x10",
        "~",
        "true",
        "&a",
        "*a",
        "<<",
        "/dev/null",
        "hostPath",
        "deviceFiles",
        "mounts",
        "attributes",
        "removalGrace",
        "30s",
        "\"",
        "'",
        "|",
        ">",
        "!!int",
        "---",
        "?",
    ]);
    let glue = prop::sample::select(vec![
        ": ", "\n", "\n  ", "\n- ", ", ", "[", "]", "{", "}", " ",
    ]);
    let part = (words, glue).prop_map(|(word, glue)| format!("{word}{glue}"));
    prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(text in any_yaml()) {
        let _ = read_on("n", text);
    }

    #[test]
    fn no_bytes_make_it_panic(at in 0..EXAMPLE.len(), bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        let mut text = EXAMPLE.as_bytes().to_vec();
        let end = (at + bytes.len()).min(text.len());
        text.splice(at..end, bytes);
        let _ = read_on("n", text);
    }

    /// Whatever is cut out of a good file: it is read, or the error has a line of the file.
    #[test]
    fn mistakes_have_a_line_of_the_file(from in 0..EXAMPLE.len(), length in 0_usize..40) {
        let to = (from + length).min(EXAMPLE.len());
        let text = format!("{}{}", &EXAMPLE[..from], &EXAMPLE[to..]);
        if let Err(errors) = read_on("n", &*text) {
            for error in errors.as_slice() {
                let Place::File { line, .. } = error.place else { panic!("{error}") };
                prop_assert!((1..=text.lines().count() + 1).contains(&line), "{error}");
            }
        }
    }
}

const ONE: &str = "resources: [{name: example.com/gpu, faults: FAULTS}]";

#[test]
fn faults_are_said_as_on_the_command_line() {
    let text = ONE.replace(
        "FAULTS",
        "[{rpc: allocate, delay: 10s, probability: 0.5, after: 3, times: 2, seed: 7},
          {rpc: pre-start, error: UNAVAILABLE, message: no luck, times: unlimited}, {rpc: stream},
          {rpc: registration, for: 90s}, {rpc: health, devices: 0-1, up: 10s, down: 5s, probability: 1}]",
    );
    let faults = &resources(&text)[0].faults;
    let words: Vec<String> = faults
        .iter()
        .map(|fault| fault.spec().to_string())
        .collect();
    assert_eq!(
        words,
        [
            "allocate --delay 10s --probability 0.5 --after 3 --times 2 --seed 7",
            "pre-start --error UNAVAILABLE --message 'no luck' --times unlimited",
            "stream",
            "registration --for 1m30s",
            "health 0-1 --up 10s --down 5s --probability 1",
        ]
    );
}

#[test]
fn wrong_faults_are_told_with_their_lines() {
    for (faults, expected) in [
        (
            "[{rpc: allocate, delay: 61s}]",
            "delay=\"61s\": expected a time from 10ms to 1m, as in 10s",
        ),
        (
            "[{rpc: allocate, delay: 10}]",
            "delay=\"10\": expected a time from 10ms to 1m, as in 10s",
        ),
        (
            "[{rpc: allocate}]",
            "faults=\"allocate\": expected either a delay or an error for allocate",
        ),
        (
            "[{rpc: alocate}]",
            "rpc=\"alocate\": expected allocate, preferred, pre-start, options, stream, registration or health",
        ),
        ("[{delay: 1s}]", "faults: expected the key rpc"),
        (
            "[{rpc: stream, when: now}]",
            "when: expected one of the keys rpc, devices, delay, error, message, for, up, down, probability, after, times, seed",
        ),
        (
            "[{rpc: stream, probability: 1.5}]",
            "probability=\"1.5\": expected a number from 0 to 1, as in 0.5",
        ),
        (
            "[{rpc: stream, probability: 2}]",
            "probability=\"2\": expected a number from 0 to 1, as in 0.5",
        ),
        (
            "[{rpc: stream, times: 0}]",
            "times=\"0\": expected a whole number from 1, or unlimited",
        ),
        (
            "[{rpc: stream, after: x}]",
            "after=\"x\": expected a whole number",
        ),
        (
            "[{rpc: options, error: OK}]",
            "error=\"OK\": expected a code of gRPC but OK, as in UNAVAILABLE",
        ),
        (
            "[{rpc: health, devices: gpu, up: 1s, down: 1s}]",
            "faults=\"health gpu --up 1s --down 1s\": expected devices that there are: no device \"gpu\": expected IDs, indexes as in 0, ranges as in 0-3, comma-separated, or all",
        ),
    ] {
        let errors = errors_of(&format!("\n{}", ONE.replace("FAULTS", faults)));
        let first = errors.lines().next().unwrap_or_default();
        assert_eq!(first, format!("c.yaml:2: {expected}"), "{faults}");
    }
    let many = ONE.replace("FAULTS", &format!("[{}]", "{rpc: stream}, ".repeat(65)));
    assert!(
        errors_of(&many).contains("at most 64 faults"),
        "{}",
        errors_of(&many)
    );
}

#[test]
fn faults_of_a_node_replace_those_of_all() {
    let text = "
resources:
  - {name: example.com/gpu, devices: 4, faults: [{rpc: stream}, {rpc: health, devices: 0-3, up: 1s, down: 1s}]}
  - {name: example.com/nic, faults: [{rpc: stream}]}
nodes:
  - {match: n, resources: [{name: example.com/gpu, devices: 0}, {name: example.com/nic, faults: []}]}
";
    let faults = |node: &str| -> Vec<usize> {
        let resources = read_on(node, text).unwrap_or_else(|errors| panic!("{errors}"));
        resources
            .iter()
            .map(|resource| resource.faults.len())
            .collect()
    };
    // Devices that another node lacks are no error there.
    assert_eq!(faults("n"), [2, 0]);
    assert_eq!(faults("m"), [2, 1]);
    let many = ONE.replace(
        "FAULTS",
        &format!(
            "[{}]",
            "{rpc: health, devices: all, up: 1s, down: 1s}, ".repeat(9)
        ),
    );
    assert!(
        errors_of(&many).contains("at most 8 faults of health"),
        "{}",
        errors_of(&many)
    );
}

/// Measured with IDs of 18 bytes: 6,800 of them in one variable run, and 7,000 do not.
#[test]
fn a_variable_that_keeps_a_container_from_starting_is_warned_of() {
    let with = |count: usize| {
        let text = format!(
            "resources: [{{name: a/b, deviceIdPrefix: eleven-char, devices: {count}, env: {{GPUS: '{{ids}}'}}}}]"
        );
        crate::config::warnings::of(&resources(&text), None)
    };
    assert!(with(6_800).is_empty(), "{:?}", with(6_800));
    let [warning] = &*with(7_500) else {
        panic!("no warning, or several");
    };
    let (before, after) = warning.split_once("more than ").expect("a count");
    assert_eq!(before, "a/b: a container with ");
    let (fit, after) = after.split_once(" of its 7500 devices ").expect("a count");
    assert!(
        after.starts_with("may not start: the env GPUS would be over 128 KiB"),
        "{after}"
    );
    assert!(
        (6_800..7_000).contains(&fit.parse::<usize>().unwrap()),
        "{fit}"
    );
}

/// Texts that are short whatever they are made of, a thing for each device: were they made for each, this would take minutes.
#[test]
fn what_is_said_of_all_devices_is_made_once() {
    let text = "resources: [{name: a/b, devices: 20000, annotations: {'a-{id}': '{ids|uuid}'}}]";
    let resource = resources(text).remove(0);
    assert!(crate::config::warnings::of(std::slice::from_ref(&resource), None).is_empty());
    let devices: Vec<_> = resource.devices.as_slice().iter().collect();
    let given = resource.outputs.of(&devices[..2]);
    let [first, second] = &*given.annotations else {
        panic!("not one for each device")
    };
    assert_eq!(first.1, second.1);
    assert_ne!(first.1, resource.outputs.of(&devices[..1]).annotations[0].1);
}

/// Measured with IDs of 86 characters in a variable each: 20,000 run, and 25,000 do not.
#[test]
fn an_environment_that_keeps_a_container_from_starting_is_warned_of() {
    let with = |count: usize| {
        let prefix = "x".repeat(78);
        let text = format!(
            "resources: [{{name: a/b, deviceIdPrefix: {prefix}, devices: {count}, env: {{'ONE_{{index}}': '{{id}}'}}}}]"
        );
        let warnings = crate::config::warnings::of(&resources(&text), None).into_iter();
        warnings
            .filter(|warning| warning.contains("environment"))
            .collect::<Vec<_>>()
    };
    assert!(with(18_000).is_empty(), "{:?}", with(18_000));
    let [warning] = &*with(25_000) else {
        panic!("no warning, or several");
    };
    let (_, after) = warning.split_once("more than ").expect("a count");
    let (fit, _) = after.split_once(" of its 25000 devices ").expect("a count");
    assert!(
        (18_000..21_000).contains(&fit.parse::<usize>().unwrap()),
        "{fit}"
    );
}

#[test]
fn faults_that_never_strike_are_warned_of() {
    let text = ONE.replace(
        "FAULTS",
        "[{rpc: pre-start, delay: 1s}, {rpc: preferred, delay: 1s}, {rpc: allocate, delay: 1s}]",
    );
    let warnings = crate::config::warnings::of(&resources(&text), None);
    assert_eq!(
        warnings,
        [
            "example.com/gpu: the fault pre-start --delay 1s is never injected: preStart is false, so the kubelet does not call it",
            "example.com/gpu: the fault preferred --delay 1s is never injected: preferredAllocation is none, so the kubelet does not ask for it",
        ]
    );
}
