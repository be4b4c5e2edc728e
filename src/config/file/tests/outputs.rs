//! Tests of what a container gets.

use super::{EXAMPLE, allocate_all, errors_of, pairs, plugins, refused, resources};
use crate::model::device::Health;

#[test]
fn evaluates_templates_for_each_device() {
    let mut widget = resources(EXAMPLE).remove(1);
    let devices = std::sync::Arc::make_mut(&mut widget.devices);
    devices.set_health("w0", Health::Healthy).unwrap();
    let allocation = allocate_all(&widget);
    assert_eq!(
        pairs(&allocation.envs),
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
    assert_eq!(
        pairs(&allocation.annotations)[1],
        "widget.example/1=010 on n"
    );
    assert_eq!(allocation.device_files[2].container_path, "/dev/widget-2");
    assert_eq!(allocation.device_files[2].permissions, "r");
    let mounts: Vec<_> = allocation
        .mounts
        .iter()
        .map(|m| (&*m.host_path, &*m.container_path, m.read_only))
        .collect();
    assert_eq!(mounts[0], ("/opt/w0", "/w/w0", false));
    assert_eq!(mounts[3], ("/opt/widget", "/opt/widget", true));
    assert_eq!(allocation.cdi_devices.len(), 4);
}

#[test]
fn validates_outputs_with_each_device() {
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
            "4: env=\"{id}\": expected a placeholder of the device in the name too",
            "4: env=\"B=C\": expected a name without '='",
            "4: env=\"C_{nope}\": expected a placeholder or an attribute of the devices, not {nope}",
            "4: env=\"D_{id\": expected a '}' for every '{'",
            "4: env=\"E_{id|low}\": expected a filter (upper, alnum, uuid), not 'low'",
            "4: env=\"{paths}\": expected {path} only if every device has a path; y has none",
            "4: env=\"G_{ok}\": expected an attribute that every device has; y has no ok",
            "4: env=\"H_{sign}\": expected a name without '='; for device x it is \"H_=\"",
            "6: hostPath=\"/etc/shadow\": expected /dev/null, /dev/zero, /dev/full",
            "7: containerPath=\"/dev/../etc/passwd\": expected an absolute path without '..'",
            "7: hostPath=\"/dev/../etc/passwd\": expected /dev/null, /dev/zero, /dev/full",
            "7: permissions=\"rx\": expected one or more of r, w and m",
            "8: containerPath=\"x{index}\": expected an absolute path without '..'; for device x it is \"x0\"",
            "9: hostPath=\"/opt/{ids}\": expected a path that depends only on the device",
            "10: containerPath=\"/a\": expected a placeholder of the device, because hostPath has one",
            "11: containerPath=\"/opt/../{id}\": expected an absolute path without '..'; for device x",
            "11: hostPath=\"/opt/../{id}\": expected /dev/null",
            "12: cdiDevices=\"a.b/c\": expected the name of a CDI device",
            "13: deviceFilePrefix=\"gpu\": expected /dev/null, /dev/zero, /dev/full, /dev/random, /dev/urandom or a path under ALLOWED_HOST_PATHS; set deviceFileHostPath or ALLOWED_HOST_PATHS; for device x",
        ],
    );
}

#[test]
fn validates_outputs_without_devices() {
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

/// `{ids|uuid}` is short, but evaluating it once for each device would take minutes.
#[test]
fn evaluates_placeholders_of_all_devices_once() {
    let text = "resources: [{name: a/b, devices: 20000, annotations: {'a-{id}': '{ids|uuid}'}}]";
    let plugins = plugins(text);
    assert!(crate::config::warnings::of(&plugins, None).is_empty());
    let resource = &plugins.resources[0];
    let devices: Vec<_> = resource.devices.as_slice().iter().collect();
    let of_two = resource.outputs.of(&devices[..2]);
    let [first, second] = &*of_two.annotations else {
        panic!("expected an annotation for each device")
    };
    assert_eq!(first.1, second.1);
    assert_ne!(first.1, resource.outputs.of(&devices[..1]).annotations[0].1);
}
