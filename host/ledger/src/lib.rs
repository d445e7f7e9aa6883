//! What became of every delivery: attempts, outcomes, effects and dead letters, one file per table.
//!
//! Called by dispatch, around each attempt: [`Ledger::begin`] before the handler runs,
//! [`Ledger::finish`] after it. Knows the store; knows no broker and no runtime: what they need
//! written with an outcome they add to the same [`Commit`].

mod dead_letters;
mod deliveries;
mod edited;
mod error;
mod feeds;
mod history;
mod retention;
mod state;
mod tally;
mod versions;

use std::{path::PathBuf, sync::Arc, time::Duration};

use brolly_core::{
    Accepted, Code, Commit, Decision, Delivery, Digest, Effects, LogLine, Message, MessageId, Name, Origin,
    Refusal, Settlement, StateEntry, Timestamp,
};
use brolly_store::{Claim, Identity, Messages, Store, keys};

pub use brolly_store::{BackedUp, Backup, StoredMessage};
pub use dead_letters::{DeadLetter, DeadLetters, Left, Reason, Reasons};
pub use deliveries::{Attempt, AttemptOutcome, Status};
pub use error::Error;
pub use feeds::Heard;
pub use history::{DeliveryHistory, Found, History, Search};
pub use retention::Swept;
pub use state::StateView;
pub use tally::Tally;
pub use versions::{Cause, Side, Swap};

use deliveries::DeliveryRow;
use state::States;

/// The ledger of one data directory.
pub struct Ledger {
    store: Store,
    messages: Messages,
    states: States,
    dead_letters: DeadLetters,
    host: String,
}

/// What the ledger knows of a delivery that a broker hands out.
#[derive(Debug)]
pub enum Begin {
    /// It is to be handled.
    Attempt(Box<Begun>),
    /// It was decided before; the broker only has to be told again.
    Decided(Settlement),
    /// It came again before its retry was due: it is to be handled after so long.
    Early(Duration),
}

/// An attempt that has begun.
#[derive(Debug)]
pub struct Begun {
    subscription: Name,
    queue: Name,
    seq: u64,
    /// Held until its outcome is durable, so that its message is not forgotten meanwhile; none for one that
    /// its queue holds.
    claim: Option<Arc<Claim>>,
    /// Whether the message table has the message.
    is_stored: bool,
    row: Option<DeliveryRow>,
    /// Counts from 1, anew after a replay; what retry policies look at.
    pub attempt: u32,
    /// The same for every attempt, redelivery and replay of this delivery.
    pub idempotency_key: String,
}

impl Begun {
    /// The number of the message.
    #[must_use]
    pub fn record(&self) -> u64 {
        self.seq
    }

    /// Where messages that the attempt publishes come from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { record: self.seq, subscription: self.subscription.clone() }
    }
}

/// What an attempt came to.
#[derive(Debug)]
pub struct Finished<'a> {
    /// What is done with the delivery.
    pub decision: &'a Decision,
    /// How the handler put it.
    pub outcome: AttemptOutcome,
    /// Its effects; taken only with [`Decision::Ack`].
    pub effects: &'a Effects,
    /// The plugin version that handled it.
    pub version: Option<Digest>,
    /// When the attempt began.
    pub at: Timestamp,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The most memory it had, in bytes.
    pub memory_bytes: u64,
    /// What it logged.
    pub logs: Vec<LogLine>,
    /// Lines that the log limit dropped.
    pub logs_dropped: u64,
}

/// Whether an attempt could be finished.
#[derive(Debug, PartialEq, Eq)]
pub enum Finish {
    /// It is on its way to the disk; what was added with [`Commit::then`] follows once it is there.
    Submitted,
    /// Another attempt has changed state that this one read: run it again, on the state of now.
    Conflict,
}

