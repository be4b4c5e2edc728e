//! Faults on demand, with the program as a process over the embedded kubelet: what a user would see of each.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::fakes::dial;
use crate::support::http::Http;
use crate::support::steered::{FOUR, GPU, Node};
use crate::support::{Manager, held, pod, registrations, resources, shows, until, within};
use kubelet_sim::AdmissionError;
use rustix::process::Signal;
use serde_json::Value;
use simple_device_plugin::api;
use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;

/// With every call that there is.
const CALLED: &str = "{removalGrace: 1s, resources: [{name: example.com/gpu, devices: 4, preferredAllocation: ordered, preStart: true}]}";

impl Node {
    async fn admits(&self, name: &str) -> Result<(), AdmissionError> {
        let pod = pod(name, &[(GPU, 1)]);
        self.kubelet.admit(&pod).await.map(drop)
    }

    /// The message of the pod's UnexpectedAdmissionError.
    #[track_caller]
    fn refused(&self, name: &str) -> impl Future<Output = String> {
        let pod = pod(name, &[(GPU, 1)]);
        async move {
            let error = self.kubelet.admit(&pod).await.expect_err("a refusal");
            assert_eq!(error.reason(), "UnexpectedAdmissionError");
            error.to_string()
        }
    }

    fn status(&self) -> Value {
        let (_, json, _) = self.does(&["status", "--json"]);
        let status: Value = serde_json::from_str(&json).expect("JSON");
        status["resources"][0].clone()
    }

    fn has_no_fault_left(&self) {
        let cleared = self.does(&["fault", "clear"]);
        assert_eq!(cleared.0, Some(0), "{}", cleared.2);
        assert_eq!(self.does(&["fault", "list"]).1, "no faults\n");
    }
}

#[tokio::test]
async fn a_slow_allocate_holds_up_its_pod_and_nothing_else() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    let set = node.does(&["fault", GPU, "allocate", "--delay", "60s", "--after", "1"]);
    assert!(
        set.1
            .contains("all of the program together by 120s within 5 minutes"),
        "{}",
        set.1
    );
    // Cleared while the call waits, this is no refusal any more.
    node.does(&[
        "fault", GPU, "allocate", "--error", "ABORTED", "--after", "1",
    ]);
    node.admits("before").await.expect("admitted");
    let began = Instant::now();
    let slow = async {
        node.admits("slow").await.expect("admitted");
        began.elapsed()
    };
    let meanwhile = async {
        until("the strike", || {
            node.does(&["fault", "list"]).1.contains("1 of 2")
        })
        .await;
        // Lists go out meanwhile, and whoever asks is answered.
        node.does(&["health", GPU, "3", "unhealthy"]);
        node.shows(4, 3).await;
        assert!(held(&node.kubelet, "slow").is_empty());
        node.has_no_fault_left();
    };
    let (took, ()) = tokio::join!(slow, meanwhile);
    // Cleared, it waits no more.
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(held(&node.kubelet, "slow"), ["gpu-n-1"]);
    assert_eq!(node.status()["faultsInjected"]["allocate"], 1);
    node.manager.says("a fault strikes: delayed, in all by 60s");
}

#[tokio::test]
async fn whoever_leaves_answers_a_delayed_call_at_once() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.does(&["fault", GPU, "allocate", "--delay", "60s"]);
    let delayed = async {
        let began = Instant::now();
        node.admits("p").await.expect("admitted");
        began.elapsed()
    };
    let leaving = async {
        until("the strike", || {
            node.status()["faultsInjected"]["allocate"] == 1
        })
        .await;
        node.manager.signal(Signal::TERM);
    };
    let (took, ()) = tokio::join!(delayed, leaving);
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(held(&node.kubelet, "p"), ["gpu-n-0"]);
    assert!(node.manager.ends().success());
}

