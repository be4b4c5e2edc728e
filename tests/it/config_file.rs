//! Tests the program with a config file: errors in the file, and reloads.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::process::{Running, output, program};
use crate::support::{
    A, B, DEADLINE, Manager, from_file, kubelet, plugin_dir, pod, registrations, text,
    wait_for_node,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::process::Signal;

/// A ConfigMap as the kubelet mounts it: the file is a symlink into `..data`, which is a symlink to a version.
struct ConfigMap {
    dir: tempfile::TempDir,
    version: u32,
}

impl ConfigMap {
    fn with(text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        symlink("..data/config.yaml", dir.path().join("config.yaml")).expect("a symlink");
        let mut map = Self { dir, version: 0 };
        map.update(text);
        map
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    /// Updates the file as the kubelet's atomic writer does: a new directory, then a rename of a symlink.
    fn update(&mut self, text: &str) {
        self.version += 1;
        let version = format!("..{}", self.version);
        let dir = self.dir.path();
        fs::create_dir(dir.join(&version)).expect("a version");
        fs::write(dir.join(&version).join("config.yaml"), text).expect("a file");
        symlink(&version, dir.join("..data_tmp")).expect("a symlink");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("one step");
    }
}

fn with_file(file: &Path) -> [(&'static str, &str); 1] {
    [("CONFIG_FILE", text(file))]
}

fn two_resources(of_a: usize, of_b: usize) -> String {
    format!(
        "removalGrace: 1s\nresources: [{{name: {A}, devices: {of_a}}}, {{name: {B}, devices: {of_b}}}]"
    )
}

#[test]
fn reports_every_error_with_its_line_and_starts_nothing() {
    let dir = plugin_dir();
    let map = ConfigMap::with("resources:\n- {name: gpu, devices: two}\n- {name: a/b, count: 3}\n");
    for arguments in [&[][..], &["check"], &["check", "--json"]] {
        let mut command = program(&with_file(&map.file()));
        command
            .args(arguments)
            .env("DEVICE_PLUGIN_PATH", dir.path())
            .env("NUMBER_DEVICES_3.n", "1");
        let (code, stdout, stderr) = output(&mut command);
        assert_eq!((code, &*stdout), (Some(78), ""), "{stderr}");
        let file = map.file().display().to_string();
        let starts = [
            "error: NUMBER_DEVICES_3.n=\"1\": expected to be unset, because CONFIG_FILE defines"
                .to_owned(),
            format!(
                "error: {file}:2: devices=\"two\": expected a whole number, 0 or more, or a list"
            ),
            format!("error: {file}:2: name=\"gpu\": expected a name with one '/'"),
            format!("error: {file}:3: count: expected one of the keys name, devices"),
            "4 errors in the configuration".to_owned(),
        ];
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), starts.len(), "{stderr}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(&start), "{line}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
}

#[test]
fn check_prints_the_resources_of_any_node() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/001-three-resources/config.yaml");
    let check = |arguments: &[&str]| {
        let (code, stdout, stderr) =
            output(program(&with_file(&file)).arg("check").args(arguments));
        assert_eq!(code, Some(0), "{stderr}");
        stdout
    };
    let text = check(&["--node", "kind-worker2"]);
    assert!(
        text.contains("devices           3: /node2/dev3/1 … /node2/dev3/3"),
        "{text}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&check(&["--node", "kind-worker2", "--json"])).expect("JSON");
    assert_eq!(json["node"], "kind-worker2");
    assert_eq!(json["resources"][2]["devices"][1]["id"], "/node2/dev3/2");
    assert_eq!(
        json["resources"][2]["oneDeviceGives"]["env"]["DEV_3_ID_0"],
        "/node2/dev3/1"
    );
    assert_eq!(check(&["--json"]), check(&["--json"]), "the same each time");
}

#[tokio::test]
async fn applies_changes_of_a_configmap_and_refuses_an_invalid_one() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut map = ConfigMap::with(&two_resources(2, 3));
    let running = Running::manager(dir.path(), &with_file(&map.file()));
    wait_for_node(&kubelet, A, 2, 2).await;
    wait_for_node(&kubelet, B, 3, 3).await;
    kubelet.admit(&pod("p", &[(A, 2)])).await.expect("admitted");

    map.update(&two_resources(1, 4));
    // The pod keeps its device, so it stays in the list. The other resource is not affected.
    wait_for_node(&kubelet, A, 2, 1).await;
    wait_for_node(&kubelet, B, 4, 4).await;

    map.update("resources:\n- {name: example.com/a, devices: many}\n");
    running.wait_for_log("config.yaml:2: devices=\"many\": expected a whole number");
    running
        .wait_for_log("1 error in the configuration: the previous configuration stays in effect");
    map.update(&two_resources(2, 5));
    wait_for_node(&kubelet, B, 5, 5).await;
    wait_for_node(&kubelet, A, 2, 2).await;
    assert_eq!(registrations(&kubelet, A), 1);
    assert_eq!(registrations(&kubelet, B), 1);
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code(), Some(0));
}

#[tokio::test]
async fn reloads_a_file_that_is_written_or_replaced_and_at_sighup() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("c.yaml");
    fs::write(&file, two_resources(1, 1)).expect("a file");
    let running = Running::manager(dir.path(), &with_file(&file));
    wait_for_node(&kubelet, A, 1, 1).await;
    fs::write(&file, two_resources(2, 1)).expect("a file");
    wait_for_node(&kubelet, A, 2, 2).await;
    let replacement = home.path().join("new");
    fs::write(&replacement, two_resources(3, 1)).expect("a file");
    fs::rename(replacement, &file).expect("one step");
    wait_for_node(&kubelet, A, 3, 3).await;
    running.signal(Signal::HUP);
    running.wait_for_log("reloaded the config file, no changes");

    fs::remove_file(&file).expect("a file");
    running.signal(Signal::HUP);
    running.wait_for_log("expected a readable file: No such file or directory");
    fs::write(&file, two_resources(4, 1)).expect("a file");
    wait_for_node(&kubelet, A, 4, 4).await;
}

