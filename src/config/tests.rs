//! Tests that read a configuration from variables.

use super::*;
use proptest::prelude::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), value.into());
    pairs.iter().map(owned).collect()
}

fn config(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let host = Host {
        hostname: Some("n".to_owned()),
        numa: "0".parse().ok(),
        ..Host::default()
    };
    Config::from_variables(&environment(pairs), &host)
}

fn sockets(pairs: &[(&str, &str)]) -> Vec<String> {
    let config = config(pairs).expect("a valid configuration");
    let socket = |resource: &Resource| resource.socket.to_string();
    config.plugins.resources.iter().map(socket).collect()
}

#[track_caller]
fn refused(pairs: &[(&str, &str)], expected: &str) {
    let errors = config(pairs).expect_err("no error").to_string();
    assert_eq!(errors, expected);
}

#[test]
fn has_defaults_without_any_variable() {
    let config = config(&[]).unwrap();
    let resource = &config.plugins.resources[0];
    assert_eq!(resource.name.as_str(), "example.com/simple-device");
    assert_eq!(resource.socket.as_str(), "simple-device-plugin.sock");
    let ids: Vec<&str> = resource.devices.as_slice().iter().map(|d| &*d.id).collect();
    assert_eq!(ids, ["simple-device-n-0", "simple-device-n-1"]);
    assert_eq!(
        config.plugin_dir.to_str(),
        Some("/var/lib/kubelet/device-plugins")
    );
    assert_eq!(config.namespace, "simple-device-plugin");
    assert!(config.warnings.is_empty());
}

#[test]
fn default_id_prefix_of_several_resources_is_the_resource_name() {
    let config = config(&[("RESOURCE_NAME", "a/x,a/y"), ("DEVICE_ID_PREFIX", "p,")]).unwrap();
    let first = |resource: &Resource| resource.devices.as_slice()[0].id.to_string();
    let firsts: Vec<String> = config.plugins.resources.iter().map(first).collect();
    assert_eq!(firsts, ["p-n-0", "y-n-0"]);
}

#[test]
fn a_shared_plugin_name_is_extended_by_the_resource_name() {
    let two = ("RESOURCE_NAME", "a/x,a/y");
    assert_eq!(sockets(&[("PLUGIN_NAME", "w")]), ["w.sock"]);
    assert_eq!(
        sockets(&[two, ("PLUGIN_NAME", "w")]),
        ["w-a_x.sock", "w-a_y.sock"]
    );
    assert_eq!(
        sockets(&[two, ("PLUGIN_NAME", "w,v")]),
        ["w.sock", "v.sock"]
    );
    assert_eq!(
        sockets(&[two, ("PLUGIN_NAME_0", "w")]),
        ["w.sock", "simple-device-plugin-a_y.sock"]
    );
    assert_eq!(
        sockets(&[two, ("PLUGIN_NAME", ",v")]),
        ["simple-device-plugin-a_x.sock", "v.sock"]
    );
}

#[test]
fn refuses_variables_above_the_limits() {
    let names = |count| {
        let names: Vec<String> = (0..count).map(|i| format!("a/r{i}")).collect();
        names.join(",")
    };
    assert_eq!(
        config(&[("RESOURCE_NAME", &names(1000))])
            .unwrap()
            .plugins
            .resources
            .len(),
        1000
    );
    refused(
        &[("RESOURCE_NAME", &names(1001)), ("ENV_PREFIX", "X")],
        "RESOURCE_NAME=\"a/r1000\": expected at most 1000 resources",
    );
    refused(
        &[("RESOURCE_NAME", &names(31)), ("NUMBER_DEVICES", "10000")],
        "NUMBER_DEVICES=\"10000\": expected at most 300000 devices for all resources together",
    );
    // Splitting each list once for each resource would take many seconds here.
    let lists = |count| {
        let list = |value: &str| vec![value; count].join(",");
        let (of_all, off) = (list("1"), list(""));
        let names = names(count);
        config(&[
            ("RESOURCE_NAME", &names),
            ("NUMBER_DEVICES", &of_all),
            ("NUMA_NODES", &of_all),
            ("DEVICE_ID_PREFIX", &of_all),
            ("ENV_PREFIX", &off),
            ("PREFERRED_ALLOCATION", &off),
        ])
    };
    assert_eq!(lists(1000).unwrap().plugins.resources.len(), 1000);
    let errors = lists(4000).expect_err("no error").to_string();
    assert!(errors.contains("at most 1000 resources"), "{errors}");
    let long = "x".repeat(4097);
    let errors = config(&[("ANNOTATION_PREFIX", &long)]).expect_err("no error");
    assert_eq!(errors.as_slice()[0].expected, "at most 4096 bytes");
}