#[tokio::test]
async fn a_refused_call_has_its_code_and_message() {
    let node = Node::with(CALLED);
    node.shows(4, 4).await;
    let refusals = [
        ("allocate", "Allocate failed: Unavailable: no luck"),
        (
            "preferred",
            "GetPreferredAllocation failed: Unavailable: no luck",
        ),
    ];
    for (what, expected) in refusals {
        let refusal = ["--error", "UNAVAILABLE", "--message", "no luck"];
        let set = format!("{GPU}: {what} --error UNAVAILABLE --message 'no luck'\n");
        node.sets(&[&["fault", GPU, what], &refusal[..]].concat(), &set);
        let told = node.refused("p").await;
        assert!(told.contains(expected), "{told}");
        node.admits(what).await.expect("once is enough");
    }
    node.does(&[
        "fault",
        GPU,
        "pre-start",
        "--error",
        "internal",
        "--times",
        "1",
    ]);
    let error = node.kubelet.start_container("allocate").await;
    let error = error.expect_err("a refusal");
    assert_eq!(error.code(), tonic::Code::Internal);
    assert_eq!(error.message(), "a fault on demand");
    node.kubelet
        .start_container("allocate")
        .await
        .expect("once is enough");
    assert_eq!(
        node.status()["faultsInjected"],
        serde_json::json!({"allocate": 1, "preferred": 1, "pre-start": 1})
    );
    let list = node.does(&["fault", "list"]).1;
    let row = "example.com/gpu  1 of 2, spent  hand    pre-start --error INTERNAL --times 1\n";
    assert!(list.contains(row), "{list}");
}

#[tokio::test]
async fn refused_options_cost_the_registration_and_it_is_tried_again() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.does(&[
        "fault", GPU, "options", "--error", "INTERNAL", "--times", "2",
    ]);
    let node = node.with_another_kubelet().await;
    node.shows(4, 4).await;
    let status = node.status();
    assert_eq!(status["faultsInjected"]["options"], 2);
    assert_eq!(status["registrations"]["registered"], 2);
}

#[tokio::test]
async fn a_dropped_stream_comes_back() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.admits("p").await.expect("admitted");
    let mut shown = node.kubelet.node();
    node.sets(&["fault", GPU, "stream"], "example.com/gpu: stream\n");
    let lost = shown.wait_for(|node| node[GPU].allocatable == 0);
    within("the loss", lost).await.expect("a kubelet");
    node.shows(4, 4).await;
    assert_eq!(registrations(&node.kubelet, GPU), 2);
    assert_eq!(held(&node.kubelet, "p"), ["gpu-n-0"]);
    let status = node.status();
    assert_eq!(status["restarts"], serde_json::json!({"fault": 1}));
    assert_eq!(status["lastError"]["what"], "a fault dropped the stream");
    assert_eq!(status["faults"][0]["struck"], 1);
    // As often as asked for.
    node.does(&["fault", GPU, "stream", "--times", "2", "--after", "1"]);
    node.does(&["fault", GPU, "stream"]);
    until("all three", || {
        node.status()["faultsInjected"]["stream"] == 4
    })
    .await;
    node.shows(4, 4).await;
}

#[tokio::test]
async fn a_registration_is_withheld_until_it_is_cleared() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.sets(
        &["fault", GPU, "registration"],
        "example.com/gpu: registration\n",
    );
    node.shows(4, 0).await;
    until("its state", || node.status()["state"] == "withheld").await;
    assert_eq!(
        node.status()["waitsFor"],
        "waits for the end of the fault that withholds its registration"
    );
    // Neither another kubelet nor other options get around it.
    let node = node.with_another_kubelet().await;
    node.reloads(&CALLED.replace("devices: 4", "devices: 3"));
    node.manager
        .says("other options or another socket: starting over");
    assert_eq!(registrations(&node.kubelet, GPU), 0);
    assert_eq!(node.status()["state"], "withheld");
    node.has_no_fault_left();
    node.shows(3, 3).await;
    assert_eq!(node.status()["faultsInjected"]["registration"], 1);
}

/// What goes by is one registration, not each of its steps; and the one that is made in the end is the one that was
/// withheld.
#[tokio::test]
async fn a_registration_is_judged_once() {
    let after = "{resources: [{name: example.com/gpu, devices: 4, faults: [{rpc: registration, after: 1, times: 9}]}]}";
    let node = Node::with(after);
    node.shows(4, 4).await;
    let judged = |node: &Node| node.status()["faults"][0]["seen"].clone();
    assert_eq!(judged(&node), 1);
    let node = node.with_another_kubelet().await;
    until("its state", || node.status()["state"] == "withheld").await;
    assert_eq!(judged(&node), 2);
    node.has_no_fault_left();
    node.shows(4, 4).await;
    let again = ["registration", "--for", "100ms", "--times", "9"];
    node.does(&[&["fault", GPU], &again[..]].concat());
    node.shows(4, 0).await;
    node.shows(4, 4).await;
    assert_eq!(judged(&node), 1);
    let status = node.status();
    assert_eq!(status["faultsInjected"]["registration"], 2);
    assert_eq!(
        status["lastError"]["what"],
        "a fault withholds the registration"
    );
    assert_eq!(status["restarts"]["fault"], 1);
    // Cleared before its time, too.
    node.does(&["fault", GPU, "registration", "--for", "24h"]);
    node.shows(4, 0).await;
    node.has_no_fault_left();
    node.shows(4, 4).await;
}

