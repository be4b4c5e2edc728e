//! A device plugin with two resources that breaks one rule of the conformance suite: the one whose ID is in [`FAULT`].
//! Faults of lists and responses are faults of the first resource only.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fs, io, process};

use futures_util::future::join_all;
use parking_lot::Mutex;
use simple_device_plugin::api::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use simple_device_plugin::api::v1beta1::registration_client::RegistrationClient;
use simple_device_plugin::api::v1beta1::{
    self, ContainerAllocateResponse, ContainerPreferredAllocationResponse, Device,
    DevicePluginOptions, Empty, ListAndWatchResponse, RegisterRequest,
};
use simple_device_plugin::cli::signals::until_signal;
use simple_device_plugin::net::own_socket::has_listener;
use simple_device_plugin::node::channel::channel_over;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

pub const FAULT: &str = "CONFORMANCE_FAULT";
/// The fault of a plugin that sends lists and prints lines without a pause.
pub const FLOOD: &str = "flood";
/// The fault of a plugin that sends an empty list before the complete one.
pub const EMPTY_FIRST_LIST: &str = "empty-first-list";
/// The fault of a plugin that registers its second resource later than the first.
pub const LATE_RESOURCE: &str = "late-resource";
/// The fault of a plugin whose endpoint begins with a slash.
pub const ENDPOINT_WITH_SLASH: &str = "endpoint-with-slash";
pub const EXITS_ON_UNKNOWN_ID: &str = "exits-on-unknown-id";
/// The fault of a plugin that ends all its streams after the first list, and does not register again.
pub const ENDS_STREAMS: &str = "ends-streams";
pub const RESOURCES: [&str; 2] = ["example.com/gpu", "example.com/nic"];

const POLL: Duration = Duration::from_millis(20);
/// How long the plugin waits before it registers again with the same kubelet.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a plugin with the fault kubelet-away waits for the kubelet. It is between the windows of the test's settings.
const AWAY: Duration = Duration::from_millis(900);
/// How long the stream of a plugin with the fault stays-registered is open.
const SHORT_STREAM: Duration = Duration::from_millis(500);
/// How much later the late resource is registered.
const LATE: Duration = Duration::from_millis(600);
/// More than 4 MiB of devices.
const HUGE: usize = 55_000;

/// Returns the command that runs the plugin, which is the test below in a process of its own.
pub fn command() -> Vec<OsString> {
    let this = env::current_exe().expect("a path");
    let arguments = ["plugin::serves", "--exact", "--nocapture"];
    let arguments = arguments.map(OsString::from);
    [this.into_os_string()]
        .into_iter()
        .chain(arguments)
        .collect()
}

#[test]
fn serves() {
    let Ok(fault) = env::var(FAULT) else { return };
    let dir = PathBuf::from(env::var_os("DEVICE_PLUGIN_PATH").expect("a directory"));
    let served = until_signal(async |signals| {
        let stop = if fault == "sigterm-exits" {
            CancellationToken::new()
        } else {
            signals.stop
        };
        let plugins = (0..RESOURCES.len()).map(|index| Plugin::new(&fault, &dir, index));
        let plugins: Vec<_> = plugins.collect();
        let all = join_all(plugins.iter().map(Plugin::run));
        let _ = stop.run_until_cancelled(all).await;
        for plugin in &plugins {
            plugin.remove_socket();
        }
        Ok(())
    });
    served.expect("a runtime");
    process::exit(0);
}

/// The identity of `kubelet.sock`.
type Kubelet = Option<(u64, i64, i64)>;

struct Plugin {
    fault: String,
    dir: PathBuf,
    socket: PathBuf,
    index: usize,
    /// The kubelet at the start of the process.
    initial: Kubelet,
    /// The number of accepted registrations.
    registrations: AtomicUsize,
    is_bound: AtomicBool,
}

impl Plugin {
    fn new(fault: &str, dir: &Path, index: usize) -> Self {
        let plugin = Self {
            fault: fault.to_owned(),
            dir: dir.to_owned(),
            socket: dir.join(format!("faulty-{index}.sock")),
            index,
            initial: kubelet(dir),
            registrations: AtomicUsize::new(0),
            is_bound: AtomicBool::new(false),
        };
        if plugin.has("registers-late-kubelet") && plugin.initial.is_none() {
            plugin.exit("there is no kubelet.sock");
        }
        let is_stale = plugin.socket.exists() && !is_served(&plugin.socket);
        if plugin.has("kill-and-start") && is_stale {
            plugin.exit("the socket exists");
        }
        plugin
    }