#[test]
fn reports_every_error_at_once() {
    let pairs = [
        ("RESOURCE_NAME", "gpu,a/y,a/y"),
        ("NUMBER_DEVICES", "two,1,300000"),
        ("PLUGIN_NAME", "kubelet,v,v"),
        ("ENV_PREFIX", "A=B"),
        ("DEVICE_FILE_PREFIX", "../x,/y,"),
        ("DEVICE_FILE_HOST_PATH", "dev/null"),
        ("NUMA_NODES", "0-,1024,1-0"),
        ("PREFERRED_ALLOCATION", "best"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "loud"),
        ("ALLOWED_HOST_PATHS", "/opt, opt"),
        ("DEVICE_PLUGIN_PATH", "plugins"),
    ];
    let errors: Vec<String> = config(&pairs)
        .expect_err("no error")
        .as_slice()
        .iter()
        .map(|error| match &error.place {
            Place::Variable(name) => {
                format!("{name}={}", error.value.as_deref().unwrap_or_default())
            }
            Place::File { .. } => panic!("{error}"),
        })
        .collect();
    assert_eq!(
        errors,
        [
            "RUST_LOG=loud",
            "LOG_FORMAT=xml",
            "ALLOWED_HOST_PATHS= opt",
            "DEVICE_PLUGIN_PATH=plugins",
            "NUMBER_DEVICES=two",
            "NUMA_NODES=0-",
            "PREFERRED_ALLOCATION=best",
            "NUMA_NODES=1024",
            "NUMA_NODES=1-0",
            "RESOURCE_NAME=gpu",
            "PLUGIN_NAME=kubelet",
            "ENV_PREFIX=A=B",
            "DEVICE_FILE_PREFIX=../x",
            "DEVICE_FILE_HOST_PATH=dev/null",
            "DEVICE_FILE_PREFIX=/y",
            "RESOURCE_NAME=a/y",
            "PLUGIN_NAME=v",
            "NUMBER_DEVICES=300000",
        ]
    );
}

#[test]
fn refuses_duplicate_names_and_sockets() {
    refused(
        &[("RESOURCE_NAME", "a/x,a/x"), ("PLUGIN_NAME", "v,w")],
        "RESOURCE_NAME=\"a/x\": expected each resource only once; it is already set in RESOURCE_NAME",
    );
    // The default socket, which is made from the name, is no further error.
    refused(
        &[("RESOURCE_NAME", "a/x,a/x")],
        "RESOURCE_NAME=\"a/x\": expected each resource only once; it is already set in RESOURCE_NAME",
    );
    refused(
        &[("RESOURCE_NAME", "a/x,a/y"), ("PLUGIN_NAME", "v,v")],
        "PLUGIN_NAME=\"v\": expected a unique name; PLUGIN_NAME already uses the socket v.sock",
    );
    refused(
        &[("RESOURCE_NAME", "a/x,")],
        "RESOURCE_NAME=\"a/x,\": expected a resource name in each element; the element with index 1 is empty",
    );
}

#[test]
fn refuses_a_list_that_is_too_large_for_the_kubelet() {
    for (count, start) in [
        ("200000", "at most 1"),
        ("99999999999999999999", "at most 300000 devices"),
    ] {
        let errors = config(&[("NUMBER_DEVICES", count)]).expect_err("no error");
        let [error] = errors.as_slice() else {
            panic!("{errors}")
        };
        assert!(error.expected.starts_with(start), "{error}");
        assert_eq!(error.value.as_deref(), Some(count));
    }
}

#[test]
fn refuses_a_plugin_directory_with_too_long_a_path() {
    let long = format!("/{}", "d".repeat(90));
    let errors = config(&[("DEVICE_PLUGIN_PATH", &long)]).expect_err("no error");
    assert!(
        errors
            .to_string()
            .contains("would have a path of 117 bytes, and a socket can have at most 107"),
        "{errors}"
    );
}