#[tokio::test]
async fn a_delayed_allocate_sees_the_devices_as_they_are_when_it_is_answered() {
    let node = Node::with(&FOUR.replace("devices: 4", "devices: 1"));
    node.shows(1, 1).await;
    node.does(&["fault", GPU, "allocate", "--delay", "60s"]);
    let delayed = node.refused("p");
    let meanwhile = async {
        until("the strike", || {
            node.status()["faultsInjected"]["allocate"] == 1
        })
        .await;
        node.does(&["devices", GPU, "0"]);
        // It is not dropped while a call may pick it.
        node.shows(1, 0).await;
        node.has_no_fault_left();
    };
    let (told, ()) = tokio::join!(delayed, meanwhile);
    assert!(told.contains("device gpu-n-0 is being removed"), "{told}");
    node.shows(0, 0).await;
    assert!(node.kubelet.crashed().borrow().is_none());
}

#[tokio::test]
async fn one_resource_is_cleared_alone() {
    let two =
        "{resources: [{name: example.com/gpu, devices: 4}, {name: example.com/nic, devices: 4}]}";
    let node = Node::with(two);
    for name in [GPU, "example.com/nic"] {
        shows(&node.kubelet, name, 4, 4).await;
        node.does(&["fault", name, "allocate", "--delay", "1s"]);
    }
    let (_, status, _) = node.does(&["status"]);
    assert!(
        status.contains("example.com/gpu has a fault; fault list shows it\n"),
        "{status}"
    );
    node.sets(
        &["fault", "clear", GPU],
        "example.com/gpu: 1 fault is cleared\n",
    );
    let list = node.does(&["fault", "list"]).1;
    assert!(
        list.contains("example.com/nic  0 of 0  hand    allocate --delay 1s\n"),
        "{list}"
    );
    assert!(!list.contains(GPU), "{list}");
    let (_, status, _) = node.does(&["status", "example.com/nic"]);
    assert!(
        status.contains("  faults         allocate --delay 1s, struck 0 of 0\n"),
        "{status}"
    );
    let cleared = "example.com/gpu: no faults\nexample.com/nic: 1 fault is cleared\n";
    node.sets(&["fault", "clear"], cleared);
}

#[tokio::test]
async fn devices_flap() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.does(&["health", GPU, "0", "unhealthy"]);
    node.does(&[
        "fault", GPU, "health", "1-2", "--up", "1s", "--down", "1s", "--times", "2",
    ]);
    let mut shown = node.kubelet.node();
    for allocatable in [1, 3, 1, 3] {
        let flapped = shown.wait_for(|node| node[GPU].allocatable == allocatable);
        within("another health", flapped).await.expect("a kubelet");
    }
    assert_eq!(node.status()["faultsInjected"]["health"], 2);
    node.does(&[
        "fault", GPU, "health", "gpu-n-3", "--up", "1s", "--down", "1h",
    ]);
    node.shows(4, 2).await;
    let (_, status, _) = node.does(&["status", GPU]);
    assert!(
        status.contains("gpu-n-3  Unhealthy, by a fault\n"),
        "{status}"
    );
    assert!(
        status.contains("gpu-n-0  Unhealthy, overridden\n"),
        "{status}"
    );
    node.sets(
        &["health", GPU, "3", "healthy"],
        "example.com/gpu: set gpu-n-3 to Healthy; a fault keeps it Unhealthy\n",
    );
    // With fewer devices those that are left flap.
    node.does(&["config", GPU]);
    node.does(&["fault", GPU, "health", "1-3", "--up", "1s", "--down", "1h"]);
    node.does(&["devices", GPU, "3"]);
    node.shows(3, 1).await;
    node.has_no_fault_left();
    node.shows(3, 3).await;
    assert_eq!(registrations(&node.kubelet, GPU), 1);
}

/// Asks a resource's plugin itself.
async fn allocates(node: &Node, name: &str) {
    let socket = format!("simple-device-plugin-example.com_{name}.sock");
    let channel = dial(&node.dir.path().join(socket)).await.expect("a plugin");
    let request = api::allocation_of(vec![format!("{name}-n-0")]);
    let answer = DevicePluginClient::new(channel).allocate(request).await;
    answer.expect("an answer");
}

