//! A Redis server of the test's own: a plain process on a free port of this machine alone, with its
//! data in a temporary folder. A start takes a few milliseconds.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::process::{Keeper, Process, find_program, free_port};

/// How long the server may take to start or stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a server is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Writes every command to a file, and syncs it, before it is answered.
    pub append_only: bool,
    /// What to drop when memory is full; `noeviction` if not given.
    pub maxmemory_policy: Option<String>,
    /// The password of the default user, which stands in addresses as it is here.
    pub password: Option<String>,
    /// Further settings, names and values as in `redis.conf`.
    pub config: Vec<(String, String)>,
}

/// A running server; it ends, and its data with it, when it is dropped.
pub struct RedisServer {
    // Dropped in this order: the process ends, then the keeper has nothing to do, then the data goes.
    processes: Mutex<Processes>,
    folder: TempDir,
    port: u16,
    options: Options,
}

struct Processes {
    server: Option<Process>,
    keeper: Keeper,
}

impl RedisServer {
    /// Whether there is a server to start, and if not, why.
    ///
    /// # Errors
    /// What is missing.
    pub fn available() -> Result<(), String> {
        program("redis-server")?;
        program("redis-cli").map(|_| ())
    }

    /// Starts a server that keeps nothing on disk.
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
        let mut said = String::new();
        // Another process may have taken the port since we looked.
        for _ in 0..3 {
            let folder = tempfile::Builder::new().prefix("brolly-redis-").tempdir().expect("a folder");
            let keeper = Keeper::of(folder.path());
            let processes = Mutex::new(Processes { server: None, keeper });
            let redis = Self { processes, folder, port: free_port(), options: options.clone() };
            match redis.start_server().await {
                Ok(()) => return redis,
                Err(error) if error.contains("in use") => said = error,
                Err(error) => panic!("Redis does not start: {error}"),
            }
        }
        panic!("Redis finds no free port: {said}")
    }

    async fn start_server(&self) -> Result<(), String> {
        let mut processes = self.processes.lock().await;
        assert!(processes.server.is_none(), "it runs already");
        let mut server = Process::start(&mut self.command()?, &self.folder.path().join("server.log"));
        processes.keeper.watch([&server]);
        server.prints("eady to accept connections", PATIENCE).await?;
        processes.server = Some(server);
        Ok(())
    }

    fn command(&self) -> Result<Command, String> {
        let mut command = Command::new(program("redis-server")?);
        let mut set = |name: &str, value: &str| {
            command.arg(format!("--{name}")).arg(value);
        };
        set("bind", "127.0.0.1");
        set("port", &self.port.to_string());
        set("dir", &self.folder.path().to_string_lossy());
        set("save", "");
        set("appendonly", if self.options.append_only { "yes" } else { "no" });
        set("appendfsync", "always");
        if let Some(policy) = &self.options.maxmemory_policy {
            set("maxmemory-policy", policy);
        }
        if let Some(password) = &self.options.password {
            set("requirepass", password);
        }
        for (name, value) in &self.options.config {
            set(name, value);
        }
        command.current_dir(self.folder.path());
        Ok(command)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its address, with the password if it has one.
    pub fn url(&self) -> String {
        let password = self.options.password.as_ref().map(|password| format!(":{password}@"));
        format!("redis://{}{}/", password.unwrap_or_default(), self.address())
    }

    /// The folder of its data; it goes with the server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `redis-cli` for this server and answers with what it prints, without the last line's end.
    ///
    /// # Panics
    /// When it fails, or the server answers with an error.
    pub async fn cli(&self, arguments: &[&str]) -> String {
        let program = program("redis-cli").unwrap_or_else(|why| panic!("{why}"));
        let mut command = tokio::process::Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-e"]).kill_on_drop(true);
        if let Some(password) = &self.options.password {
            command.env("REDISCLI_AUTH", password);
        }
        let output = tokio::time::timeout(PATIENCE, command.args(arguments).output()).await;
        let output = output.expect("it answers in time").expect("it can be started");
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "redis-cli {arguments:?}: {said}{errors}");
        said.strip_suffix('\n').unwrap_or(&said).to_owned()
    }

    /// Stops it in good order. Its data, if it keeps any, and port stay for [`Self::start_again`].
    pub async fn stop(&self) {
        if let Some(server) = self.take_server().await {
            server.terminate(PATIENCE).await;
        }
    }

    /// Kills it as a power cut would kill a process, and waits until it is gone.
    pub async fn kill(&self) {
        drop(self.take_server().await);
    }

    async fn take_server(&self) -> Option<Process> {
        let mut processes = self.processes.lock().await;
        let server = processes.server.take();
        processes.keeper.watch([]);
        server
    }

    /// Starts it with the same data and port, after [`Self::stop`] or [`Self::kill`].
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&self) {
        self.start_server().await.unwrap_or_else(|error| panic!("Redis does not start again: {error}"));
    }

    /// Has the server close the connections of all clients, subscribers among them.
    pub async fn client_kill_all(&self) {
        for kind in ["normal", "pubsub"] {
            self.cli(&["CLIENT", "KILL", "TYPE", kind]).await;
        }
    }
}

fn program(name: &str) -> Result<PathBuf, String> {
    find_program(name, &["/usr/bin", "/usr/local/bin"]).ok_or_else(|| format!("{name} is not installed"))
}