    fn has(&self, fault: &str) -> bool {
        self.fault == fault
    }

    /// Returns whether this is the first resource and has the fault.
    fn first_has(&self, fault: &str) -> bool {
        self.index == 0 && self.has(fault)
    }

    fn exit(&self, why: &str) -> ! {
        eprintln!("{} exits: {why}", RESOURCES[self.index]);
        process::exit(3);
    }

    fn remove_socket(&self) {
        if self.is_bound.load(Ordering::Relaxed) && !self.has("sigterm-removes-socket") {
            let _ = fs::remove_file(&self.socket);
        }
    }

    async fn run(&self) {
        let mut refused_since = None;
        let mut is_first_attempt = true;
        loop {
            let registered = self.registrations.load(Ordering::Relaxed) > 0;
            let ignored = self.has("registers-early-kubelet") && kubelet(&self.dir) == self.initial;
            let connected = UnixStream::connect(self.dir.join("kubelet.sock")).await;
            let connected = match connected {
                Ok(connected) if !ignored => connected,
                connected => {
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    let is_refused = connected
                        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
                    if self.has("stale-kubelet-socket") && is_first_attempt && is_refused {
                        self.exit("nobody listens on kubelet.sock");
                    }
                    is_first_attempt = false;
                    self.wait_for_kubelet(registered, is_refused, since).await;
                    continue;
                }
            };
            (refused_since, is_first_attempt) = (None, false);
            if !self.has("second-instance") && is_served(&self.socket) && !self.owns_socket() {
                sleep(PAUSE).await;
                continue;
            }
            self.serve(connected).await;
        }
    }

    fn owns_socket(&self) -> bool {
        self.is_bound.load(Ordering::Relaxed)
    }

    async fn wait_for_kubelet(&self, registered: bool, is_refused: bool, since: Instant) {
        if self.has("kubelet-away") && registered && since.elapsed() > AWAY {
            self.exit("the kubelet is away");
        }
        let spins = self.has("stale-kubelet-socket-idle") && !registered && is_refused
            || self.has("kubelet-away-idle") && registered;
        if spins {
            use_processor(POLL);
        } else {
            sleep(POLL).await;
        }
    }

    /// Serves the socket and registers with the kubelet at the other end of the connection. Returns when the plugin
    /// must start over.
    async fn serve(&self, connection: UnixStream) {
        let current = kubelet(&self.dir);
        let state = Arc::new(State::new(self));
        if self.first_has("socket-ready-to-register") {
            let mut server = None;
            let serve = async {
                sleep(Duration::from_secs(1)).await;
                server = Some(self.bind(&state));
            };
            let ((), registered) = tokio::join!(serve, self.register(connection, &state));
            if registered.is_ok() {
                self.until_changed(current, &state).await;
            }
            drop(server);
            return;
        }
        let server = self.bind(&state);
        if self.has(LATE_RESOURCE) && self.index == 1 {
            sleep(LATE).await;
        }
        match self.register(connection, &state).await {
            Ok(()) => self.until_changed(current, &state).await,
            Err(status) => self.handle_refusal(&status).await,
        }
        drop(server);
        sleep(PAUSE).await;
    }

