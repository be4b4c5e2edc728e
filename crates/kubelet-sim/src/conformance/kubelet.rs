//! The probe kubelet: serves Register, calls the plugin back as a kubelet does, and records what the plugin does. It
//! admits no pods.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use simple_device_plugin::api::v1beta1::registration_server::Registration as RegistrationApi;
use simple_device_plugin::api::v1beta1::{
    Device, DevicePluginOptions, Empty, ListAndWatchResponse, RegisterRequest,
};
use simple_device_plugin::model::socket_name::KUBELET_SOCKET;
use simple_device_plugin::net::own_socket::has_listener;
use simple_device_plugin::node::channel::channel_over;
use simple_device_plugin::util::sanitize::sanitize;

use super::Settings;
use super::client::{Client, Connection, RECEIVED_MAX};
use crate::kubelet::remove_sockets;
use crate::registration::{serve, validate};
use crate::state::describe_status;

/// The number of Register calls that are recorded for one start of the kubelet. Further calls are refused, so that a
/// plugin in a tight loop cannot fill the memory.
const REGISTRATIONS_MAX: usize = 500;
/// The number of lists on one stream that are read without a pause.
const LISTS_UNTHROTTLED: usize = 100;
/// The pause after each further list. Meanwhile HTTP/2 flow control stops the plugin.
const LIST_PAUSE: Duration = Duration::from_millis(10);
/// The pause between attempts to connect to the plugin's socket.
const DIAL_RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How long a stop waits for the kubelet's tasks.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

const CLOSED: &str = "the kubelet closed the connection";

const REPLACED: &str = "two later registrations replaced it";

/// How the kubelet answers Register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// As a real kubelet does.
    Accept,
    /// Returns the status Unknown without calling the plugin.
    Refuse,
    /// Does not answer.
    Hang,
}

/// A call of Register, and what followed on the connection to the plugin.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub(super) at: Instant,
    pub(super) request: RegisterRequest,
    /// Why the first attempt to connect to the plugin's socket failed, or `None`.
    pub(super) first_dial_error: Option<String>,
    /// Whether the plugin was called back, which the kubelet does only for a valid request.
    pub(super) called_back: bool,
    /// How Register was answered; `None` while the call is in progress.
    pub(super) answer: Option<Result<(), String>>,
    pub(super) options: Option<DevicePluginOptions>,
    pub(super) lists: Lists,
    /// How the ListAndWatch stream ended; `None` while it is open or if it was never opened.
    pub(super) ended: Option<String>,
    connection: Arc<Connection>,
}

impl Registration {
    pub(super) fn resource(&self) -> &str {
        &self.request.resource_name
    }

    /// Closes the connection and forgets the list, which can be large.
    fn close(&mut self, why: &str) {
        self.connection.close();
        self.ended.get_or_insert_with(|| why.to_owned());
        self.lists.last = None;
    }

    /// Returns how the stream ended, unless the kubelet ended it.
    pub(super) fn ended_by_plugin(&self) -> Option<&str> {
        let ended = self.ended.as_deref();
        ended.filter(|ended| ![CLOSED, REPLACED].contains(ended))
    }

    /// Returns whether the registration failed, its stream has ended, or a list was received.
    pub(super) fn needs_no_list(&self) -> bool {
        !matches!(self.answer, Some(Ok(())))
            || self.lists.first_at.is_some()
            || self.ended.is_some()
    }

    /// Returns whether the kubelet accepted the registration, got a list, and has the stream open.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.answer, Some(Ok(()))) && self.lists.last.is_some() && self.ended.is_none()
    }
}

/// The lists that a stream sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    pub(super) count: usize,
    pub(super) first_at: Option<Instant>,
    pub(super) last: Option<Arc<ListAndWatchResponse>>,
    /// How often a list was the same as the one before it, apart from the order of its devices.
    pub(super) repeats: usize,
    /// The size of the largest list in bytes.
    pub(super) largest: usize,
}

