//! Group commit: the one thread that writes. Called by `store`, which hands it commits; it hands
//! them to the engine, flushes, and has a second thread run what was to follow, in order, while it
//! goes on with the next ones. Knows nothing of tables.
//!
//! Whatever is queued when the thread comes round shares a flush, so a lone commit waits for
//! nobody and a crowd pays once. No timer is involved.

use std::{
    cell::Cell,
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use brolly_core::{Afterwards, Commit, Write};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::{
    backup::Tap,
    engine::{Database, panic_text},
    store::{Counters, check_sizes},
};

/// The most operations that are applied at once, unless one commit alone has more: with 1,000
/// sled was seen to grow to 5 GB where 100 took 10 to 150 MB for the same work.
const BATCH_OPERATIONS: usize = 200;

/// The most operations between two flushes, unless one commit alone has more: it bounds how long
/// the first of them waits. More made nothing faster: writing the batches, not syncing them, is
/// what takes the time, and sled already syncs one batch while the next one is applied.
const ROUND_OPERATIONS: usize = 1_024;

/// Rounds that may be durable and wait for their actions to run; then the committer waits too.
pub(crate) const ROUNDS_AHEAD: usize = 64;

/// Commits on their way to the thread.
///
/// INVARIANT: the length is bounded by those who submit. Publishers hold a permit of their broker's
/// admission, deliveries one of their subscription's in-flight permits, until their commit is done.
#[derive(Default)]
pub(crate) struct Queue {
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Default)]
struct Pending {
    commits: Vec<Commit>,
    stop: Option<Stop>,
}

/// How the thread is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// After everything queued is durable.
    Drained,
    /// Now: what is queued never happens.
    Abandoned,
}

thread_local! {
    /// The queue that this thread serves, by its address.
    static SERVED: Cell<usize> = const { Cell::new(0) };
}

impl Queue {
    /// Whether the calling thread is one of the two that serve this queue, and so cannot wait for them.
    pub(crate) fn is_served_here(&self) -> bool {
        SERVED.get() == std::ptr::from_ref(self).addr()
    }

    fn serve_here(&self) {
        SERVED.set(std::ptr::from_ref(self).addr());
    }

    /// Queues a commit; after a stop it is dropped, and its actions with it.
    pub(crate) fn push(&self, commit: Commit) {
        let refused = {
            let mut pending = self.pending.lock();
            if pending.stop.is_some() {
                Some(commit)
            } else {
                pending.commits.push(commit);
                None
            }
        };
        match refused {
            // Dropped without the lock: what it holds may do anything, even submit again.
            Some(commit) => drop(commit),
            None => {
                self.wake.notify_one();
            }
        }
    }

    pub(crate) fn stop(&self, stop: Stop) {
        let abandoned = {
            let mut pending = self.pending.lock();
            if pending.stop != Some(Stop::Abandoned) {
                pending.stop = Some(stop);
            }
            match stop {
                Stop::Drained => Vec::new(),
                Stop::Abandoned => std::mem::take(&mut pending.commits),
            }
        };
        drop(abandoned);
        self.wake.notify_one();
    }

    /// Everything queued, which may be nothing.
    pub(crate) fn try_take(&self) -> Vec<Commit> {
        std::mem::take(&mut self.pending.lock().commits)
    }

    /// Everything queued, waiting for something; none when the thread is to end.
    fn take(&self) -> Option<Vec<Commit>> {
        let mut pending = self.pending.lock();
        loop {
            if !pending.commits.is_empty() {
                return Some(std::mem::take(&mut pending.commits));
            }
            if pending.stop.is_some() {
                return None;
            }
            self.wake.wait(&mut pending);
        }
    }
}

/// The thread's own state.
pub(crate) struct Committer {
    pub(crate) database: Arc<dyn Database>,
    pub(crate) tap: Arc<Tap>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) failure: Arc<watch::Sender<Option<String>>>,
}

/// What is applied and not yet durable.
#[derive(Default)]
struct Round {
    batch: Vec<Write>,
    operations: usize,
    afterwards: Actions,
    commits: u64,
}

/// Why the engine failed, and what never happens now: dropped only when the failure is known, so that
/// those who wait for it learn why.
pub(crate) struct Broken {
    pub(crate) reason: String,
    _never: (std::vec::IntoIter<Commit>, Round),
}

/// What follows a round, in the order of its commits.
pub(crate) type Actions = VecDeque<Afterwards>;

