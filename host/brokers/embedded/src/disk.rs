//! Watches how much space the disk has left, so that publishing is refused before writing fails.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use brolly_core::{Code, Refusal};
use brolly_store::Store;
use tokio_util::sync::CancellationToken;

/// How often the disk is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether the disk is too full for more messages.
#[derive(Default)]
pub(crate) struct Disk {
    full: AtomicBool,
}

impl Disk {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if !self.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Refusal::new(
            Code::DiskFull,
            "the disk of the data directory is nearly full, so nothing more is accepted; free some space and publish \
             again",
        ))
    }

    pub(crate) async fn watch(&self, store: &Store, min_free_bytes: u64, stop: &CancellationToken) {
        loop {
            match store.free_bytes() {
                Ok(free) => {
                    let full = free < min_free_bytes;
                    if self.full.swap(full, Ordering::Relaxed) != full {
                        tracing::warn!(free, min_free_bytes, full, "free space on the data directory's disk");
                    }
                }
                Err(error) => tracing::warn!(%error, "the free space on the disk cannot be told"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }
}
