//! Whom alerts are told to: a real mail server (aiosmtpd) and an HTTP server that checks what it is sent as the
//! providers do, as one process of Python.

use std::{path::Path, process::Stdio, sync::Arc};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::python::Python;

/// A receiver that runs until it is dropped.
pub struct Receiver {
    /// The port of its mail server.
    pub mail: u64,
    /// The port of its HTTP server.
    pub http: u64,
    taken: Arc<Mutex<Vec<Value>>>,
    _child: Child,
    /// It ends when this is closed.
    _alive: ChildStdin,
}

impl Receiver {
    /// Starts one; with a folder in which `server.pem` and `server.key` lie (`certificates::write`), its mail server wants TLS and a
    /// password. Without Python it notes that `what` is skipped.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(what: &str, certificate: Option<&Path>) -> Option<Self> {
        let python = Python::with(what, &["aiosmtpd==1.4.6"]).await?;
        let mut child = Command::new(&python.program)
            .args(["-c", include_str!("receiver.py")])
            .arg(certificate.unwrap_or(Path::new("-")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python can be started");
        let alive = child.stdin.take().expect("it is piped");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let ports = next(&mut lines).await.expect("it says where it listens");
        let port = |of: &str| ports[of].as_u64().expect("a port");
        let taken = Arc::new(Mutex::new(Vec::new()));
        let receiver = Self {
            mail: port("mail"),
            http: port("http"),
            taken: taken.clone(),
            _child: child,
            _alive: alive,
        };
        tokio::spawn(async move {
            while let Some(thing) = next(&mut lines).await {
                taken.lock().push(thing);
            }
        });
        Some(receiver)
    }

    /// What came in by this way, the oldest first.
    #[must_use]
    pub fn taken(&self, by: &str) -> Vec<Value> {
        self.taken.lock().iter().filter(|thing| thing["by"] == by).cloned().collect()
    }
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<Value> {
    let line = lines.next_line().await.ok()??;
    Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
}