impl Lists {
    fn add(&mut self, mut list: ListAndWatchResponse) {
        self.count += 1;
        self.first_at.get_or_insert_with(Instant::now);
        self.largest = self.largest.max(list.encoded_len());
        list.devices.sort_by(|a, b| key(a).cmp(&key(b)));
        if self.last.as_deref() == Some(&list) {
            self.repeats += 1;
        } else {
            self.last = Some(Arc::new(list));
        }
    }
}

fn key(device: &Device) -> (&str, &str) {
    (&device.id, &device.health)
}

/// The registrations since the kubelet's start, in the order of their calls.
#[derive(Debug, Default)]
pub(super) struct Log {
    next: u64,
    entries: VecDeque<(u64, Registration)>,
}

impl Log {
    pub(super) fn registrations(&self) -> impl DoubleEndedIterator<Item = &Registration> {
        self.entries.iter().map(|(_, registration)| registration)
    }

    /// Returns the newest registration of each resource.
    pub(super) fn newest(&self) -> BTreeMap<&str, &Registration> {
        let all = self.registrations();
        all.map(|registration| (registration.resource(), registration))
            .collect()
    }

    /// Returns the number of Register calls for the resource.
    pub(super) fn count(&self, resource: &str) -> usize {
        let all = self.registrations();
        all.filter(|registration| registration.resource() == resource)
            .count()
    }
}

/// A kubelet that can be stopped and started. Its socket file stays on disk when it is stopped.
#[derive(Debug)]
pub(super) struct ProbeKubelet {
    probe: Arc<Probe>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Probe {
    dir: PathBuf,
    dial_timeout: Duration,
    call_timeout: Duration,
    answer: watch::Sender<Answer>,
    log: watch::Sender<Log>,
    /// The tasks of the current start.
    tasks: Mutex<TaskTracker>,
}

impl ProbeKubelet {
    /// Returns a kubelet that is not running.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created, or if another kubelet serves it.
    pub(super) fn new(dir: &Path, settings: &Settings) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        if has_listener(&dir.join(KUBELET_SOCKET))? {
            let taken = "another kubelet serves this directory, or its kubelet.sock may not be used; choose another directory";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
        }
        let probe = Probe {
            dir: dir.to_owned(),
            dial_timeout: settings.dial_timeout,
            call_timeout: settings.call_timeout,
            answer: watch::Sender::new(Answer::Accept),
            log: watch::Sender::default(),
            tasks: Mutex::default(),
        };
        Ok(Self {
            probe: Arc::new(probe),
            running: None,
        })
    }

    /// Removes every socket in the directory, listens on `kubelet.sock`, and starts with an empty log.
    pub(super) async fn start(&mut self, answer: Answer) -> io::Result<()> {
        self.stop().await;
        self.probe.answer.send_replace(answer);
        remove_sockets(&self.probe.dir)?;
        self.probe.log.send_modify(|log| log.entries.clear());
        let listener = UnixListener::bind(self.probe.dir.join(KUBELET_SOCKET))?;
        let running = Running {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        *self.probe.tasks.lock() = running.tasks.clone();
        let service = Service(Arc::clone(&self.probe));
        serve(service, listener, &running.tasks, running.stop.clone());
        self.running = Some(running);
        Ok(())
    }

    /// Closes every connection, as the end of the process does. The socket files stay.
    pub(super) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            self.probe.close(|_| true);
            running.tasks.close();
            // Only a connection attempt can take longer; it ends at its own deadline.
            let _ = timeout(STOP_TIMEOUT, running.tasks.wait()).await;
        }
    }

    /// Stops, and removes every socket in the directory.
    pub(super) async fn stop_and_clear(&mut self) -> io::Result<()> {
        self.stop().await;
        remove_sockets(&self.probe.dir)
    }

    /// Closes the connection to the plugin of a resource.
    pub(super) fn disconnect(&self, resource: &str) {
        self.probe.close(|closed| closed == resource);
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn set_answer(&self, answer: Answer) {
        self.probe.answer.send_replace(answer);
    }

    /// Returns a value computed from the log.
    pub(super) fn log<T>(&self, read: impl FnOnce(&Log) -> T) -> T {
        read(&self.probe.log.borrow())
    }

    pub(super) fn watch_log(&self) -> watch::Receiver<Log> {
        self.probe.log.subscribe()
    }

    /// Returns a client on the kubelet's connection to the plugin of a resource, or `None` if there is none.
    pub(super) fn client(&self, resource: &str) -> Option<Client> {
        self.log(|log| {
            let connection = Arc::clone(&log.newest().get(resource)?.connection);
            Some(Client::new(connection, self.probe.call_timeout))
        })
    }
}