#[tokio::test]
async fn all_delays_together_are_bounded() {
    const NAMES: [&str; 3] = [GPU, "example.com/nic", "example.com/fpga"];
    let each = NAMES.map(|name| format!("{{name: {name}, devices: 4}}"));
    let node = Node::with(&format!("{{resources: [{}]}}", each.join(", ")));
    for name in NAMES {
        shows(&node.kubelet, name, 4, 4).await;
        node.does(&["fault", name, "allocate", "--delay", "60s"]);
    }
    // Two of 60 s are one of 60 s.
    node.does(&["fault", GPU, "allocate", "--delay", "60s"]);
    // The kubelet would ask for one after the other.
    let delayed = async { tokio::join!(allocates(&node, "gpu"), allocates(&node, "nic")) };
    let third = async {
        until("both strikes", || {
            let list = node.does(&["fault", "list"]).1;
            list.matches("1 of 1").count() == 3
        })
        .await;
        assert!(node.manager.says("a delay is cut").contains("granted=60s"));
        let admitted = allocates(&node, "fpga");
        within("an answer at once", admitted).await;
        assert!(node.manager.says("a delay is cut").contains("granted=0ns"));
        // It did not strike.
        let list = node.does(&["fault", "list"]).1;
        assert!(list.contains("example.com/fpga  0 of 1"), "{list}");
        node.has_no_fault_left();
    };
    tokio::join!(delayed, third);
    // What was not spent is free again.
    node.does(&["fault", GPU, "allocate", "--delay", "50ms", "--times", "1"]);
    node.admits("later").await.expect("admitted");
    assert_eq!(node.status()["faults"][0]["struck"], 1);
}

/// Which of twenty pods are refused.
async fn refused(node: &Node, seed: &str) -> Vec<usize> {
    node.does(&[
        "fault",
        GPU,
        "allocate",
        "--error",
        "ABORTED",
        "--probability",
        "0.5",
        "--times",
        "unlimited",
        "--seed",
        seed,
    ]);
    let mut refused = Vec::new();
    for count in 0..20 {
        match node.admits("p").await {
            Ok(()) => node.kubelet.delete("p"),
            Err(_) => refused.push(count),
        }
    }
    node.has_no_fault_left();
    refused
}

#[tokio::test]
async fn a_seed_repeats_a_run() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    let first = refused(&node, "7").await;
    assert_eq!(refused(&node, "7").await, first);
    assert_ne!(refused(&node, "8").await, first);
    // One that was made up is told.
    let (_, told, _) = node.does(&["fault", GPU, "stream", "--probability", "0"]);
    assert!(
        told.starts_with("example.com/gpu: stream --probability 0 --seed "),
        "{told}"
    );
}

const LATE: &str = "{resources: [{name: example.com/gpu, devices: 4, faults: [{rpc: registration, for: 1s}, {rpc: allocate, error: INTERNAL, times: 1}]}]}";