#[test]
fn refuses_invalid_utf8_in_its_own_variables_only() {
    use std::os::unix::ffi::OsStringExt;
    let invalid = || std::ffi::OsString::from_vec(vec![b'a', 0xff]);
    let mut environment = environment(&[]);
    environment.insert("HOME".to_owned(), invalid());
    environment.insert("ENV_PREFIX.other".to_owned(), invalid());
    let host = Host {
        hostname: Some("n".to_owned()),
        numa: None,
        ..Host::default()
    };
    assert!(Config::from_variables(&environment, &host).is_ok());
    environment.insert("ENV_PREFIX".to_owned(), invalid());
    let errors = Config::from_variables(&environment, &host).expect_err("no error");
    assert_eq!(
        errors.to_string(),
        "ENV_PREFIX=\"a\u{fffd}\": expected valid UTF-8"
    );
    environment.insert("LOG_FORMAT".to_owned(), invalid());
    let errors = Config::from_variables(&environment, &host).expect_err("no error");
    assert_eq!(errors.as_slice().len(), 2, "{errors}");
}

#[test]
fn reports_invalid_utf8_once() {
    use std::os::unix::ffi::OsStringExt;
    let host = Host::default();
    for name in ["RESOURCE_NAME", "NUMBER_DEVICES", "NUMA_NODES.n"] {
        let value = std::ffi::OsString::from_vec(vec![b',', 0xff]);
        let mut environment = environment(&[("NODE_NAME", "n")]);
        environment.insert(name.to_owned(), value);
        let errors = Config::from_variables(&environment, &host).expect_err("no error");
        let expected = format!("{name}=\",\u{fffd}\": expected valid UTF-8");
        assert_eq!(errors.to_string(), expected);

        let file = FileText {
            name: "c.yaml".to_owned(),
            content: Ok(b"resources: []".to_vec()),
        };
        let errors = Config::read(&environment, Some(&file), &host).expect_err("no error");
        let expected = "to be unset, because CONFIG_FILE defines the resources";
        assert_eq!(errors.as_slice().len(), 1, "{errors}");
        assert_eq!(errors.as_slice()[0].expected, expected);
    }
    let mut environment = environment(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]);
    environment.insert(
        "NODE_NAME".to_owned(),
        std::ffi::OsString::from_vec(vec![0xff]),
    );
    let errors = Config::from_variables(&environment, &host).expect_err("no error");
    assert_eq!(
        errors.to_string(),
        "NODE_NAME=\"\u{fffd}\": expected valid UTF-8"
    );
}

#[test]
fn warns_about_conflicting_resources() {
    let pairs = [
        ("RESOURCE_NAME", "a/x,b/x"),
        ("DEVICE_ID_PREFIX", &"p".repeat(60)),
        ("ENV_PREFIX", "E"),
        ("ANNOTATION_PREFIX", "n"),
        ("DEVICE_FILE_PREFIX", "f"),
        ("NUMA_NODES", "0-1,"),
    ];
    let warnings = config(&pairs).unwrap().warnings;
    let starts = [
        "a/x: device ID ppp",
        "b/x: device ID ppp",
        "a/x and b/x share the device ID ppp",
        "a/x and b/x share the environment variable E_0: a container",
        "a/x and b/x share the annotation n-0: a container",
        "a/x and b/x share the container path /dev/f-0: a container",
        "a/x: this host has no NUMA node 1;",
    ];
    assert_eq!(warnings.len(), starts.len(), "{warnings:#?}");
    for (warning, start) in warnings.iter().zip(starts) {
        assert!(warning.starts_with(start), "{warning}");
    }
}

#[test]
fn warns_about_variables_without_an_effect() {
    let warnings = |pairs: &[(&str, &str)]| -> Vec<String> {
        config(pairs).unwrap().all_warnings().cloned().collect()
    };
    let host_path = ("DEVICE_FILE_HOST_PATH", "/dev/null");
    assert_eq!(
        warnings(&[
            ("RESOURCE_NAME", "a/x,a/y"),
            host_path,
            ("ALLOWED_HOST_PATHS", "/opt"),
            ("NUM_DEVICES", "1"),
        ]),
        [
            "DEVICE_FILE_HOST_PATH has no effect without DEVICE_FILE_PREFIX",
            "ALLOWED_HOST_PATHS has no effect without CONFIG_FILE",
            "NUM_DEVICES: unknown variable, ignored; did you mean NUMBER_DEVICES?",
        ]
    );
    let with_prefix = [
        ("RESOURCE_NAME", "a/x,a/y"),
        host_path,
        ("DEVICE_FILE_PREFIX", "x,"),
    ];
    assert_eq!(warnings(&with_prefix), [""; 0]);
}