impl Drop for ProbeKubelet {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
            self.probe.close(|_| true);
        }
    }
}

impl Probe {
    fn update(&self, id: u64, change: impl FnOnce(&mut Registration)) {
        self.log.send_if_modified(|log| {
            let found = log.entries.iter_mut().find(|(known, _)| *known == id);
            found
                .map(|(_, registration)| change(registration))
                .is_some()
        });
    }

    fn close(&self, matches: impl Fn(&str) -> bool) {
        self.log.send_modify(|log| {
            for (_, registration) in &mut log.entries {
                if matches(registration.resource()) {
                    registration.close(CLOSED);
                }
            }
        });
    }

    /// Records a call. Returns its ID, or `None` if there were too many calls.
    fn record(&self, request: RegisterRequest) -> Option<(u64, Arc<Connection>)> {
        let mut recorded = None;
        self.log.send_if_modified(|log| {
            if log.entries.len() >= REGISTRATIONS_MAX {
                return false;
            }
            // A real kubelet keeps all of them. Here, the newest and its predecessor are enough.
            let older = log.entries.iter_mut().rev().map(|(_, older)| older);
            let older = older.filter(|older| older.resource() == request.resource_name);
            older.skip(1).for_each(|older| older.close(REPLACED));
            log.next += 1;
            let connection = Arc::<Connection>::default();
            recorded = Some((log.next, Arc::clone(&connection)));
            let registration = Registration {
                at: Instant::now(),
                request,
                first_dial_error: None,
                called_back: false,
                answer: None,
                options: None,
                lists: Lists::default(),
                ended: None,
                connection,
            };
            log.entries.push_back((log.next, registration));
            true
        });
        recorded
    }

    /// Answers a call of Register: see `registerPlugin` in `plugin/v1beta1/server.go` and `connectClient` in
    /// `plugin/v1beta1/handler.go`.
    async fn register(
        self: &Arc<Self>,
        id: u64,
        request: &RegisterRequest,
        connection: &Connection,
    ) -> Result<(), Status> {
        validate(request)?;
        let mut answers = self.answer.subscribe();
        let answer = answers.wait_for(|answer| *answer != Answer::Hang).await;
        if answer.is_ok_and(|answer| *answer == Answer::Refuse) {
            return Err(Status::unknown("refused by the conformance suite"));
        }
        self.update(id, |registration| registration.called_back = true);
        let channel = self.dial(id, &request.endpoint).await?;
        let mut plugin = DevicePluginClient::new(channel.clone());
        let options = timeout(
            self.call_timeout,
            plugin.get_device_plugin_options(Empty {}),
        )
        .await;
        let options = options.map_err(|_| {
            let seconds = self.call_timeout.as_secs_f32();
            Status::unknown(format!(
                "GetDevicePluginOptions took longer than {seconds} s"
            ))
        })?;
        let options = options.map_err(|status| {
            Status::unknown(format!(
                "GetDevicePluginOptions: {}",
                describe_status(&status)
            ))
        })?;
        connection.set(channel);
        self.update(id, |registration| {
            registration.options = Some(options.into_inner());
        });
        Ok(())
    }

