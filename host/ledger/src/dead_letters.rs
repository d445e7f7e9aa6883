//! The dead-letter table: deliveries that were rejected or ran out of attempts, by queue, kept until
//! someone replays or deletes them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use brolly_core::{Code, Commit, Message, MessageId, Name, Refusal, Timestamp};
use brolly_store::{Store, keys};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    Begun, Error, Ledger, Status,
    deliveries::{self, DeliveryRow},
};

/// A delivery that nobody will handle until someone decides what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where the message table has the message; also the place in the listing.
    pub seq: u64,
    /// The message's id.
    pub message_id: MessageId,
    /// The message's topic.
    pub topic: Name,
    /// The message's key.
    pub key: String,
    /// The subscription that gave it up.
    pub subscription: Name,
    /// Why.
    pub reason: String,
    /// Attempts since it was published or last replayed.
    pub attempts: u32,
    /// When it was given up.
    pub at: Timestamp,
}

/// Dead letters of one queue that have the same reason but for the numbers in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The reason, with `#` for every number.
    pub shape: String,
    /// The reason of the latest of them, whole.
    pub example: String,
    /// How many there are.
    pub count: u64,
    /// When the first of them was given up.
    pub first: Timestamp,
    /// When the latest of them was given up.
    pub latest: Timestamp,
}

impl Reason {
    /// Reasons told apart in one queue; the letters of any others are counted apart.
    pub const MAX: usize = 200;
    /// Dead letters that are looked at.
    pub const BUDGET: usize = 50_000;

    /// A reason with `#` for every number, so that those of orders that differ in nothing else are one.
    #[must_use]
    pub fn shape_of(reason: &str) -> String {
        let mut shape = String::with_capacity(reason.len());
        for letter in reason.chars() {
            if !letter.is_ascii_digit() {
                shape.push(letter);
            } else if !shape.ends_with('#') {
                shape.push('#');
            }
        }
        shape
    }
}

/// What the dead letters of a queue were given up for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// The reasons, the most frequent first.
    pub items: Vec<Reason>,
    /// Dead letters looked at, [`Reason::BUDGET`] at most.
    pub looked_at: u64,
    /// Those of them whose reason is not among the [`Reason::MAX`] told apart.
    pub others: u64,
}

#[derive(Serialize, Deserialize)]
struct Row {
    message_id: MessageId,
    topic: Name,
    key: String,
    subscription: Name,
    reason: String,
    attempts: u32,
    at: Timestamp,
}

/// What became of dead letters that were to be replayed or deleted and were not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Those that are there no more.
    pub missing: Vec<u64>,
    /// Those that stay where they are, each with what keeps it there.
    pub refused: Vec<(u64, Refusal)>,
}

/// How many dead letters each queue has, and who may change them now.
pub struct DeadLetters {
    counts: RwLock<HashMap<Name, Arc<AtomicU64>>>,
    /// INVARIANT: held by whoever replays or deletes, from reading a row until its removal is
    /// durable, so that a dead letter is replayed once however often it is asked for; and by the
    /// sweep of the history, so that no message moves from here to a queue while it looks.
    pub(crate) desk: Mutex<()>,
}

