//! The committer's work, one step at a time and on the caller's thread: the code of [`crate::Store`]'s own
//! threads, with nothing left to the kernel. Called by a simulation; knows what `committer` knows.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::committer::{Actions, Broken, Committer, ROUNDS_AHEAD, Stop};

/// Rounds that one step of writing makes at most, as long as one commit has fewer operations than a round.
const ROUNDS_A_STEP: usize = 8;

/// Does what the two threads of a store do. Dropping it is like a crash.
pub struct Steps {
    committer: Committer,
    durable: SyncSender<Actions>,
    rounds: Receiver<Actions>,
    broken: Option<Box<Broken>>,
    /// Rounds that are durable and not followed, at most.
    ahead: usize,
}

impl Steps {
    pub(crate) fn new(committer: Committer) -> Self {
        let (durable, rounds) = sync_channel(ROUNDS_AHEAD);
        Self { committer, durable, rounds, broken: None, ahead: 0 }
    }

    /// Makes everything queued durable; answers whether anything was. Nothing is while the actions of
    /// too many rounds wait to be run, and after a failure.
    pub fn write(&mut self) -> bool {
        if self.broken.is_some() || self.ahead + ROUNDS_A_STEP > ROUNDS_AHEAD {
            return false;
        }
        let commits = self.committer.queue.try_take();
        if commits.is_empty() {
            return false;
        }
        self.ahead += commits.len().min(ROUNDS_A_STEP);
        self.broken = self.committer.commit(commits, &self.durable).err();
        true
    }

    /// Runs what follows one durable round; answers whether there was one. After a failure, and when all
    /// that is durable was followed, the store learns of it.
    pub fn follow(&mut self) -> bool {
        let Ok(round) = self.rounds.try_recv() else {
            self.ahead = 0;
            if let Some(broken) = self.broken.take() {
                self.committer.fail(broken.reason.clone());
            }
            return false;
        };
        self.committer.follow_one(round)
    }
}

impl Drop for Steps {
    /// What is queued never happens; left in the queue it would hold the store that holds it.
    fn drop(&mut self) {
        self.committer.queue.stop(Stop::Abandoned);
    }
}