#[tokio::test]
async fn the_configuration_has_faults_and_config_brings_them_back() {
    let began = Instant::now();
    let node = Node::with(LATE);
    node.shows(4, 4).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    node.refused("p").await;
    node.admits("p").await.expect("once is enough");
    assert_eq!(node.status()["faults"][1]["setAtRunTime"], false);

    // What goes on is not counted anew by a reload that changes something else.
    node.reloads(&LATE.replace("devices: 4", "devices: 5"));
    node.shows(5, 5).await;
    assert_eq!(node.status()["faults"][1]["struck"], 1);
    node.admits("q").await.expect("once is enough");

    node.has_no_fault_left();
    node.does(&["fault", GPU, "allocate", "--error", "ABORTED"]);
    node.sets(&["config", GPU], "example.com/gpu: as configured\n");
    let faults = node.status()["faults"].clone();
    assert_eq!(
        faults[0]["fault"],
        serde_json::json!({"rpc": "registration", "for": "1s"})
    );
    assert_eq!(
        faults[1]["fault"],
        serde_json::json!({"rpc": "allocate", "error": "INTERNAL", "times": 1})
    );
    node.shows(5, 0).await;
    node.shows(5, 5).await;

    // Of those that change the others know nothing.
    node.reloads(&LATE.replace("INTERNAL", "ABORTED"));
    let warned = node.manager.says("a fault is configured");
    assert!(warned.contains("allocate --error ABORTED"), "{warned}");
    let told = node.refused("aborted").await;
    assert!(told.contains("Aborted"), "{told}");
    assert_eq!(node.status()["faults"][0]["struck"], 1);
    // What was cleared stays so, whatever comes beside it.
    node.has_no_fault_left();
    let more = LATE.replace("faults: [", "faults: [{rpc: preferred, delay: 1s}, ");
    node.reloads(
        &more
            .replace("INTERNAL", "ABORTED")
            .replace("devices: 4", "devices: 5"),
    );
    until("the new one", || {
        let faults = node.status()["faults"].clone();
        faults.as_array().is_some_and(|faults| faults.len() == 1)
    })
    .await;
    node.reloads("{resources: [{name: example.com/gpu, devices: 5}]}");
    node.shows(5, 5).await;
    until("no faults", || {
        node.does(&["fault", "list"]).1 == "no faults\n"
    })
    .await;
    node.admits("r").await.expect("admitted");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.refuses(
        &["fault", GPU, "stream", "--for", "1s"],
        "error: example.com/gpu: expected no for for stream\n",
    );
    node.refuses(
        &["fault", GPU, "health", "4", "--up", "1s", "--down", "1s"],
        "error: example.com/gpu: expected devices that there are: no device with the index 4: there are 4, counted from 0\n",
    );
    node.refuses(
        &["fault", "example.com/fpga", "stream"],
        "error: no resource example.com/fpga; there are: example.com/gpu\n",
    );
    node.refuses(
        &["fault", "clear", "example.com/fpga"],
        "error: no resource example.com/fpga; there are: example.com/gpu\n",
    );
    for wrong in [
        &["allocate", "--delay", "61s"][..],
        &["allocate", "--error", "OK"],
        &["allocate", "--delay", "1s", "--times", "0"],
        &["allocate", "--delay", "1s", "--probability", "2"],
        &["health", "0", "--up", "1ms", "--down", "1s"],
        &["list"],
    ] {
        assert_eq!(
            node.does(&[&["fault", GPU], wrong].concat()).0,
            Some(2),
            "{wrong:?}"
        );
    }
    assert_eq!(node.does(&["fault", "list"]).1, "no faults\n");
    let never = "example.com/gpu: pre-start --delay 1s\nnever strikes: preStart is false, so the kubelet does not call it\n";
    let (_, told, _) = node.does(&["fault", GPU, "pre-start", "--delay", "1s"]);
    assert!(told.starts_with(never), "{told}");
    for _ in 0..63 {
        assert_eq!(
            node.does(&["fault", GPU, "stream", "--probability", "0"]).0,
            Some(0)
        );
    }
    node.refuses(
        &["fault", GPU, "stream"],
        "error: example.com/gpu: 64 faults were already set at run time; `fault clear` removes them\n",
    );
}

#[tokio::test]
async fn what_struck_is_counted_for_prometheus() {
    let dir = crate::support::plugin_dir();
    let kubelet = crate::support::kubelet(dir.path());
    let manager = Manager::of(dir.path(), resources(&[("RESOURCE_NAME", GPU)]));
    shows(&kubelet, GPU, 2, 2).await;
    let http = Http::of(&manager).await;
    let (_, text) = http.get("/metrics").await;
    assert!(!text.contains("faults_injected_total{"), "{text}");
    let spec: simple_device_plugin::fault::FaultSpec =
        serde_json::from_str(r#"{"rpc": "allocate", "error": "ABORTED", "times": 2}"#)
            .expect("a spec");
    manager
        .faults(GPU)
        .set(spec.fault(None).expect("a fault"))
        .expect("room");
    let label = |count| {
        format!(
            "simple_device_plugin_faults_injected_total{{resource=\"{GPU}\",fault=\"allocate\"}} {count}\n"
        )
    };
    for struck in 0..3 {
        let (_, text) = http.get("/metrics").await;
        assert!(text.contains(&label(struck)), "{text}");
        let _ = kubelet.admit(&pod("p", &[(GPU, 1)])).await;
    }
    let (_, text) = http.get("/metrics").await;
    assert!(text.contains("code=\"Aborted\"} 2\n"), "{text}");
    manager.stop().await;
}

#[test]
fn a_check_shows_faults() {
    let dir = crate::support::plugin_dir();
    let file = dir.path().join("config.yaml");
    fs::write(&file, LATE).expect("a file");
    let check = |arguments: &[&str]| {
        let file = file.to_str().expect("UTF-8");
        let mut command = crate::support::process::program(&[("CONFIG_FILE", file)]);
        crate::support::process::output(command.arg("check").args(arguments)).1
    };
    let shown = check(&[]);
    assert!(shown.contains("  faults            registration --for 1s\n                    allocate --error INTERNAL --times 1\n"), "{shown}");
    let json: Value = serde_json::from_str(&check(&["--json"])).expect("JSON");
    assert_eq!(json["resources"][0]["faults"][0]["for"], "1s");
}
