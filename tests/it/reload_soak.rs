//! Soak test: random reloads while pods are admitted and deleted. It fails on a kubelet crash, a lost device, a
//! needless registration or a leak.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::process::run_in_own_process;
use crate::support::soak::{alive_tasks, count, descriptors, seed};
use crate::support::{
    DEADLINE, Manager, assert_alive, from_file, held, plugin_dir, pod, registrations,
    strict_kubelet, wait_for_node, within,
};
use fastrand::Rng;
use kubelet_sim::Kubelet;
use simple_device_plugin::offer::resource::Resource;

/// The default number of reloads, which the variable `RELOADS` overrides. `make soak` runs 1,000.
const RELOADS: usize = 30;
const RESOURCES: [&str; 4] = [
    "example.com/a",
    "example.com/b",
    "example.com/c",
    "example.com/d",
];

#[tokio::test]
async fn random_reloads_leak_nothing() {
    if !run_in_own_process("reload_soak::random_reloads_leak_nothing") {
        return;
    }
    let seed = seed("RELOAD_SEED");
    eprintln!("RELOAD_SEED={seed}");
    let mut test = ReloadTest::start(seed).await;
    let (tasks_before, descriptors_before) = (alive_tasks(), descriptors());
    let reloads = count("RELOADS", RELOADS);
    while test.reloads < reloads {
        test.step().await;
    }
    let test = test.settle().await;
    // Streams and sockets are closed shortly after their last use.
    let leaked = || {
        (
            alive_tasks().saturating_sub(tasks_before),
            descriptors().saturating_sub(descriptors_before),
        )
    };
    let all_closed = async {
        while leaked() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let closed = tokio::time::timeout(DEADLINE, all_closed).await;
    assert!(
        closed.is_ok(),
        "leaked tasks and descriptors: {:?}",
        leaked()
    );
    test.manager.stop().await;
}

struct ReloadTest {
    rng: Rng,
    kubelet: Kubelet,
    manager: Manager,
    configured: Vec<Resource>,
    /// The device IDs that each pod holds.
    pods: BTreeMap<String, Vec<String>>,
    /// The expected number of Register calls, by resource.
    expected: BTreeMap<String, u64>,
    next_pod: u32,
    reloads: usize,
    _dir: tempfile::TempDir,
}

impl ReloadTest {
    async fn start(seed: u64) -> Self {
        let dir = plugin_dir();
        let kubelet = strict_kubelet(dir.path());
        let configured = full_config();
        let manager = Manager::of(dir.path(), configured.clone());
        let mut test = Self {
            rng: Rng::with_seed(seed),
            kubelet,
            manager,
            configured,
            pods: BTreeMap::new(),
            expected: RESOURCES.map(|name| (name.to_owned(), 1)).into(),
            next_pod: 0,
            reloads: 0,
            _dir: dir,
        };
        test.all_registered().await;
        test
    }

    async fn step(&mut self) {
        match self.rng.u8(..8) {
            0..=3 => self.reload().await,
            4 | 5 => self.admit().await,
            6 => self.delete(),
            _ => self.admit_again().await,
        }
        for (pod, devices) in &self.pods {
            assert_eq!(held(&self.kubelet, pod), *devices, "{pod} lost a device");
        }
        assert_alive(&self.kubelet);
    }

    async fn reload(&mut self) {
        self.reloads += 1;
        let configured = random(&mut self.rng);
        self.apply(configured).await;
    }

    /// Applies a configuration, and waits until the kubelet shows it.
    async fn apply(&mut self, configured: Vec<Resource>) {
        for resource in &configured {
            let mut before = self.configured.iter();
            let before = before.find(|before| before.name == resource.name);
            if before.is_none_or(|before| !before.registers_like(resource)) {
                *self.expected.entry(resource.name.to_string()).or_default() += 1;
            }
        }
        self.configured.clone_from(&configured);
        self.manager.reconfigure(configured);
        self.all_registered().await;
    }

    /// Waits until the kubelet shows every configured resource with the expected number of registrations, and no device
    /// of the other resources.
    async fn all_registered(&mut self) {
        for name in RESOURCES {
            let is_configured = self
                .configured
                .iter()
                .any(|resource| resource.name.as_str() == name);
            let mut node = self.kubelet.node();
            let removed = node.wait_for(|node| {
                is_configured || node.get(name).is_none_or(|shown| shown.allocatable == 0)
            });
            within(name, removed).await.expect("a kubelet");
        }
        for resource in &self.configured {
            let name = resource.name.as_str();
            let expected = self.expected[name];
            let mut counts = self.kubelet.registrations();
            let counted =
                counts.wait_for(|counts| counts.get(name).copied().unwrap_or(0) >= expected);
            within(name, counted).await.expect("a kubelet");
            let mut node = self.kubelet.node();
            let healthy = resource.devices.len();
            let shown = node.wait_for(|node| {
                node.get(name)
                    .is_some_and(|shown| shown.allocatable == healthy)
            });
            within(name, shown).await.expect("a kubelet");
            assert_eq!(
                registrations(&self.kubelet, name),
                expected,
                "{name} registered needlessly"
            );
        }
    }

    async fn admit(&mut self) {
        let count = self.rng.usize(1..3);
        let resource = *self.rng.choice(&RESOURCES).expect("a resource");
        self.next_pod += 1;
        let pod = pod(&format!("p{}", self.next_pod), &[(resource, count)]);
        // The kubelet may reject the pod: too few devices, or devices on two NUMA nodes.
        if self.kubelet.admit(&pod).await.is_ok() && !held(&self.kubelet, &pod.name).is_empty() {
            self.pods
                .insert(pod.name.clone(), held(&self.kubelet, &pod.name));
        }
    }

    /// Admits every pod again, as an in-place resize does: the list must have every device that the pod holds.
    async fn admit_again(&mut self) {
        for name in self.pods.keys() {
            self.kubelet
                .admit(&pod(name, &[]))
                .await
                .expect("the pod keeps its devices");
        }
    }

    fn delete(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        if let Some(name) = self.rng.choice(&names) {
            self.kubelet.delete(name);
            self.pods.remove(name);
        }
    }

    /// Deletes all pods, restores the first configuration, and restarts the kubelet. The restart closes connections
    /// that the old kubelet leaked, as a real one does when a reload interrupts a registration.
    async fn settle(mut self) -> Self {
        for pod in std::mem::take(&mut self.pods).into_keys() {
            self.kubelet.delete(&pod);
        }
        self.apply(full_config()).await;
        for name in RESOURCES {
            wait_for_node(&self.kubelet, name, 4, 4).await;
        }
        self.kubelet = self.kubelet.restart().await.expect("a kubelet");
        self.expected = RESOURCES.map(|name| (name.to_owned(), 1)).into();
        self.all_registered().await;
        self
    }
}

fn full_config() -> Vec<Resource> {
    let each = RESOURCES.map(|name| format!("{{name: {name}, devices: 4, numaNodes: [0, 1]}}"));
    from_file(&format!("resources: [{}]", each.join(", ")))
}

fn random(rng: &mut Rng) -> Vec<Resource> {
    let mut resources = Vec::new();
    for name in RESOURCES {
        if rng.u8(..8) == 0 {
            continue;
        }
        let devices = rng.u8(..8);
        let options = *rng
            .choice(&[
                "",
                "",
                "",
                "preStart: true,",
                "preferredAllocation: packed,",
            ])
            .expect("a choice");
        let env = rng
            .choice(&["{}", "{A: b}", "{'D_{id|alnum}': '{numa}'}"])
            .expect("a choice");
        resources.push(format!(
            "{{name: {name}, {options} devices: {devices}, numaNodes: [0, 1], env: {env}}}"
        ));
    }
    let mut resources = from_file(&format!("resources: [{}]", resources.join(", ")));
    for resource in &mut resources {
        resource.removal_grace = Duration::from_millis(u64::from(rng.u8(20..60)));
    }
    resources
}
