//! Wakes queues when their delayed deliveries are due.

use std::{collections::BTreeSet, time::Duration};

use brolly_core::{Clock, Name, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// When which queue has something due.
#[derive(Default)]
pub(crate) struct Timer {
    due: Mutex<BTreeSet<(Timestamp, Name)>>,
    earlier: Notify,
}

/// The longest sleep: the machine's clock may be set forward meanwhile.
const LONGEST: Duration = Duration::from_secs(1);

impl Timer {
    /// Asks for the queue to be looked at when `due` has come.
    pub(crate) fn wake_at(&self, due: Timestamp, queue: &Name) {
        self.due.lock().insert((due, queue.clone()));
        self.earlier.notify_one();
    }

    /// Calls `release` for each queue that has something due, until it is told to stop. `release`
    /// answers when the queue is to be looked at next.
    pub(crate) async fn run(
        &self,
        clock: &dyn Clock,
        release: impl Fn(&Name, Timestamp) -> Option<Timestamp>,
        stop: &CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let now = clock.now();
            let next = self.turn(now, &release);
            let sleep = next.map_or(LONGEST, |due| due.since(now).min(LONGEST));
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.earlier.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Calls `release` for each queue that has something due now; answers when the next one has.
    pub(crate) fn turn(
        &self,
        now: Timestamp,
        release: impl Fn(&Name, Timestamp) -> Option<Timestamp>,
    ) -> Option<Timestamp> {
        while let Some(queue) = self.next_due(now) {
            if let Some(next) = release(&queue, now) {
                self.due.lock().insert((next, queue));
            }
        }
        self.due.lock().first().map(|(due, _)| *due)
    }

    fn next_due(&self, now: Timestamp) -> Option<Name> {
        let mut due = self.due.lock();
        let first = due.first().is_some_and(|(due, _)| *due <= now);
        if first { due.pop_first().map(|(_, queue)| queue) } else { None }
    }
}