impl Ledger {
    /// Opens the ledger over a store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: Store, messages: Messages) -> Result<Self, Error> {
        let dead_letters = DeadLetters::open(&store)?;
        let states = States::new(store.clone());
        let host = feeds::host(&store)?;
        Ok(Self { store, messages, states, dead_letters, host })
    }

    /// A name that this host keeps for as long as it has its data, and that no other host has.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Copies everything that is stored into a folder, while it goes on; [`Backup::finish`] ends it. Blocks.
    ///
    /// # Errors
    /// When another copy is being made, there is too little free space, or the folder cannot be written.
    pub fn back_up(&self, dir: PathBuf) -> Result<Backup, Error> {
        Backup::begin(&self.messages, dir).map_err(|error| match error {
            brolly_store::Error::Copy { reason, .. } => {
                Refusal::new(Code::Unavailable, format!("no backup is made: {reason}")).into()
            }
            other => other.into(),
        })
    }

    /// The dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> &DeadLetters {
        &self.dead_letters
    }

    /// Begins an attempt at a delivery. `forwards` says that it is moved elsewhere: then one that was
    /// acknowledged is attempted once more when it has come back ([`Ledger::returns`]).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn begin(
        &self,
        subscription: &Name,
        queue: &Name,
        delivery: &Delivery,
        forwards: bool,
        now: Timestamp,
    ) -> Result<Begin, Error> {
        let message = &*delivery.message;
        // What nobody has met has no attempt. A claim, though, may outlive the commit that ends it by a
        // moment in which this very delivery is seen again: then there is a row.
        let (seq, claim, is_stored, is_new) = match delivery.record {
            Some(seq) => (seq, None, true, false),
            None => match self.messages.identify(&message.topic, &message.id)? {
                Identity::Known(claim) | Identity::Met(claim) => (claim.seq(), Some(claim), true, false),
                Identity::Pending(claim) => (claim.seq(), Some(claim), false, false),
                Identity::New(claim) => (claim.seq(), Some(claim), false, true),
            },
        };
        let row = match delivery.first || is_new {
            true => None,
            false => deliveries::read(&self.store, seq, subscription)?,
        };
        let elsewhere = row.is_none() && is_stored && !delivery.first;
        if elsewhere && deliveries::decided_by_another(&self.store, seq, subscription, queue)? {
            return Ok(Begin::Decided(Settlement::Ack));
        }
        if let Some(row) = &row {
            let is_back = forwards && row.status == Status::Acked && row.queue.is_none();
            let open = row.status == Status::Waiting || is_back;
            if !open {
                return Ok(Begin::Decided(Settlement::Ack));
            }
            if let Some(early) = row.last.early(now) {
                return Ok(Begin::Early(early));
            }
        }
        Ok(Begin::Attempt(Box::new(Begun {
            subscription: subscription.clone(),
            queue: queue.clone(),
            seq,
            claim,
            is_stored,
            attempt: row.as_ref().map_or(delivery.attempts, |row| row.counted).saturating_add(1),
            idempotency_key: idempotency_key(subscription, message),
            row,
        })))
    }

    /// Notes that a message comes to a topic in which it may have been before, and was moved away: what
    /// its queues had done with it then says nothing any more. To be called before it is sent.
    ///
    /// # Errors
    /// When the store cannot be read, or fails.
    pub async fn returns(&self, topic: &Name, id: &str) -> Result<(), Error> {
        let Some(held) = self.messages.hold(topic, id)? else { return Ok(()) };
        let seq = held.seq();
        let mut commit = Commit::default();
        for row in deliveries::of_message(&self.store, seq) {
            let (subscription, mut row) = row?;
            // Any other row may be written by an attempt right now.
            if row.status != Status::Acked || row.queue.take().is_none() {
                continue;
            }
            commit.put(keys::delivery(seq, &subscription), deliveries::encode(&row)?);
        }
        commit.then(move || drop(held));
        Ok(self.store.commit(commit).await?)
    }

    /// Hands over a commit that settles what was decided before.
    pub fn submit(&self, commit: Commit) {
        self.store.submit(commit);
    }

    /// Entries of a subscription's state for people, in the order of keys, from the first after
    /// `after` on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn state_entries(
        &self,
        subscription: &Name,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, Error> {
        Ok(self.states.view(subscription).entries(prefix, after, limit)?)
    }

    /// The state of a subscription as one attempt sees it.
    #[must_use]
    pub fn state(&self, subscription: &Name) -> StateView {
        self.states.view(subscription)
    }

    /// Finishes an attempt: outcome, effects, and whatever `stage` adds become durable together.
    /// `stage` runs only if there is no conflict; it answers with what was published.
    ///
    /// # Errors
    /// Whatever `stage` fails with (nothing is written then), or a failing store.
    pub fn finish<E: From<Error>>(
        &self,
        begun: &Begun,
        message: &Arc<Message>,
        finished: Finished<'_>,
        view: &StateView,
        stage: impl FnOnce(&mut Commit) -> Result<Vec<Accepted>, E>,
    ) -> Result<Finish, E> {
        let writes = match finished.decision {
            Decision::Ack => Some(&finished.effects.state),
            Decision::Retry { .. } | Decision::DeadLetter { .. } | Decision::Release { .. } => None,
        };
        view.finish(writes, || {
            let mut commit = Commit::default();
            let published = stage(&mut commit)?;
            self.stage_outcome(begun, message, finished, published, &mut commit)?;
            Ok(commit)
        })
    }

    fn stage_outcome(
        &self,
        begun: &Begun,
        message: &Arc<Message>,
        finished: Finished<'_>,
        published: Vec<Accepted>,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let status = match finished.decision {
            // Nothing happened to the delivery that its history should tell.
            Decision::Release { .. } => return Ok(()),
            Decision::Ack => Status::Acked,
            Decision::Retry { .. } => Status::Waiting,
            Decision::DeadLetter { reason } => {
                self.dead_letters.stage(begun, message, reason, finished.at, commit)?;
                Status::Dead
            }
        };
        if !begun.is_stored {
            let stored = StoredMessage {
                message: message.clone(),
                met_at: finished.at,
                routed: vec![begun.queue.clone()],
                filter_errors: Vec::new(),
                parent: None,
            };
            self.messages.stage_met(begun.seq, &stored, commit)?;
        }
        if let Some(claim) = begun.claim.clone() {
            commit.then(move || drop(claim));
        }
        let published = published.into_iter().map(|accepted| (accepted.topic, accepted.id)).collect();
        deliveries::stage(begun, status, finished, published, commit)
    }
}

/// What names a delivery for ever: subscription, topic and id; the ids are the producers' own.
#[must_use]
pub fn idempotency_key(subscription: &Name, message: &Message) -> String {
    let id: &MessageId = &message.id;
    let mut key =
        String::with_capacity(subscription.as_str().len() + message.topic.as_str().len() + id.len() + 2);
    key.push_str(subscription.as_str());
    key.push('/');
    key.push_str(message.topic.as_str());
    key.push('/');
    key.push_str(id);
    key
}

#[cfg(test)]
mod tests;