impl Committer {
    /// Runs until the queue is stopped or the engine fails, and every action that may run has run.
    pub(crate) fn run(self) {
        let (durable, rounds) = sync_channel(ROUNDS_AHEAD);
        thread::scope(|scope| {
            let follow = thread::Builder::new().name("brolly-afterwards".to_owned());
            match follow.spawn_scoped(scope, || self.follow(rounds)) {
                Ok(follow) => {
                    let broken = self.commit_all(durable);
                    // What is durable is answered before anybody learns that no more will be.
                    let _ = follow.join();
                    if let Some(broken) = &broken {
                        self.fail(broken.reason.clone());
                    }
                }
                Err(error) => self.fail(format!("no thread for what follows a commit: {error}")),
            }
        });
    }

    /// A failure is for good: no engine can say what of a failed flush reached the disk, so nothing may
    /// be answered after it.
    fn commit_all(&self, durable: SyncSender<Actions>) -> Option<Broken> {
        self.queue.serve_here();
        while let Some(commits) = self.queue.take() {
            if let Err(broken) = self.commit(commits, &durable) {
                return Some(*broken);
            }
        }
        None
    }

    /// Makes commits durable, and what is queued meanwhile.
    pub(crate) fn commit(
        &self,
        commits: Vec<Commit>,
        durable: &SyncSender<Actions>,
    ) -> Result<(), Box<Broken>> {
        let mut commits = commits.into_iter();
        let mut round = Round::default();
        let write = || self.write_all(&mut commits, &mut round, durable);
        let written = std::panic::catch_unwind(AssertUnwindSafe(write))
            .unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))));
        written.map_err(|reason| Box::new(Broken { reason, _never: (commits, round) }))
    }

    /// Runs the actions of durable rounds. One that panics fails the store: nobody knows what it left
    /// undone, so none after it may run.
    fn follow(&self, rounds: Receiver<Actions>) {
        self.queue.serve_here();
        let mut failed = false;
        for round in rounds {
            failed = failed || !self.follow_one(round);
        }
    }

    /// Runs the actions of one round; answers whether all of them did.
    pub(crate) fn follow_one(&self, mut round: Actions) -> bool {
        let run = || {
            while let Some(action) = round.pop_front() {
                action();
            }
        };
        let ran = std::panic::catch_unwind(AssertUnwindSafe(run));
        if let Err(panic) = &ran {
            self.fail(format!("panic: {}", panic_text(&**panic)));
        }
        ran.is_ok()
    }

    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(%reason, "the store has failed; nothing more becomes durable");
        self.failure.send_replace(Some(reason));
        self.queue.stop(Stop::Abandoned);
    }

    /// Makes commits durable, and with them what is queued while they are applied, up to one round:
    /// the busier the store, the more commits share a flush.
    fn write_all(
        &self,
        commits: &mut std::vec::IntoIter<Commit>,
        round: &mut Round,
        durable: &SyncSender<Actions>,
    ) -> Result<(), String> {
        loop {
            self.write(commits, round, durable)?;
            self.apply(round)?;
            let more = self.queue.try_take();
            if more.is_empty() {
                return self.finish(round, durable);
            }
            *commits = more.into_iter();
        }
    }

    /// INVARIANT: whatever fails, the actions that did not run are still in `commits` or `round`, so
    /// that they are dropped only after the failure is known.
    fn write(
        &self,
        commits: &mut std::vec::IntoIter<Commit>,
        round: &mut Round,
        durable: &SyncSender<Actions>,
    ) -> Result<(), String> {
        while let Some(next) = commits.as_slice().first() {
            check_sizes(next.writes()).map_err(|error| error.to_string())?;
            let operations = next.writes().len();
            if round.operations > 0 && round.operations + operations > ROUND_OPERATIONS {
                self.finish(round, durable)?;
            }
            if !round.batch.is_empty() && round.batch.len() + operations > BATCH_OPERATIONS {
                self.apply(round)?;
            }
            let Some(commit) = commits.next() else { break };
            let (writes, afterwards) = commit.into_parts();
            round.batch.extend(writes);
            round.operations += operations;
            round.afterwards.extend(afterwards);
            round.commits += 1;
        }
        Ok(())
    }

    fn apply(&self, round: &mut Round) -> Result<(), String> {
        let batch = std::mem::take(&mut round.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.tap.apply(&*self.database, batch).map_err(|reason| format!("writing failed: {reason}"))
    }

    fn finish(&self, round: &mut Round, durable: &SyncSender<Actions>) -> Result<(), String> {
        self.apply(round)?;
        if round.operations > 0 {
            self.database.flush().map_err(|reason| format!("syncing failed: {reason}"))?;
        }
        self.counters.count(round.commits, round.operations);
        (round.operations, round.commits) = (0, 0);
        // The other thread ends only after this one.
        let _ = durable.send(std::mem::take(&mut round.afterwards));
        Ok(())
    }
}
