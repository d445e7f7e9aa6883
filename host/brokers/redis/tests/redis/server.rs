//! A Redis server on a free port in a temporary folder.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Client, Connection, FromRedisValue, Value};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub struct Server {
    pub port: u16,
    dir: TempDir,
    arguments: Vec<String>,
    password: Option<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts a server that keeps an append-only file.
    pub fn start() -> Self {
        Self::with(&["--appendonly", "yes"])
    }

    pub fn with(arguments: &[&str]) -> Self {
        for _ in 0..10 {
            // Somebody else may take the port in between; then another one is tried.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let password =
                arguments.windows(2).find(|pair| pair[0] == "--requirepass").map(|pair| pair[1].to_owned());
            let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
            let mut server =
                Self { port, dir: tempfile::tempdir().unwrap(), arguments, password, child: None };
            if server.run() {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    fn run(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.dir.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server can be started (Debian: apt-get install redis-server)");
        self.child = Some(child);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            let ping =
                self.connect().and_then(|mut connection| redis::cmd("PING").query::<Value>(&mut connection));
            if ping.is_ok() {
                return true;
            }
            std::thread::yield_now();
        }
        panic!("redis-server does not answer");
    }

    /// Ends the server as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts it again, on the same port and folder.
    pub fn revive(&mut self) {
        assert!(self.run(), "redis-server starts again");
    }

    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// The definition of a broker on it.
    pub fn definition(&self, settings: Json) -> Json {
        let mut definition = json!({"kind": "redis", "url": self.url()});
        definition.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        definition
    }

    pub fn connect(&self) -> redis::RedisResult<Connection> {
        Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(1))
    }

    /// Any command, as somebody else would send it.
    pub fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connect().unwrap();
        let (name, arguments) = command.split_first().unwrap();
        redis::cmd(name).arg(arguments).query(&mut connection).unwrap()
    }

    pub fn push(&self, list: &str, payloads: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut connection = self.connect().unwrap();
        let mut pipeline = redis::pipe();
        for payload in payloads {
            pipeline.cmd("RPUSH").arg(list).arg(payload.as_ref()).ignore();
        }
        pipeline.query::<()>(&mut connection).unwrap();
    }

    pub fn list(&self, list: &str) -> Vec<String> {
        self.ask(&["LRANGE", list, "0", "-1"])
    }

    /// Closes the connections of a kind: `normal` or `pubsub`.
    pub fn kill_clients(&self, kind: &str) -> u64 {
        self.ask(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