    fn bind(&self, state: &Arc<State>) -> AbortOnDropHandle<()> {
        let _ = fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).expect("a free path");
        self.is_bound.store(true, Ordering::Relaxed);
        let service = DevicePluginServer::from_arc(Arc::clone(state));
        let served = Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener));
        AbortOnDropHandle::new(tokio::spawn(async { served.await.expect("a server") }))
    }

    async fn register(&self, connection: UnixStream, state: &State) -> Result<(), Status> {
        let channel = channel_over(connection).await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = RegistrationClient::new(channel);
        let endpoint = format!("faulty-{}.sock", self.index);
        let valid = |fault, valid: &str, invalid: &str| {
            if self.first_has(fault) {
                invalid
            } else {
                valid
            }
            .to_owned()
        };
        let endpoint = if self.first_has(ENDPOINT_WITH_SLASH) {
            format!("/{endpoint}")
        } else {
            endpoint
        };
        let request = RegisterRequest {
            version: valid("registration-version", "v1beta1", "v1beta2"),
            endpoint: valid("registration-endpoint", &endpoint, &format!("./{endpoint}")),
            resource_name: valid("registration-resource-name", RESOURCES[self.index], "gpu"),
            options: (!self.first_has("registration-options")).then_some(state.options),
        };
        client.register(request.clone()).await?;
        let earlier = self.registrations.fetch_add(1, Ordering::Relaxed);
        if self.first_has("registers-once") && earlier > 0 {
            client.register(request).await?;
        }
        if self.has("no-descriptor-growth") {
            std::mem::forget([(); 5].map(|()| fs::File::open("/dev/null")));
        }
        if self.has("no-memory-growth") {
            std::mem::forget(vec![1_u8; 8 << 20]);
        }
        Ok(())
    }

    async fn handle_refusal(&self, status: &Status) {
        let by_kubelet = status.code() == Code::Unknown && status.message().contains("refused by");
        let is_first = self.registrations.load(Ordering::Relaxed) == 0;
        if self.has("refused-registration") && by_kubelet {
            process::exit(0);
        }
        let is_stuck = !by_kubelet
            && (self.has("hanging-registration") && is_first
                || self.has("two-restarts") && !is_first);
        if is_stuck {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the kubelet was replaced, the stream has ended, or the socket was removed.
    async fn until_changed(&self, current: Kubelet, state: &State) {
        let mut open = state.open.subscribe();
        loop {
            let ended = open.wait_for(|open| *open == Some(0));
            let ended = timeout(POLL, ended).await.is_ok();
            let replaced = kubelet(&self.dir) != current;
            let removed = !self.socket.exists() && !self.has("socket-removed");
            if !ended && !replaced && !removed {
                continue;
            }
            let is_away = replaced || !is_served(&self.dir.join("kubelet.sock"));
            if self.has("kubelet-restart") && is_away {
                std::future::pending::<()>().await;
            }
            if (self.has("stream-cut") || self.has(ENDS_STREAMS)) && ended && !is_away && !removed {
                sleep(POLL).await;
                continue;
            }
            return;
        }
    }
}

/// Uses the processor for this time, with several threads, because one gets only a small share of a busy machine.
fn use_processor(time: Duration) {
    let began = std::time::Instant::now();
    let spin = || while began.elapsed() < time {};
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(spin);
        }
    });
}

fn is_served(socket: &Path) -> bool {
    has_listener(socket).is_ok_and(|served| served)
}