    /// Answers a call of Register, and reads the lists in a task if it is accepted.
    async fn answer_and_read(
        self: Arc<Self>,
        id: u64,
        request: RegisterRequest,
        connection: Arc<Connection>,
        tasks: TaskTracker,
    ) -> Result<(), Status> {
        let answer = self.register(id, &request, &connection);
        let answer = connection.closed.run_until_cancelled(answer).await;
        let answer = answer.unwrap_or_else(|| Err(Status::unavailable(CLOSED)));
        let text = answer.clone().map_err(|status| describe_status(&status));
        self.update(id, |registration| registration.answer = Some(text));
        if answer.is_ok() {
            tasks.spawn(async move {
                let lists = self.read_lists(id, &connection);
                let ended = connection.closed.run_until_cancelled(lists).await;
                let ended = ended.unwrap_or_else(|| CLOSED.to_owned());
                // A kubelet closes its connection when the stream ends.
                connection.close();
                self.update(id, |registration| registration.close(&ended));
            });
        } else {
            connection.close();
        }
        answer
    }

    /// Connects to the plugin's socket, and retries until the timeout, as grpc-go does.
    async fn dial(&self, id: u64, endpoint: &str) -> Result<Channel, Status> {
        let socket = self.dir.join(endpoint.trim_start_matches('/'));
        let deadline = Instant::now() + self.dial_timeout;
        let mut first = true;
        loop {
            let error = match timeout(self.dial_timeout, connect(&socket)).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => error.root_cause().to_string(),
                Err(_) => "timed out".to_owned(),
            };
            if std::mem::take(&mut first) {
                let error = error.clone();
                self.update(id, |registration| {
                    registration.first_dial_error = Some(error);
                });
            }
            if Instant::now() + DIAL_RETRY_INTERVAL >= deadline {
                let endpoint = sanitize(endpoint);
                return Err(Status::unknown(format!(
                    "failed to dial {endpoint}: {error}"
                )));
            }
            sleep(DIAL_RETRY_INTERVAL).await;
        }
    }

    /// Reads the ListAndWatch stream until it ends (`Run` in `plugin/v1beta1/client.go`).
    async fn read_lists(&self, id: u64, connection: &Connection) -> String {
        let Some(channel) = connection.channel() else {
            return CLOSED.to_owned();
        };
        let mut plugin = DevicePluginClient::new(channel).max_decoding_message_size(RECEIVED_MAX);
        let mut stream = match plugin.list_and_watch(Empty {}).await {
            Ok(response) => response.into_inner(),
            Err(status) => return describe_status(&status),
        };
        let mut count = 0;
        loop {
            match stream.message().await {
                Ok(Some(list)) => self.update(id, |registration| registration.lists.add(list)),
                Ok(None) => return "the plugin ended it without an error".to_owned(),
                Err(status) if status.code() == Code::OutOfRange => {
                    return format!(
                        "the list is larger than the kubelet's limit of 4,194,304 bytes ({})",
                        describe_status(&status)
                    );
                }
                Err(status) => return describe_status(&status),
            }
            count += 1;
            if count > LISTS_UNTHROTTLED {
                sleep(LIST_PAUSE).await;
            }
        }
    }
}

async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    Ok(channel_over(UnixStream::connect(socket).await?).await?)
}

struct Service(Arc<Probe>);

#[tonic::async_trait]
impl RegistrationApi for Service {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let Some((id, connection)) = self.0.record(request.clone()) else {
            return Err(Status::resource_exhausted("too many registrations"));
        };
        let probe = Arc::clone(&self.0);
        // A separate task, because a Go handler continues after its caller disconnects.
        let tasks = self.0.tasks.lock().clone();
        let answered = tasks.spawn(probe.answer_and_read(id, request, connection, tasks.clone()));
        match answered.await {
            Ok(answer) => answer.map(|()| Response::new(Empty {})),
            Err(_) => Err(Status::unavailable("the kubelet is stopping")),
        }
    }
}
