//! Forgetting: messages and their history go when they are old and nothing needs them any more.

use brolly_core::{Commit, Timestamp};
use brolly_store::{StoredMessage, keys};

use crate::{Error, Ledger, Status};

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Messages removed with their history.
    pub removed: u64,
    /// Where the next sweep goes on; none when everything old was looked at.
    pub next: Option<u64>,
}

impl Ledger {
    /// The most messages that one sweep looks at.
    pub const SWEEP_BUDGET: usize = 5_000;

    /// Removes messages published before `cutoff` that wait in no queue and no outbox, and are nobody's dead
    /// letter, from `after` on. With a message go its history and the memory of its id, so that the
    /// id would be accepted again. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn sweep(&self, cutoff: Timestamp, after: Option<u64>) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let Ok(_desk) = self.dead_letters.desk.try_lock() else {
            // Someone replays; the next sweep is soon.
            return Ok(Swept { removed: 0, next: after });
        };
        for (looked, item) in self.messages.oldest(after).without_payloads().enumerate() {
            let (seq, stored) = item?;
            if stored.message.published_at >= cutoff {
                return Ok(swept);
            }
            if !self.is_needed(seq, &stored)? {
                let mut commit = Commit::default();
                self.messages.stage_remove(seq, &stored.message, &mut commit);
                for row in self.store.scan(&keys::delivery_prefix(seq), None) {
                    commit.delete(row?.0.to_vec());
                }
                self.store.submit(commit);
                swept.removed += 1;
            }
            if looked + 1 >= Self::SWEEP_BUDGET {
                swept.next = Some(seq);
                return Ok(swept);
            }
        }
        Ok(swept)
    }

    /// First the queue, then the dead letters: while the desk is held, that is the only way a message
    /// can move, so it is seen in one of the two.
    fn is_needed(&self, seq: u64, stored: &StoredMessage) -> Result<bool, Error> {
        for queue in &stored.routed {
            let waits = self.store.get(&keys::queue_entry(queue, seq))?.is_some();
            if waits || self.store.get(&keys::dead_letter(queue, seq))?.is_some() {
                return Ok(true);
            }
        }
        // A message from elsewhere may have come to more queues than those that it is known to be routed to.
        let undecided = |(_, status): &(_, Status)| matches!(status, Status::Waiting | Status::Dead);
        if self.statuses(seq)?.iter().any(undecided) {
            return Ok(true);
        }
        Ok(self.store.scan(&keys::outbox_of(seq), None).next().transpose()?.is_some())
    }
}