fn kubelet(dir: &Path) -> Kubelet {
    let metadata = fs::symlink_metadata(dir.join("kubelet.sock")).ok()?;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

/// One run of the plugin's server.
struct State {
    /// The fault, or an empty text if this is not the first resource.
    fault: String,
    options: DevicePluginOptions,
    devices: Vec<Device>,
    /// The number of open streams; `None` before the first.
    open: watch::Sender<Option<u32>>,
    in_flight: AtomicUsize,
    last: Mutex<Vec<String>>,
    /// Whether streams end soon after their first list.
    ends_early: bool,
}

impl State {
    fn new(plugin: &Plugin) -> Self {
        let fault = if plugin.index == 0 || plugin.has(ENDS_STREAMS) {
            &*plugin.fault
        } else {
            ""
        };
        let announces = fault != "survives-unused-calls";
        // With the file, it happens only once, also if the process is started again.
        let ends_early =
            fault == "stays-registered" && fs::File::create_new(plugin.dir.join("ended")).is_ok();
        Self {
            ends_early,
            options: DevicePluginOptions {
                pre_start_required: announces,
                get_preferred_allocation_available: announces,
            },
            devices: devices(plugin, fault),
            fault: fault.to_owned(),
            open: watch::Sender::default(),
            in_flight: AtomicUsize::new(0),
            last: Mutex::default(),
        }
    }

    fn has(&self, fault: &str) -> bool {
        self.fault == fault
    }

    /// Returns why a container cannot have these devices.
    fn refusal(&self, ids: &[String]) -> Option<&'static str> {
        let is_known = |id: &String| self.devices.iter().any(|device| device.id == *id);
        let last = std::mem::replace(&mut *self.last.lock(), ids.to_vec());
        if !ids.iter().all(is_known) && !self.has("unknown-id-refused") {
            return Some("unknown device");
        }
        let is_refused = match &*self.fault {
            "allocate-one" => ids.len() == 1,
            "allocate-all" => ids.len() > 1,
            "allocate-again" => ids.len() == 1 && last == ids,
            _ => false,
        };
        is_refused.then_some("refused on purpose")
    }

    fn response(&self, ids: &[String]) -> ContainerAllocateResponse {
        let valid = |fault, valid: &str, invalid: &str| {
            if self.has(fault) { invalid } else { valid }.to_owned()
        };
        ContainerAllocateResponse {
            envs: [(valid("response-env-names", "GPU_0", "GPU-0"), ids.join(","))].into(),
            mounts: vec![v1beta1::Mount {
                container_path: "/usr/lib/gpu".to_owned(),
                host_path: valid("response-paths", "/usr/lib/gpu", "lib/gpu"),
                read_only: true,
            }],
            devices: vec![v1beta1::DeviceSpec {
                container_path: "/dev/gpu0".to_owned(),
                host_path: "/dev/null".to_owned(),
                permissions: valid("response-permissions", "rw", ""),
            }],
            annotations: [("example.com/gpu".to_owned(), ids.join(","))].into(),
            cdi_devices: vec![v1beta1::CdiDevice {
                name: valid("response-cdi-names", "example.com/gpu=0", "gpu0"),
            }],
        }
    }
}

fn devices(plugin: &Plugin, fault: &str) -> Vec<Device> {
    let prefix = match (fault, plugin.index) {
        ("same-ids-after-restart", _) => {
            format!("gpu-{}", plugin.registrations.load(Ordering::Relaxed))
        }
        ("same-ids-after-kill", _) => format!("gpu-{}", process::id()),
        (_, 1) if !plugin.has("ids-unique-across-resources") => "nic".to_owned(),
        _ => "gpu".to_owned(),
    };
    let device = |index: usize| Device {
        id: format!("{prefix}-{index}"),
        health: "Healthy".to_owned(),
        topology: Some(v1beta1::TopologyInfo {
            nodes: vec![v1beta1::NumaNode { id: 1 }],
        }),
    };
    let mut devices: Vec<Device> = (0..4).map(device).collect();
    let first = &mut devices[0];
    match fault {
        "ids-length" => first.id = "x".repeat(64),
        "health-values" => "healthy".clone_into(&mut first.health),
        "numa-nodes" => {
            let nodes = vec![v1beta1::NumaNode { id: -1 }];
            first.topology = Some(v1beta1::TopologyInfo { nodes });
        }
        "ids-unique" => devices.push(device(0)),
        "list-size" => devices.extend((0..HUGE).map(|index| Device {
            id: format!("{index:063}"),
            health: "Unhealthy".to_owned(),
            topology: None,
        })),
        _ => {}
    }
    devices
}

/// Counts an open stream until it is dropped.
struct OpenStream(watch::Sender<Option<u32>>);

impl OpenStream {
    fn new(count: &watch::Sender<Option<u32>>) -> Self {
        count.send_modify(|open| *open = Some(open.unwrap_or(0) + 1));
        Self(count.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open = open.map(|open| open - 1));
    }
}

/// Ends the process if the caller of Allocate is gone.
struct ExitIfDropped(bool);

impl Drop for ExitIfDropped {
    fn drop(&mut self) {
        if self.0 {
            process::exit(4);
        }
    }
}