/// Measured: the kubelet cannot receive the response for 45,000 of these devices.
#[test]
fn warns_about_more_devices_than_one_response_can_contain() {
    let with_outputs = |count: &str| {
        let pairs = [
            ("NUMBER_DEVICES", count),
            ("ENV_PREFIX", "GPU"),
            ("ANNOTATION_PREFIX", "example.com/gpu"),
            ("DEVICE_FILE_PREFIX", "gpu"),
        ];
        config(&pairs).unwrap().warnings
    };
    let [warning] = &*with_outputs("50000") else {
        panic!("expected one warning");
    };
    let (_, after) = warning.split_once(" more than ").expect("a count");
    let (fit, _) = after
        .split_once(" of the 50000 devices: ")
        .expect("a count");
    assert!(
        (25_000..45_000).contains(&fit.parse::<usize>().unwrap()),
        "{fit}"
    );
    assert!(with_outputs(fit).is_empty());
}

fn any_name() -> impl Strategy<Value = String> {
    let base = prop::sample::select(variables::names::RESOURCE_VARIABLES.to_vec());
    (base, "(_[0-9]{1,2})?", "(\\.n|\\.m)?").prop_map(|(b, i, n)| format!("{b}{i}{n}"))
}

proptest! {
    #[test]
    fn does_not_panic_and_accepts_only_unique_names_and_sockets(
        pairs in prop::collection::btree_map(any_name(), "[ -~]{0,12}|[a-c]/[x-z](,[a-c]/[x-z]){0,2}|[0-9](,[0-9]){0,2}", 0..12),
    ) {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (&**n, &**v)).collect();
        match config(&pairs) {
            Err(errors) => prop_assert!(!errors.as_slice().is_empty()),
            Ok(config) => {
                let names: std::collections::BTreeSet<_> = config.plugins.resources.iter().map(|r| &r.name).collect();
                let sockets: std::collections::BTreeSet<_> = config.plugins.resources.iter().map(|r| &r.socket).collect();
                prop_assert!(!config.plugins.resources.is_empty());
                prop_assert_eq!(names.len(), config.plugins.resources.len());
                prop_assert_eq!(sockets.len(), config.plugins.resources.len());
            }
        }
    }

    /// Each ID is found again and belongs to one device.
    #[test]
    fn device_ids_are_deterministic(prefix in "[!-+--~]{1,20}", count in 0_usize..300) {
        let pairs = [("DEVICE_ID_PREFIX", &*prefix), ("NUMBER_DEVICES", &count.to_string())];
        let devices = config(&pairs).unwrap().plugins.resources.remove(0).devices;
        prop_assert_eq!(devices.len(), count);
        for (index, device) in devices.as_slice().iter().enumerate() {
            prop_assert_eq!(&*device.id, format!("{prefix}-n-{index}"));
            prop_assert_eq!(devices.get(&device.id), Some(device));
        }
    }
}

/// The rows of the tables in docs/variables.md whose first cell is a variable: the name, and the default if it is one
/// value.
fn documented_variables() -> Vec<(&'static str, Option<&'static str>)> {
    fn code(cell: &'static str) -> Option<&'static str> {
        cell.trim().strip_prefix('`')?.split('`').next()
    }
    let rows = include_str!("../../docs/variables.md").lines();
    let cells = rows.filter_map(|row| {
        let mut cells = row.strip_prefix("| ")?.split('|');
        Some((code(cells.next()?)?, code(cells.next()?)))
    });
    let is_variable = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    cells.filter(|(name, _)| is_variable(name)).collect()
}

#[test]
fn the_docs_list_every_variable() {
    let mut documented: Vec<&str> = documented_variables()
        .iter()
        .map(|(name, _)| *name)
        .collect();
    let mut known = [
        &variables::names::RESOURCE_VARIABLES[..],
        &program::PROGRAM_VARIABLES,
    ]
    .concat();
    documented.sort_unstable();
    known.sort_unstable();
    assert_eq!(documented, known);
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let read = |variables: &[(&str, &str)]| {
        let mut config = config(variables).unwrap();
        // Without RUST_LOG, the levels are None.
        config.logs.levels = None;
        format!("{config:?}")
    };
    let mut count = 0;
    for (name, default) in documented_variables() {
        if let Some(default) = default {
            assert_eq!(read(&[(name, default)]), read(&[]), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 12);
}