#[test]
fn warns_about_misspelled_variables_with_and_without_a_config_file() {
    let dir = plugin_dir();
    let map = ConfigMap::with(&two_resources(1, 1));
    let file = map.file();
    let misspelled = ("NUMBER_DEVICE", "3");
    let warning = "NUMBER_DEVICE: unknown variable, ignored; did you mean NUMBER_DEVICES?";
    for variables in [&[misspelled][..], &[misspelled, with_file(&file)[0]]] {
        let (code, stdout, stderr) = output(program(variables).arg("check"));
        assert_eq!((code, &*stderr), (Some(0), ""));
        assert!(stdout.contains(&format!("warning: {warning}")), "{stdout}");
        Running::manager(dir.path(), variables).wait_for_log(warning);
    }
    // A reload cannot change the variables, so it does not warn about them again.
    let running = Running::manager(dir.path(), &[misspelled, with_file(&file)[0]]);
    running.wait_for_log(warning);
    running.signal(Signal::HUP);
    let mut line = String::new();
    while !line.contains("reloaded the config file") {
        line = running.stderr.recv_timeout(DEADLINE).expect("a line");
        assert!(!line.contains(warning), "{line}");
    }
    let with_error = [misspelled, ("NUMA_NODES", "x")];
    let (code, _, stderr) = output(program(&with_error).arg("check"));
    assert_eq!(code, Some(78));
    let lines = format!("warning: {warning}\nerror: NUMA_NODES=\"x\": expected ");
    assert!(stderr.starts_with(&lines), "{stderr}");
    let (_, _, stderr) = output(program(&with_error).args(["check", "--yaml"]));
    assert!(stderr.starts_with(&lines), "{stderr}");
    let (code, stdout, _) = output(program(&[misspelled]).args(["check", "--yaml"]));
    assert_eq!(code, Some(0));
    assert!(
        stdout.starts_with(&format!("# warning: {warning}\nresources:\n")),
        "{stdout}"
    );
}

/// Generates valid config files.
fn any_file() -> impl Strategy<Value = String> {
    let id = "[a-zA-Z0-9/_.-]{1,12}";
    let device = (id, prop::bool::ANY, prop::collection::vec(0_u16..4, 0..3));
    let listed = prop::collection::btree_map(id, device, 0..6).prop_map(|devices: BTreeMap<_, _>| {
        let device = |(id, (path, healthy, numa)): (String, (String, bool, Vec<u16>))| {
            let health = if healthy { "Healthy" } else { "Unhealthy" };
            format!("{{id: '{id}', path: '/dev/{path}', health: {health}, numa: {numa:?}, attributes: {{kind: '{path}'}}}}")
        };
        let devices: Vec<String> = devices.into_iter().map(device).collect();
        format!(
            "devices: [{}], env: {{'D_{{position}}': '{{id}} {{kind|upper}}', ALL: '{{paths}}'}}",
            devices.join(", ")
        )
    });
    let counted = (0_usize..40, "[a-z]{0,4}", prop::collection::vec(0_u16..4, 0..3)).prop_map(|(count, prefix, numa)| {
        format!("devices: {count}, deviceIdPrefix: '{prefix}', numaNodes: {numa:?}, envPrefix: E, mounts: [{{hostPath: /dev/null}}]")
    });
    let more = prop::sample::select(vec![
        "",
        ", preStart: true",
        ", preferredAllocation: spread",
        ", pluginName: own-INDEX",
    ]);
    prop::collection::vec((prop_oneof![listed, counted], more), 0..6).prop_map(|resources| {
        let mut text = "resources:\n".to_owned();
        for (index, (keys, more)) in resources.iter().enumerate() {
            let more = more.replace("INDEX", &index.to_string());
            writeln!(text, "- {{name: example.com/r{index}, {keys}{more}}}").expect("memory");
        }
        if resources.is_empty() {
            text.clear();
            text.push_str("resources: []");
        }
        text
    })
}

#[test]
fn every_valid_file_registers_all_devices() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let cases = proptest::test_runner::Config {
        cases: 24,
        failure_persistence: None,
        ..Default::default()
    };
    let outcome = TestRunner::new(cases).run(&any_file(), |text| {
        runtime.block_on(async {
            let dir = plugin_dir();
            let kubelet = kubelet(dir.path());
            let resources = from_file(&text);
            let manager = Manager::of(dir.path(), resources.clone());
            for resource in &resources {
                let devices = resource.devices.as_slice();
                let healthy = devices
                    .iter()
                    .filter(|device| device.is_allocatable())
                    .count();
                wait_for_node(&kubelet, resource.name.as_str(), devices.len(), healthy).await;
            }
            manager.stop().await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn the_documented_example_is_valid() {
    let page = include_str!("../../docs/config-file.md");
    let (_, example) = page.split_once("```yaml\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("c.yaml");
    fs::write(&file, example).expect("a file");
    let mut check = program(&with_file(&file));
    check.env("ALLOWED_HOST_PATHS", "/opt/widget").arg("check");
    let (code, stdout, stderr) = output(&mut check);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("env WIDGET_0=w0 V1"), "{stdout}");
    let (_, _, refused) = output(check.env_remove("ALLOWED_HOST_PATHS"));
    assert!(
        refused.contains("hostPath=\"/opt/widget\": expected /dev/null"),
        "{refused}"
    );
}
