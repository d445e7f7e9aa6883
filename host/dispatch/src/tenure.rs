//! The time of one version in a subscription: what it does is counted while it does it, and a version that
//! is under guard is watched. Workers call it around each delivery; the controller reads it.

use std::{collections::HashSet, sync::Arc};

use brolly_core::{Decision, Guard, Terms, Timestamp};
use brolly_ledger::Side;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// One version's time.
pub(crate) struct Tenure {
    pub terms: Option<Terms>,
    counts: Mutex<Counts>,
    /// The version before, while it still has deliveries in hand.
    before: Mutex<Option<Arc<Tenure>>>,
    watch: Option<Watched>,
    /// Rung when the guard has seen enough.
    tripped: Notify,
    /// Whether nothing more is to be attempted with this version.
    halted: watch::Sender<bool>,
}

#[derive(Default)]
struct Counts {
    side: Side,
    in_hand: HashSet<u64>,
    tripped: Option<String>,
}

/// Until when and how strictly a version is watched.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub guard: Guard,
    pub since: Timestamp,
}

impl Watched {
    fn is_over(&self, now: Timestamp) -> bool {
        now.0 > self.since.0.saturating_add(self.guard.for_ms)
    }
}

impl Tenure {
    /// The time of a version that takes over from another.
    pub(crate) fn new(
        terms: Option<Terms>,
        before: Option<Arc<Tenure>>,
        watch: Option<Watched>,
    ) -> Arc<Self> {
        Arc::new(Self {
            terms,
            counts: Mutex::default(),
            before: Mutex::new(before),
            watch,
            tripped: Notify::new(),
            halted: watch::Sender::new(false),
        })
    }

    /// The time of a version that had it before the host started.
    pub(crate) fn going_on(terms: Option<Terms>, side: Side, watch: Option<Watched>) -> Arc<Self> {
        let tenure = Self::new(terms, None, watch);
        tenure.counts.lock().side = side;
        tenure
    }

    /// A delivery comes into this version's hands.
    pub(crate) fn take(&self, record: u64, now: Timestamp) -> Turn<'_> {
        let twice = self.before.lock().as_ref().is_some_and(|before| before.has_in_hand(record));
        let mut counts = self.counts.lock();
        counts.side.taken += 1;
        counts.side.twice += u64::from(twice);
        counts.side.first_taken_at.get_or_insert(now);
        counts.in_hand.insert(record);
        Turn { tenure: self, record, ended: None }
    }

    /// Whether faults at this moment are held against the version and not against its deliveries.
    pub(crate) fn spares(&self, now: Timestamp) -> bool {
        self.watch.as_ref().is_some_and(|watch| !watch.is_over(now))
    }

    /// Counts a fault; at the guard's limit it rings.
    pub(crate) fn fault(&self, reason: &str, now: Timestamp) {
        let mut counts = self.counts.lock();
        counts.side.faults += 1;
        let Some(watch) = self.watch.as_ref().filter(|watch| !watch.is_over(now)) else { return };
        if counts.tripped.is_none() && counts.side.faults >= u64::from(watch.guard.faults) {
            counts.tripped = Some(format!(
                "{} faults within {} ms of the swap (guard.faults); the last: {reason}",
                counts.side.faults,
                now.since(watch.since).as_millis()
            ));
            self.halted.send_replace(true);
            self.tripped.notify_one();
        }
    }

    /// Whether the guard has stopped this version: what was in hand then is all that it spoils.
    pub(crate) fn is_halted(&self) -> bool {
        *self.halted.borrow()
    }

    /// Waits until it is not, or another version has taken over.
    pub(crate) async fn resumed(&self) {
        // The sender lives as long as this.
        let _ = self.halted.subscribe().wait_for(|halted| !halted).await;
    }

    /// Another version has taken over, or none can.
    pub(crate) fn resume(&self) {
        self.halted.send_replace(false);
    }

    /// Waits until the guard has seen enough; answers why.
    pub(crate) async fn tripped(&self) -> String {
        loop {
            if let Some(why) = self.counts.lock().tripped.clone() {
                return why;
            }
            self.tripped.notified().await;
        }
    }

    /// What it has done so far.
    pub(crate) fn side(&self) -> Side {
        let counts = self.counts.lock();
        Side { in_hand: counts.in_hand.len() as u64, ..counts.side.clone() }
    }

    /// Whether it has nothing in hand.
    pub(crate) fn is_idle(&self) -> bool {
        self.counts.lock().in_hand.is_empty()
    }

    /// Forgets the version before, which has nothing in hand any more.
    pub(crate) fn forget_before(&self) {
        *self.before.lock() = None;
    }

    fn has_in_hand(&self, record: u64) -> bool {
        self.counts.lock().in_hand.contains(&record)
    }
}

