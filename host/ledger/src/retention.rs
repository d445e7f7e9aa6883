//! Forgetting: messages and their history go when they are old and nothing needs them any more.

use brolly_core::{Commit, Name, Timestamp};
use brolly_store::{StoredMessage, keys};

use crate::{
    Attempt, Error, Ledger, Status,
    deliveries::{self, DeliveryRow},
};

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Old messages looked at.
    pub looked_at: u64,
    /// Those of them that were removed, with their history.
    pub removed: u64,
    /// Where the next sweep goes on; none when everything old was looked at.
    pub next: Option<u64>,
    /// Why a message could not be read, if that happened. It stays.
    pub unreadable: Option<Error>,
}

impl Ledger {
    /// The most messages that one sweep looks at. Nobody can replay or delete dead letters meanwhile.
    pub const SWEEP_BUDGET: u64 = 1_000;

    /// Removes messages that this host met before `cutoff` and that are done: they wait in no queue and no
    /// outbox, are nobody's dead letter, and were last attempted before `cutoff` as well, on queues of which
    /// `may_deliver_again` says no ([`brolly_core::Broker::may_deliver_again`]). Begins behind `after`. With a
    /// message go its history and the memory of its id, so that the id would be accepted again. Blocks.
    ///
    /// What was removed is gone for good with the store's next flush. The next sweep must come after it
    /// ([`Ledger::flushed`]), or might take what has come since for what it saw before.
    #[must_use]
    pub fn sweep(
        &self,
        cutoff: Timestamp,
        now: Timestamp,
        after: Option<u64>,
        may_deliver_again: impl Fn(&Name) -> bool,
    ) -> Swept {
        let mut swept = Swept { next: after, ..Swept::default() };
        let Ok(_desk) = self.dead_letters.desk.try_lock() else {
            // Someone replays; the next sweep is soon.
            return swept;
        };
        for item in self.messages.oldest(after).without_payloads() {
            let (seq, stored) = match item {
                Ok(item) => item,
                Err(error) => {
                    swept.unreadable = Some(error.into());
                    continue;
                }
            };
            // Messages lie in the order in which they were met. One that was met at a time to come was met
            // while the clock was wrong, which says nothing of those behind it.
            if (cutoff..=now).contains(&stored.met_at) {
                break;
            }
            swept.looked_at += 1;
            if stored.met_at < cutoff {
                let rest =
                    |commit: &mut Commit| self.is_done(seq, &stored, cutoff, &may_deliver_again, commit);
                match self.messages.forget(seq, &stored.message, rest) {
                    Ok(removed) => swept.removed += u64::from(removed),
                    Err(error) => swept.unreadable = Some(error),
                }
            }
            if swept.looked_at >= Self::SWEEP_BUDGET {
                swept.next = Some(seq);
                return swept;
            }
        }
        swept.next = None;
        swept
    }

    /// Waits until everything that was submitted before is durable.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn flushed(&self) -> Result<(), Error> {
        Ok(self.store.commit(Commit::default()).await?)
    }

    /// Whether nothing needs a message any more; adds to a commit that its history goes.
    ///
    /// In the order in which a message moves on: who finds it gone from a place sees all that the commit
    /// that took it away has written. From the dead letters back to a queue nothing moves while the desk is
    /// held.
    fn is_done(
        &self,
        seq: u64,
        stored: &StoredMessage,
        cutoff: Timestamp,
        may_deliver_again: &impl Fn(&Name) -> bool,
        commit: &mut Commit,
    ) -> Result<bool, Error> {
        for queue in &stored.routed {
            if self.is_in(queue, seq)? {
                return Ok(false);
            }
        }
        for row in self.store.scan(&keys::delivery_prefix(seq), None) {
            let (key, value) = row?;
            if let Some((_, _, None)) = keys::parse_delivery(&key) {
                let row: DeliveryRow = deliveries::decode("delivery", &key, &value)?;
                if is_expected(&row) || !ended_before(&row.last, cutoff) {
                    return Ok(false);
                }
                // A message from elsewhere may have come to more queues than it is known to be routed to.
                if let Some(queue) = row.queue
                    && (may_deliver_again(&queue)
                        || (!stored.routed.contains(&queue) && self.is_in(&queue, seq)?))
                {
                    return Ok(false);
                }
            }
            commit.delete(key.to_vec());
        }
        Ok(self.store.scan(&keys::outbox_of(seq), None).next().transpose()?.is_none())
    }

    /// Whether a message waits in a queue, or is a dead letter of it.
    fn is_in(&self, queue: &Name, seq: u64) -> Result<bool, Error> {
        Ok(self.store.get(&keys::queue_entry(queue, seq))?.is_some()
            || self.store.get(&keys::dead_letter(queue, seq))?.is_some())
    }
}

/// Whether a message that was moved away is on its way back.
fn is_expected(row: &DeliveryRow) -> bool {
    row.status == Status::Acked && row.queue.is_none()
}

/// Whether an attempt, and the wait for the next one if there is to be one, was over by then.
fn ended_before(attempt: &Attempt, cutoff: Timestamp) -> bool {
    let ms = (attempt.duration_us / 1_000).saturating_add(attempt.retry_after_ms.unwrap_or(0));
    attempt.at.0.saturating_add(ms) < cutoff.0
}
