//! What the tests of the whole share: the real binary as a child process, the order data with the
//! plain sequential computation that every run must agree with, the contract that every broker
//! adapter passes, and the servers and browsers of others (RabbitMQ, Redis, Chromium, a mail server) that tests start
//! for themselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on says where and stops"
)]

pub mod axe;
pub mod browser;
pub mod certificates;
pub mod collector;
pub mod contract;
pub mod disk;
pub mod fixture;
pub mod flow;
pub mod memory;
pub mod orders;
pub mod process;
pub mod project;
pub mod proxy;
pub mod python;
pub mod rabbit;
pub mod receiver;
pub mod redis;
pub mod server;
pub mod web;

use std::{io::Write, path::PathBuf, time::Duration};

/// The root of the workspace.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_owned()
}

/// Waits until `condition` answers with something, at most `limit`.
///
/// # Panics
/// When it has not by then; `what` says what was waited for.
pub async fn eventually<T, F>(what: &str, limit: Duration, condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let value = within(limit, condition).await;
    value.unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// The same for somebody who has more to say when it is too late: none then.
pub async fn within<T, F>(limit: Duration, mut condition: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    loop {
        poll.tick().await;
        if let Some(value) = condition().await {
            return Some(value);
        }
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
    }
}

/// Notes that a test cannot run here; the test returns after it. `cargo xtask test` lists these notes.
///
/// # Panics
/// When the note cannot be written.
pub fn skip(what: &str, why: &str) {
    eprintln!("skipped {what}: {why}");
    let Some(path) = std::env::var_os("BROLLY_SKIPS") else { return };
    let mut file =
        std::fs::OpenOptions::new().append(true).create(true).open(path).expect("the list of skips");
    // One write for the line: other tests append at the same time.
    let line = format!("{what}: {}\n", why.replace('\n', " "));
    file.write_all(line.as_bytes()).expect("the list of skips can be written");
}
