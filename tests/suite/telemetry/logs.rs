//! Log lines as JSON: each line is an object with the fields that are promised.

use std::process::Stdio;

use brolly_tests::server::{PATIENCE, binary};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_line_is_an_object_with_the_promised_fields() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(binary())
        .args(["serve", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(dir.path())
        .env("BROLLY_LOG__FORMAT", "json")
        .env("BROLLY_LOG__FILTER", "info")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    assert!(started.is_some_and(|line| line.starts_with("listening on http://")));
    let id = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    let mut text = String::new();
    let mut errors = child.stderr.take().unwrap();
    tokio::time::timeout(PATIENCE, errors.read_to_string(&mut text)).await.unwrap().unwrap();
    let mut messages = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].as_str().is_some_and(|value| !value.is_empty()), "{field} in {line}");
        }
        messages
            .push((line["level"].as_str().unwrap().to_owned(), line["message"].as_str().unwrap().to_owned()));
    }
    let said = |level: &str, part: &str| messages.iter().any(|(at, said)| at == level && said.contains(part));
    assert!(said("INFO", "stopping"), "{messages:?}");
    // Whoever serves other machines without TLS is told.
    assert!(said("WARN", "HTTP without TLS (admin.tls) is served beyond this machine"), "{messages:?}");
}
