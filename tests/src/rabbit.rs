//! A RabbitMQ server of the test's own: a plain process on free ports of this machine alone, with its
//! data in a temporary folder. It needs no root, and touches nothing that is installed.
//!
//! A start takes about three seconds, so tests that need nothing special share one by [`shared`], each
//! in a virtual host of its own; a runner that gives each test a process gives each its own server.
//! Tests that need nothing but an address ask [`plain`], which also takes a server that is named by
//! `BROLLY_TEST_RABBITMQ_URL`.

mod files;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde::Deserialize;
use tempfile::TempDir;
use tokio::sync::{Mutex, OnceCell};

use crate::{
    eventually,
    process::{Keeper, Process, free_port},
    skip,
};

/// Names a server that is there already, for tests that need only an address: an AMQP address with
/// credentials and a virtual host that tests may leave queues in.
pub const EXTERNAL: &str = "BROLLY_TEST_RABBITMQ_URL";

/// How long the server may take to start or stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server has beside its plain listener.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A TLS listener, with a certificate for `localhost`.
    pub tls: bool,
    /// The management plugin, with counts that are half a second old at most.
    pub management: bool,
    /// The share of the machine's memory, or less than that, from which publishers are blocked.
    pub memory_high_watermark: Option<f64>,
    /// Further lines of `rabbitmq.conf`.
    pub config: Vec<String>,
}

/// How many messages a queue holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct QueueCount {
    /// Its name.
    pub name: String,
    /// Messages that no consumer has.
    #[serde(rename = "messages_ready")]
    pub ready: u64,
    /// Messages that a consumer has not acknowledged.
    #[serde(rename = "messages_unacknowledged")]
    pub unacked: u64,
    /// `classic`, `quorum` or `stream`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A virtual host.
#[derive(Clone, Debug)]
pub struct Vhost {
    /// Its name, which needs no escape in an address.
    pub name: String,
    /// Its address for guest, who may do everything there.
    pub url: String,
}

/// A running server; it ends, and its data with it, when it is dropped.
pub struct Rabbit {
    // Dropped in this order: the processes end, then the keeper has nothing to do, then the data goes.
    processes: Mutex<Processes>,
    folder: TempDir,
    installation: files::Installation,
    node: String,
    ports: Ports,
    options: Options,
}

struct Processes {
    server: Option<Process>,
    /// None where that of another node is used.
    epmd: Option<Process>,
    keeper: Keeper,
}

struct Ports {
    amqp: u16,
    tls: u16,
    management: u16,
    /// Where Erlang's nodes talk to each other.
    distribution: u16,
    /// Where Erlang's nodes look for each other.
    epmd: u16,
}

impl Ports {
    fn free() -> Self {
        Self {
            amqp: free_port(),
            tls: free_port(),
            management: free_port(),
            distribution: free_port(),
            epmd: free_port(),
        }
    }
}

impl Rabbit {
    /// Whether there is a server to start, and if not, why.
    ///
    /// # Errors
    /// What is missing.
    pub fn available() -> Result<(), String> {
        files::Installation::find().map(|_| ())
    }

