//! What the tests of the whole share: the real binary as a child process, the order data with the
//! plain sequential computation that every run must agree with, and the contract that every broker
//! adapter passes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on says where and stops"
)]

pub mod contract;
pub mod orders;
pub mod server;

use std::{path::PathBuf, time::Duration};

/// The root of the workspace.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_owned()
}

/// Waits until `condition` answers with something, at most `limit`.
///
/// # Panics
/// When it has not by then; `what` says what was waited for.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    loop {
        poll.tick().await;
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {limit:?}: {what}");
    }
}