#[tonic::async_trait]
impl DevicePlugin for State {
    type ListAndWatchStream =
        Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        if self.has("answers-during-registration") {
            return Err(Status::internal("no options"));
        }
        Ok(Response::new(self.options))
    }

    async fn list_and_watch(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let open = OpenStream::new(&self.open);
        let list = ListAndWatchResponse {
            devices: self.devices.clone(),
        };
        let first = usize::from(!self.has("first-list"));
        let floods = self.has(FLOOD);
        let repeats = floods || self.has("list-not-repeated");
        let first = tokio_stream::iter(vec![list.clone(); first]);
        let empty = usize::from(self.has(EMPTY_FIRST_LIST));
        let empty = tokio_stream::iter(vec![ListAndWatchResponse::default(); empty]);
        let first = empty.chain(first);
        let later = tokio_stream::iter(std::iter::repeat(list));
        let later = later
            .throttle(Duration::from_millis(if floods { 0 } else { 100 }))
            .filter(move |_| repeats);
        // The first tick comes at once, so the second list does too; both are the same.
        let lists = first.chain(later).map(move |list| {
            let _until_dropped = &open;
            if floods {
                println!("{}", "flood ".repeat(1000));
            }
            Ok(list)
        });
        let ends_early = self.ends_early;
        let ends_at_once = self.has(ENDS_STREAMS);
        let lists = futures_util::StreamExt::take_until(lists, async move {
            if ends_at_once {
                sleep(POLL).await;
            } else if ends_early {
                sleep(SHORT_STREAM).await;
            } else {
                std::future::pending::<()>().await;
            }
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<v1beta1::PreferredAllocationRequest>,
    ) -> Result<Response<v1beta1::PreferredAllocationResponse>, Status> {
        if self.has("preferred-answers") {
            return Err(Status::internal("no preference"));
        }
        let prefer = |container: v1beta1::ContainerPreferredAllocationRequest| {
            let (required, available) = (
                container.must_include_device_i_ds,
                container.available_device_i_ds,
            );
            let others = available.iter().filter(|id| !required.contains(id));
            let mut ids: Vec<String> = match &*self.fault {
                "preferred-required" => others.cloned().collect(),
                _ => required.iter().chain(others).cloned().collect(),
            };
            let size = usize::try_from(container.allocation_size).unwrap_or(0);
            match &*self.fault {
                "preferred-size" => ids.truncate(size.max(2) - 1),
                _ => ids.truncate(size),
            }
            if let ("preferred-available", Some(last)) = (&*self.fault, ids.last_mut()) {
                "elsewhere".clone_into(last);
            }
            ContainerPreferredAllocationResponse { device_i_ds: ids }
        };
        let containers = request.into_inner().container_requests.into_iter();
        Ok(Response::new(v1beta1::PreferredAllocationResponse {
            container_responses: containers.map(prefer).collect(),
        }))
    }

    async fn allocate(
        &self,
        request: Request<v1beta1::AllocateRequest>,
    ) -> Result<Response<v1beta1::AllocateResponse>, Status> {
        let containers = request.into_inner().container_requests;
        let busy = self.in_flight.fetch_add(1, Ordering::Relaxed) > 0;
        let mut guard = ExitIfDropped(self.has("restart-during-allocate"));
        // On a busy machine, a short concurrent call could end before the kubelet stops.
        let takes = if guard.0 && busy { 2000 } else { 10 };
        sleep(Duration::from_millis(takes)).await;
        guard.0 = false;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if busy && self.has("allocate-concurrent") {
            return Err(Status::resource_exhausted("busy"));
        }
        for container in &containers {
            if self.has(EXITS_ON_UNKNOWN_ID) && self.refusal(&container.devices_ids).is_some() {
                process::exit(6);
            }
            if let Some(why) = self.refusal(&container.devices_ids) {
                return Err(Status::invalid_argument(why));
            }
        }
        let responses = containers.iter().map(|c| self.response(&c.devices_ids));
        let mut responses: Vec<_> = responses.collect();
        if self.has("container-response") && responses.len() == 1 {
            responses.clear();
        }
        if self.has("response-per-container") {
            responses.truncate(1);
        }
        Ok(Response::new(v1beta1::AllocateResponse {
            container_responses: responses,
        }))
    }

    async fn pre_start_container(
        &self,
        request: Request<v1beta1::PreStartContainerRequest>,
    ) -> Result<Response<v1beta1::PreStartContainerResponse>, Status> {
        let ids: BTreeSet<String> = request.into_inner().devices_ids.into_iter().collect();
        match &*self.fault {
            "survives-unused-calls" => process::exit(5),
            "pre-start-container" => Err(Status::internal(format!("cannot reset {ids:?}"))),
            _ => Ok(Response::new(v1beta1::PreStartContainerResponse {})),
        }
    }
}