    /// Starts a plain server.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Starts a server and waits until it serves.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn with(options: Options) -> Self {
        Self::start_beside(options, None).await
    }

    async fn start_beside(options: Options, epmd_of_another: Option<u16>) -> Self {
        let mut said = String::new();
        // Another process may have taken a port since we looked.
        for _ in 0..3 {
            match Self::try_start(options.clone(), epmd_of_another).await {
                Ok(rabbit) => return rabbit,
                Err(error) if error.contains("eaddrinuse") || error.contains("in use") => said = error,
                Err(error) => panic!("RabbitMQ does not start: {error}"),
            }
        }
        panic!("RabbitMQ finds no free port: {said}")
    }

    /// Starts another server, a node of the same cluster from then on. Takes about ten seconds.
    ///
    /// # Panics
    /// When it does not start, or does not join.
    pub async fn joined(&self) -> Self {
        let node = Self::start_beside(self.options.clone(), Some(self.ports.epmd)).await;
        node.ctl(&["stop_app"]).await;
        node.ctl(&["join_cluster", &self.node]).await;
        node.ctl(&["start_app"]).await;
        node
    }

    async fn try_start(options: Options, epmd_of_another: Option<u16>) -> Result<Self, String> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let node = format!("brolly-test-{}-{number}@localhost", std::process::id());
        let installation = files::Installation::find()?;
        let folder = tempfile::Builder::new().prefix("brolly-rabbit-").tempdir().expect("a temporary folder");
        let mut ports = Ports::free();
        ports.epmd = epmd_of_another.unwrap_or(ports.epmd);
        files::write(folder.path(), &installation, &ports, &options);

        let mut keeper = Keeper::of(folder.path());
        let mut epmd = None;
        if epmd_of_another.is_none() {
            let mut command = Command::new(&installation.epmd);
            command.args(["-address", "127.0.0.1", "-port", &ports.epmd.to_string()]);
            let started = epmd.insert(Process::start(&mut command, &folder.path().join("epmd.log")));
            keeper.watch([&*started]);
            // The server would start an epmd that outlives it, did it not find ours.
            started.listens(ports.epmd, PATIENCE).await?;
        }

        let processes = Mutex::new(Processes { server: None, epmd, keeper });
        let rabbit = Self { processes, folder, installation, node, ports, options };
        rabbit.start_server().await?;
        Ok(rabbit)
    }

    async fn start_server(&self) -> Result<(), String> {
        let mut processes = self.processes.lock().await;
        assert!(processes.server.is_none(), "it runs already");
        let mut command = self.command("rabbitmq-server");
        let arguments = "-noinput +S 2:2 -kernel inet_dist_use_interface {127,0,0,1}";
        // Makes the script become the server, instead of waiting for it.
        command.env("RABBITMQ_ALLOW_INPUT", "1").env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", arguments);
        let mut server = Process::start(&mut command, &self.folder.path().join("server.log"));
        let Processes { epmd, keeper, .. } = &mut *processes;
        keeper.watch(epmd.iter().chain([&server]));
        server.prints("Server startup complete", PATIENCE).await?;
        processes.server = Some(server);
        Ok(())
    }

    /// A program of the installation, told of this server and of nothing else.
    fn command(&self, program: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(self.installation.programs.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RABBITMQ_") || name.to_string_lossy().starts_with("ERL_") {
                command.env_remove(name);
            }
        }
        for (name, value) in [
            ("HOME", folder.to_owned()),
            ("RABBITMQ_SCRIPTS_DIR", folder.join("rabbitmq/sbin")),
            ("RABBITMQ_PLUGINS_DIR", folder.join("rabbitmq/plugins")),
            ("RABBITMQ_MNESIA_BASE", folder.join("data")),
            ("RABBITMQ_LOG_BASE", folder.join("log")),
            ("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config")),
            ("RABBITMQ_CONF_ENV_FILE", folder.join("rabbitmq-env.conf")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins")),
            ("ERL_CRASH_DUMP", folder.join("erl_crash.dump")),
        ] {
            command.env(name, value);
        }
        command.env("RABBITMQ_NODENAME", &self.node);
        command.env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string());
        command.env("RABBITMQ_CTL_ERL_ARGS", "-dist_listen false");
        command.env("ERL_EPMD_PORT", self.ports.epmd.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("LANG", "C.UTF-8").current_dir(folder);
        command
    }

    /// Where it listens without TLS.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.amqp).into()
    }

    /// Its address, of the default virtual host.
    pub fn url(&self) -> String {
        self.url_of("%2f")
    }

    /// The address of a virtual host, which is given as it stands in an address.
    pub fn url_of(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@{}/{vhost}", self.address())
    }

    /// Its address with TLS.
    ///
    /// # Panics
    /// When it was started without.
    pub fn tls_url(&self) -> String {
        assert!(self.options.tls, "started without TLS");
        format!("amqps://guest:guest@localhost:{}/%2f", self.ports.tls)
    }

    /// The certificate that signed the server's, as PEM.
    ///
    /// # Panics
    /// When it was started without TLS.
    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.ca_path()).expect("started with TLS")
    }

    /// The file of [`Self::ca_pem`].
    pub fn ca_path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The address of the management API, without `/api`; guest may do everything.
    ///
    /// # Panics
    /// When it was started without.
    pub fn management_url(&self) -> String {
        assert!(self.options.management, "started without the management plugin");
        format!("http://guest:guest@127.0.0.1:{}", self.ports.management)
    }

    /// What the server has printed since it started last.
    ///
    /// # Panics
    /// When its log cannot be read.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).expect("the log can be read")
    }

    /// The folder that all of its processes know; it goes with the server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `rabbitmqctl` for this server and answers with what it prints. Takes half a second.
    ///
    /// # Panics
    /// When it fails.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::from(self.command("rabbitmqctl"));
        command.arg("-q").args(arguments).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.expect("it answers in time").expect("it can be started");
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {said}{errors}");
        said.into_owned()
    }

    /// How many connections this node has, of those that its cluster has.
    ///
    /// # Panics
    /// When it does not say.
    pub async fn connections(&self) -> usize {
        let count = self.ctl(&["eval", "length(rabbit_networking:local_connections())."]).await;
        count.trim().parse().unwrap_or_else(|error| panic!("{error}: {count}"))
    }

    /// Makes a new virtual host.
    pub async fn vhost(&self) -> Vhost {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("v{}", MADE.fetch_add(1, Ordering::Relaxed));
        self.ctl(&["add_vhost", &name]).await;
        self.ctl(&["set_permissions", "-p", &name, "guest", ".*", ".*", ".*"]).await;
        let url = self.url_of(&name);
        Vhost { name, url }
    }

    /// All queues of a virtual host (`/` is the default one) that this node leads, by name. Counts of
    /// quorum queues are about a tenth of a second old, which is less than this takes.
    ///
    /// # Panics
    /// When the server does not say.
    pub async fn queues(&self, vhost: &str) -> Vec<QueueCount> {
        let fields = ["name", "messages_ready", "messages_unacknowledged", "type"];
        // Other nodes would have to connect to this program, which does not listen.
        let arguments =
            [&["list_queues", "--local", "-p", vhost, "--formatter", "json"], &fields[..]].concat();
        let listed = self.ctl(&arguments).await;
        let queues = serde_json::from_str(&listed);
        let mut queues: Vec<QueueCount> = queues.unwrap_or_else(|error| panic!("{error}: {listed}"));
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        queues
    }

    /// Stops it in good order. Its data and ports stay for [`Self::start_again`].
    pub async fn stop(&self) {
        if let Some(server) = self.take_server().await {
            server.terminate(PATIENCE).await;
        }
    }

    /// Kills it as a power cut would kill a process, and waits until it is gone.
    ///
    /// RabbitMQ takes up to half a second to write down which files are those of a new quorum queue; a
    /// kill before that loses the queue, confirmed messages and all, which no client can mend. So it
    /// is made to write that first.
    pub async fn kill(&self) {
        if self.processes.lock().await.server.is_none() {
            return;
        }
        self.ctl(&["eval", "[dets:sync(Table) || Table <- dets:all()]."]).await;
        drop(self.take_server().await);
    }

    async fn take_server(&self) -> Option<Process> {
        let mut processes = self.processes.lock().await;
        let server = processes.server.take();
        let Processes { epmd, keeper, .. } = &mut *processes;
        keeper.watch(&*epmd);
        server
    }

    /// Starts it with the same data and ports, after [`Self::stop`] or [`Self::kill`].
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&self) {
        self.start_server().await.unwrap_or_else(|error| panic!("RabbitMQ does not start again: {error}"));
    }

    /// Has the server close all connections, telling clients the reason.
    pub async fn close_all_connections(&self, reason: &str) {
        self.ctl(&["close_all_connections", "--global", reason]).await;
    }

    /// Has the server close the connections to one virtual host, telling clients the reason.
    pub async fn close_connections(&self, vhost: &str, reason: &str) {
        self.ctl(&["close_all_connections", "--vhost", vhost, reason]).await;
    }

    /// Raises or clears the memory alarm, which blocks all connections that publish; so it is not for a
    /// shared server.
    pub async fn memory_alarm(&self, on: bool) {
        let usual = self.options.memory_high_watermark.unwrap_or(files::MEMORY_HIGH_WATERMARK);
        let watermark = if on { 0.000_001 } else { usual };
        self.ctl(&["set_vm_memory_high_watermark", &watermark.to_string()]).await;
        eventually(&format!("the memory alarm is on: {on}"), PATIENCE, || async {
            let alarms = self.ctl(&["eval", "rabbit_alarm:get_alarms()."]).await;
            (alarms.contains("memory") == on).then_some(())
        })
        .await;
    }
}

/// The server that all tests of this process share.
///
/// # Panics
/// When it does not start.
pub async fn shared() -> &'static Rabbit {
    static SHARED: OnceCell<Rabbit> = OnceCell::const_new();
    SHARED.get_or_init(Rabbit::start).await
}

/// The address of a virtual host for one test: on the server that [`EXTERNAL`] names, where others may
/// have left queues and exchanges, or a new one on the shared server. Without a server it notes that
/// `what` is skipped.
pub async fn plain(what: &str) -> Option<String> {
    if let Ok(url) = std::env::var(EXTERNAL) {
        return Some(url);
    }
    match Rabbit::available() {
        Ok(()) => Some(shared().await.vhost().await.url),
        Err(why) => {
            skip(what, &why);
            None
        }
    }
}