/// One delivery in the hands of a version.
pub(crate) struct Turn<'a> {
    tenure: &'a Tenure,
    record: u64,
    ended: Option<(End, Timestamp)>,
}

#[derive(Clone, Copy)]
enum End {
    Acked,
    Retried,
    Dead,
    Released,
}

impl Turn<'_> {
    /// What became of it.
    pub(crate) fn ends(&mut self, decision: &Decision, at: Timestamp) {
        let end = match decision {
            Decision::Ack => End::Acked,
            Decision::Retry { .. } => End::Retried,
            Decision::DeadLetter { .. } => End::Dead,
            Decision::Release { .. } => End::Released,
        };
        self.ended = Some((end, at));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut counts = self.tenure.counts.lock();
        counts.in_hand.remove(&self.record);
        // What was given up on the way, by an error or a panic of the host, went back to its broker.
        let (end, at) = self.ended.map_or((End::Released, None), |(end, at)| (end, Some(at)));
        let side = &mut counts.side;
        match end {
            End::Acked => side.acked += 1,
            End::Retried => side.retried += 1,
            End::Dead => side.dead += 1,
            End::Released => side.released += 1,
        }
        side.last_finished_at = side.last_finished_at.max(at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn watched(faults: u32) -> Option<Watched> {
        Some(Watched { guard: Guard { faults, for_ms: 1_000 }, since: Timestamp(10_000) })
    }

    #[test]
    fn every_delivery_is_accounted_for() {
        let old = Tenure::new(None, None, None);
        let (retry, release) = (
            Decision::Retry { delay: Duration::ZERO, reason: "r".into(), counts: true },
            Decision::Release { delay: Duration::ZERO, reason: "r".into() },
        );
        let ends = [Decision::Ack, retry, Decision::DeadLetter { reason: "r".into() }, release];
        for (record, decision) in (1..).zip(&ends) {
            old.take(record, Timestamp(record)).ends(decision, Timestamp(record + 10));
        }
        drop(old.take(5, Timestamp(5)));
        let in_hand = old.take(6, Timestamp(6));
        let side = old.side();
        assert_eq!((side.taken, side.acked, side.retried, side.dead, side.released), (6, 1, 1, 1, 2));
        assert_eq!((side.in_hand, side.lost(), old.is_idle()), (1, 0, false));
        assert_eq!((side.first_taken_at, side.last_finished_at), (Some(Timestamp(1)), Some(Timestamp(14))));
        let new = Tenure::new(None, Some(old.clone()), None);
        drop(new.take(6, Timestamp(7)));
        drop(new.take(7, Timestamp(7)));
        assert_eq!(new.side().twice, 1);
        drop(in_hand);
        assert!(old.is_idle());
        assert_eq!(Side { taken: 3, acked: 1, ..Side::default() }.lost(), 2);
    }

    #[test]
    fn the_guard_rings_at_its_limit_and_within_its_time() {
        let rung = |tenure: &Tenure| tenure.counts.lock().tripped.clone();
        let tenure = Tenure::new(None, None, watched(2));
        tenure.fault("a trap", Timestamp(10_500));
        assert!(tenure.spares(Timestamp(11_000)) && rung(&tenure).is_none());
        tenure.fault("a trap", Timestamp(11_000));
        let why = rung(&tenure).unwrap();
        assert!(why.contains("2 faults") && why.contains("1000 ms") && why.contains("a trap"), "{why}");
        assert!(tenure.is_halted());
        tenure.resume();
        assert!(!tenure.is_halted());
        let late = Tenure::new(None, None, watched(1));
        late.fault("a trap", Timestamp(11_001));
        assert!(!late.spares(Timestamp(11_001)) && rung(&late).is_none());
        assert_eq!(late.side().faults, 1);
        let unwatched = Tenure::new(None, None, None);
        unwatched.fault("a trap", Timestamp(1));
        assert!(!unwatched.spares(Timestamp(1)) && rung(&unwatched).is_none());
    }
}