impl DeadLetters {
    pub(crate) fn open(store: &Store) -> Result<Self, Error> {
        let mut counts: HashMap<Name, Arc<AtomicU64>> = HashMap::new();
        for row in store.scan(&keys::dead_letters_prefix(), None) {
            let (key, _) = row?;
            if let Some((queue, _)) = keys::parse_dead_letter(&key) {
                counts.entry(queue).or_default().fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(Self { counts: RwLock::new(counts), desk: Mutex::new(()) })
    }

    /// How many dead letters a queue has.
    #[must_use]
    pub fn count(&self, queue: &Name) -> u64 {
        self.counts.read().get(queue).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn counter(&self, queue: &Name) -> Arc<AtomicU64> {
        if let Some(counter) = self.counts.read().get(queue) {
            return counter.clone();
        }
        self.counts.write().entry(queue.clone()).or_default().clone()
    }

    pub(crate) fn stage(
        &self,
        begun: &Begun,
        message: &Message,
        reason: &str,
        at: Timestamp,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let row = Row {
            message_id: message.id.clone(),
            topic: message.topic.clone(),
            key: message.key.clone(),
            subscription: begun.subscription.clone(),
            reason: reason.to_owned(),
            attempts: begun.attempt,
            at,
        };
        commit.put(keys::dead_letter(&begun.queue, begun.seq), deliveries::encode(&row)?);
        let counter = self.counter(&begun.queue);
        commit.then(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        Ok(())
    }

    /// Adds to the commit that a dead letter is none any more. For whoever holds the desk.
    pub(crate) fn stage_removal(&self, queue: &Name, key: Vec<u8>, commit: &mut Commit) {
        commit.delete(key);
        let counter = self.counter(queue);
        commit.then(move || {
            counter.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

impl Ledger {
    /// Dead letters of a queue, oldest message first, from the first after `after` on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list_dead_letters(
        &self,
        queue: &Name,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let prefix = keys::dead_letter_prefix(queue);
        let after = after.map(|seq| keys::dead_letter(queue, seq));
        let rows = self.store.scan(&prefix, after.as_deref()).take(limit);
        rows.map(|row| {
            let (key, value) = row?;
            dead_letter(&key, &value)
        })
        .collect()
    }

    /// What the dead letters of a queue were given up for, from those of the oldest messages on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn dead_letter_reasons(&self, queue: &Name) -> Result<Reasons, Error> {
        let mut found: HashMap<String, Reason> = HashMap::new();
        let mut reasons = Reasons::default();
        for row in self.store.scan(&keys::dead_letter_prefix(queue), None).take(Reason::BUDGET) {
            let (key, value) = row?;
            let letter = dead_letter(&key, &value)?;
            reasons.looked_at += 1;
            let shape = Reason::shape_of(&letter.reason);
            if let Some(known) = found.get_mut(&shape) {
                known.count += 1;
                known.first = known.first.min(letter.at);
                if letter.at >= known.latest {
                    (known.latest, known.example) = (letter.at, letter.reason);
                }
            } else if found.len() < Reason::MAX {
                let (first, latest) = (letter.at, letter.at);
                let new = Reason { shape: shape.clone(), example: letter.reason, count: 1, first, latest };
                found.insert(shape, new);
            } else {
                reasons.others += 1;
            }
        }
        reasons.items = found.into_values().collect();
        reasons.items.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.shape.cmp(&b.shape)));
        Ok(reasons)
    }

    /// The first dead letters of a queue, up to `limit`, that satisfy `wanted`; and whether there
    /// may be more.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn select_dead_letters(
        &self,
        queue: &Name,
        wanted: impl Fn(&DeadLetter) -> bool,
        limit: usize,
    ) -> Result<(Vec<DeadLetter>, bool), Error> {
        let mut selected = Vec::new();
        for row in self.store.scan(&keys::dead_letter_prefix(queue), None) {
            let (key, value) = row?;
            let letter = dead_letter(&key, &value)?;
            if wanted(&letter) {
                if selected.len() >= limit {
                    return Ok((selected, true));
                }
                selected.push(letter);
            }
        }
        Ok((selected, false))
    }

    /// Sends dead letters back to their queue, where they begin anew with a full number of attempts.
    /// `stage` adds what the broker needs; one for which it answers with a refusal stays.
    ///
    /// # Errors
    /// Whatever else `stage` fails with, for the whole call; a failing store.
    pub async fn replay<E: From<Error>>(
        &self,
        queue: &Name,
        seqs: &[u64],
        mut stage: impl FnMut(u64, &Message, &mut Commit) -> Result<Result<(), Refusal>, E>,
    ) -> Result<Left, E> {
        self.remove(queue, seqs, |seq, row, commit| {
            if let Some(row) = row {
                row.counted = 0;
                row.replays += 1;
                row.status = Status::Waiting;
            }
            match self.messages.load(seq).map_err(Error::from)? {
                Some(stored) => stage(seq, &stored.message, commit),
                None => Ok(Err(gone(seq))),
            }
        })
        .await
    }

    /// Deletes dead letters. Their history stays.
    ///
    /// # Errors
    /// A failing store.
    pub async fn discard(&self, queue: &Name, seqs: &[u64]) -> Result<Left, Error> {
        self.remove(queue, seqs, |_, row, _| {
            if let Some(row) = row {
                row.status = Status::Discarded;
            }
            Ok(Ok(()))
        })
        .await
    }

    async fn remove<E: From<Error>>(
        &self,
        queue: &Name,
        seqs: &[u64],
        mut change: impl FnMut(u64, Option<&mut DeliveryRow>, &mut Commit) -> Result<Result<(), Refusal>, E>,
    ) -> Result<Left, E> {
        let _desk = self.dead_letters.desk.lock().await;
        let mut left = Left::default();
        let mut last = None;
        for &seq in seqs {
            let key = keys::dead_letter(queue, seq);
            let Some(value) = self.store.get(&key).map_err(Error::from)? else {
                left.missing.push(seq);
                continue;
            };
            let letter = dead_letter(&key, &value)?;
            let mut commit = Commit::default();
            let mut row = deliveries::read(&self.store, seq, &letter.subscription)?;
            if let Err(refusal) = change(seq, row.as_mut(), &mut commit)? {
                left.refused.push((seq, refusal));
                continue;
            }
            if let Some(row) = row {
                commit.put(keys::delivery(seq, &letter.subscription), deliveries::encode(&row)?);
            }
            self.dead_letters.stage_removal(queue, key, &mut commit);
            // Only the last is waited for: commits become durable in order.
            if let Some(before) = last.replace(commit) {
                self.store.submit(before);
            }
        }
        if let Some(commit) = last {
            self.store.commit(commit).await.map_err(Error::from)?;
        }
        Ok(left)
    }
}

/// The message of a dead letter is not there.
pub(crate) fn gone(seq: u64) -> Refusal {
    let detail = format!("the message at {seq} is gone, so it cannot be replayed; delete the dead letter");
    Refusal::new(Code::NotFound, detail)
}

pub(crate) fn dead_letter(key: &[u8], value: &[u8]) -> Result<DeadLetter, Error> {
    let row: Row = deliveries::decode("dead letter", key, value)?;
    let seq = keys::seq_of(key).ok_or_else(|| Error::Row {
        table: "dead letter",
        row: key.escape_ascii().to_string(),
        why: "its key has no number".to_owned(),
    })?;
    Ok(DeadLetter {
        seq,
        message_id: row.message_id,
        topic: row.topic,
        key: row.key,
        subscription: row.subscription,
        reason: row.reason,
        attempts: row.attempts,
        at: row.at,
    })
}
