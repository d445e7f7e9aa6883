//! Time that stands still until the world moves it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use brolly_core::{Clock, Timestamp};

/// When every world begins, in milliseconds.
const START: u64 = 1_000_000;

/// The clock of a world.
#[derive(Debug, Default)]
pub(crate) struct Time(AtomicU64);

impl Time {
    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn until(&self, moment: Timestamp) {
        self.0.fetch_max(moment.0.saturating_sub(START), Ordering::Relaxed);
    }
}

impl Clock for Time {
    fn now(&self) -> Timestamp {
        Timestamp(START + self.0.load(Ordering::Relaxed))
    }
}
