//! The message table: every message that any broker of this host has accepted or taken, once,
//! whatever number of queues and subscriptions it goes to. Called by the embedded broker and the
//! ledger; knows nothing of queues and outcomes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use brolly_core::{Commit, Message, MessageId, Name, Timestamp};
use bytes::Bytes;

use crate::{
    Error, Store,
    blobs::Blobs,
    claims::{Claim, Claimed, Claims},
    encoding::{self, Damaged},
    keys,
    recent::Recent,
};

/// Sequence numbers are set aside in blocks of so many; a restart skips the rest of its block.
const BLOCK: u64 = 1 << 16;

/// The meta row that holds the end of the last block set aside.
const FLOOR: &str = "seq";

/// A message and what became of it when it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The message.
    pub message: Arc<Message>,
    /// When this host accepted it, or finished its first attempt at it. When it was published may be what
    /// somebody elsewhere says, and is anything.
    pub met_at: Timestamp,
    /// The queues that it went to.
    pub routed: Vec<Name>,
    /// Routes whose filter could not be evaluated for it, with the reason.
    pub filter_errors: Vec<(Name, String)>,
    /// The delivery that published it, for a message published by a handler.
    pub parent: Option<Parent>,
}

/// The delivery whose handler published a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The message that was handled.
    pub seq: u64,
    /// The subscription that handled it.
    pub subscription: Name,
}

/// Whether the message of an id is known. It is not forgotten while the claim is held.
#[derive(Debug)]
pub enum Identity {
    /// It was accepted, and is stored.
    Known(Arc<Claim>),
    /// A delivery of it was taken, and it is stored. Whether all of its queues have it nobody has told: a
    /// publish that was cut off may have reached some of them.
    Met(Arc<Claim>),
    /// Nobody has met it before; it gets the number of the claim.
    New(Arc<Claim>),
    /// Others have met it and it is not stored yet; it gets the number that they share.
    Pending(Arc<Claim>),
}

/// The message table. Cheap to clone: all clones give out numbers from the same sequence.
#[derive(Clone)]
pub struct Messages {
    store: Store,
    next: Arc<AtomicU64>,
    blobs: Blobs,
    recent: Arc<Recent>,
    claims: Arc<Claims>,
}

impl Messages {
    /// Opens the table and removes payload files that a crash left without their message. To be
    /// called once for a store: two tables would give out the same numbers.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Corrupt`] or [`Error::File`].
    pub fn open(store: &Store) -> Result<Self, Error> {
        let blobs = Blobs::open(store.blobs_dir(), |seq| Ok(store.get(&keys::message(seq))?.is_some()))?;
        let floor_key = keys::meta(FLOOR);
        let floor = match store.get(&floor_key)? {
            None => 0,
            Some(value) => keys::u64_of(&value)
                .ok_or_else(|| Error::corrupt(&floor_key, "it is not a number of 8 bytes"))?,
        };
        let last = match store.scan_back(&keys::message_prefix(), None).next().transpose()? {
            None => 0,
            Some((key, _)) => {
                keys::parse_message(&key).ok_or_else(|| Error::corrupt(&key, "its key has no number"))?
            }
        };
        let next = floor.max(last).saturating_add(1);
        let messages = Self {
            store: store.clone(),
            next: Arc::new(AtomicU64::new(next)),
            blobs,
            recent: Arc::default(),
            claims: Arc::default(),
        };
        messages.set_aside(next);
        Ok(messages)
    }

    /// Gives out the next sequence number. Never the same one twice, not even after a crash: numbers
    /// given out and not used are lost.
    #[must_use]
    pub fn allocate(&self) -> u64 {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        if seq.is_multiple_of(BLOCK / 2) {
            self.set_aside(seq);
        }
        seq
    }

    /// INVARIANT: whenever a commit with number n is durable, so is a floor of at least n. Commits
    /// become durable in the order in which they are submitted, and this one is submitted half a
    /// block before the first number that needs it.
    fn set_aside(&self, seq: u64) {
        let mut commit = Commit::default();
        commit.put(keys::meta(FLOOR), seq.saturating_add(BLOCK).to_be_bytes().to_vec());
        self.store.submit(commit);
    }

    /// The message of an id in a topic.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Corrupt`] or [`Error::Closed`].
    pub fn find(&self, topic: &Name, id: &str) -> Result<Option<u64>, Error> {
        match self.claims.is_forgotten(topic, id) {
            true => Ok(None),
            false => Ok(self.look_up(topic, id)?.map(|(seq, _)| seq)),
        }
    }

    /// The message of an id in a topic, for who is about to write something of it: it is not forgotten
    /// while the claim is held.
    ///
    /// # Errors
    /// As [`Messages::find`].
    pub fn hold(&self, topic: &Name, id: &str) -> Result<Option<Arc<Claim>>, Error> {
        Ok(match self.identify(topic, id)? {
            Identity::Known(claim) | Identity::Met(claim) => Some(claim),
            Identity::New(_) => None,
            // It may be stored by now, while others still hold what they claimed before.
            Identity::Pending(claim) => self.find(topic, id)?.map(|_| claim),
        })
    }

    fn look_up(&self, topic: &Name, id: &str) -> Result<Option<(u64, Origin)>, Error> {
        let key = keys::index(id, topic);
        self.store.get(&key)?.map(|value| indexed(&key, &value)).transpose()
    }

    /// What is known of an id in a topic; whoever is the first to meet it gives it a number.
    ///
    /// # Errors
    /// As [`Messages::find`].
    pub fn identify(&self, topic: &Name, id: &str) -> Result<Identity, Error> {
        let claimed = self.claims.claim(topic, id, || self.look_up(topic, id), || self.allocate())?;
        Ok(match claimed {
            Claimed::Stored(claim, Origin::Accepted) => Identity::Known(claim),
            Claimed::Stored(claim, Origin::Met) => Identity::Met(claim),
            Claimed::New(claim) => Identity::New(claim),
            Claimed::Pending(claim) => Identity::Pending(claim),
        })
    }

    /// The messages of an id in all topics, sorted by topic.
    ///
    /// # Errors
    /// As [`Messages::find`].
    pub fn find_by_id(&self, id: &str) -> Result<Vec<(Name, u64)>, Error> {
        let found = self.store.scan(&keys::index_prefix(id), None).map(|row| {
            let (key, value) = row?;
            let (_, topic) =
                keys::parse_index(&key).ok_or_else(|| Error::corrupt(&key, "its key has no topic"))?;
            Ok((topic, indexed(&key, &value)?.0))
        });
        found.collect()
    }

    /// The ids of a topic that begin so, in no order that means anything.
    ///
    /// # Errors
    /// As [`Messages::find`].
    pub fn ids<'a>(
        &self,
        topic: &'a Name,
        beginning: &str,
    ) -> impl Iterator<Item = Result<MessageId, Error>> + use<'a> {
        self.store.scan(&keys::index_of_ids(beginning), None).filter_map(move |row| match row {
            Ok((key, _)) => {
                let (id, of) = keys::parse_index(&key)?;
                (of == *topic).then(|| Ok(id.to_owned()))
            }
            Err(error) => Some(Err(error)),
        })
    }

    /// Adds a message that is accepted, and its index entry, to a commit. A payload over 64 KiB is first
    /// written to a file and synced, so this may block.
    ///
    /// # Errors
    /// [`Error::File`] when the payload's file cannot be written; nothing is added then.
    pub fn stage(&self, seq: u64, stored: &StoredMessage, commit: &mut Commit) -> Result<(), Error> {
        self.stage_as(Origin::Accepted, seq, stored, commit)
    }

    /// The same for a message that is only known from a delivery of it.
    ///
    /// # Errors
    /// As [`Messages::stage`].
    pub fn stage_met(&self, seq: u64, stored: &StoredMessage, commit: &mut Commit) -> Result<(), Error> {
        self.stage_as(Origin::Met, seq, stored, commit)
    }

    fn stage_as(
        &self,
        origin: Origin,
        seq: u64,
        stored: &StoredMessage,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let key = keys::message(seq);
        let encoded = encoding::encode(stored).map_err(|reason| Error::corrupt(&key, reason))?;
        if let Some(file) = &encoded.file {
            self.blobs.write(seq, file)?;
        }
        let mut value = seq.to_be_bytes().to_vec();
        value.extend_from_slice(origin.mark());
        commit.put(keys::index(&stored.message.id, &stored.message.topic), value);
        commit.put(key, encoded.row);
        self.recent.insert(seq, &stored.message);
        Ok(())
    }

    /// What was published under a number, without what became of it: as [`Messages::load`], and at
    /// once for a message that was staged a moment ago, durable or not.
    ///
    /// # Errors
    /// As [`Messages::load`].
    pub fn message(&self, seq: u64) -> Result<Option<Arc<Message>>, Error> {
        match self.recent.get(seq) {
            Some(message) => Ok(Some(message)),
            None => Ok(self.load(seq)?.map(|stored| stored.message)),
        }
    }

    /// A message by its number. Reads a file for a payload over 64 KiB.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Corrupt`], [`Error::File`] or [`Error::Closed`].
    pub fn load(&self, seq: u64) -> Result<Option<StoredMessage>, Error> {
        let key = keys::message(seq);
        let Some(row) = self.store.get(&key)? else { return Ok(None) };
        match self.decode(seq, &row, true) {
            // Removed between the two looks: then it is simply not there.
            Err(_) if self.store.get(&key)?.is_none() => Ok(None),
            decoded => decoded.map(Some),
        }
    }

    /// The messages from the newest on, with `before` from the one before that number on.
    pub fn newest(&self, before: Option<u64>) -> Listing {
        let before = before.map(keys::message);
        self.listing(Box::new(self.store.scan_back(&keys::message_prefix(), before.as_deref())))
    }

    /// The messages from the oldest on, with `after` from the one after that number on.
    pub fn oldest(&self, after: Option<u64>) -> Listing {
        let after = after.map(keys::message);
        self.listing(Box::new(self.store.scan(&keys::message_prefix(), after.as_deref())))
    }

    fn listing(&self, rows: Rows) -> Listing {
        Listing { messages: self.clone(), rows, payloads: true }
    }

    /// Forgets a message, unless somebody holds it; tells whether it goes. `rest` is asked while nobody can
    /// come by its id: it adds what is to go along and answers whether the message is to go at all. Its
    /// payload's file, if it has one, goes after the commit is durable.
    ///
    /// # Errors
    /// Those of `rest`; then the message stays.
    pub fn forget<E>(
        &self,
        seq: u64,
        message: &Message,
        rest: impl FnOnce(&mut Commit) -> Result<bool, E>,
    ) -> Result<bool, E> {
        self.claims.forget(&message.topic, &message.id, |gone| {
            let mut commit = Commit::default();
            if !rest(&mut commit)? {
                return Ok(false);
            }
            commit.delete(keys::index(&message.id, &message.topic));
            commit.delete(keys::message(seq));
            self.recent.remove(seq);
            let blobs = self.blobs.has(seq).then(|| self.blobs.clone());
            commit.then(move || {
                if let Some(blobs) = blobs {
                    blobs.remove(seq);
                }
                drop(gone);
            });
            self.store.submit(commit);
            Ok(true)
        })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    fn decode(&self, seq: u64, row: &Bytes, payloads: bool) -> Result<StoredMessage, Error> {
        let damaged = |reason: String| Error::corrupt(&keys::message(seq), reason);
        let file = |length: u64| {
            let bytes = self.blobs.read(seq).map_err(Failure::Error)?;
            let bytes = bytes.ok_or_else(|| Failure::Damaged("its payload's file is missing".to_owned()))?;
            match u64::try_from(bytes.len()) {
                Ok(found) if found == length => Ok(bytes),
                _ => Err(Failure::Damaged(format!(
                    "its payload's file has {} bytes, not {length}",
                    bytes.len()
                ))),
            }
        };
        encoding::decode(row, payloads, file).map_err(|failure| match failure {
            Failure::Damaged(reason) => damaged(reason),
            Failure::Error(error) => error,
        })
    }
}

enum Failure {
    Damaged(String),
    Error(Error),
}

impl From<Damaged> for Failure {
    fn from(damaged: Damaged) -> Self {
        Failure::Damaged(damaged.0)
    }
}

/// How a message came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Accepted,
    Met,
}

impl Origin {
    /// What follows the number in the index.
    fn mark(self) -> &'static [u8] {
        match self {
            Origin::Accepted => &[],
            Origin::Met => &[1],
        }
    }
}

fn indexed(key: &[u8], value: &[u8]) -> Result<(u64, Origin), Error> {
    let (seq, origin) = match value {
        [seq @ .., 1] if seq.len() == 8 => (seq, Origin::Met),
        seq => (seq, Origin::Accepted),
    };
    let seq = keys::u64_of(seq).ok_or_else(|| Error::corrupt(key, "it is no number of 8 bytes"))?;
    Ok((seq, origin))
}

type Rows = Box<dyn Iterator<Item = Result<(Bytes, Bytes), Error>> + Send>;

/// Messages one after the other, each read when it is asked for; skipped ones are not decoded.
/// A damaged message is an error, and the next one follows.
pub struct Listing {
    messages: Messages,
    rows: Rows,
    payloads: bool,
}

impl Listing {
    /// Leaves the payloads empty and opens no file for them.
    #[must_use]
    pub fn without_payloads(self) -> Self {
        Self { payloads: false, ..self }
    }

    fn read(&self, row: Result<(Bytes, Bytes), Error>) -> Option<Result<(u64, StoredMessage), Error>> {
        let (key, row) = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        let Some(seq) = keys::parse_message(&key) else {
            return Some(Err(Error::corrupt(&key, "its key has no number")));
        };
        match self.messages.decode(seq, &row, self.payloads) {
            Ok(stored) => Some(Ok((seq, stored))),
            Err(error) => match self.messages.store.get(&key) {
                // Removed since the scan came by.
                Ok(None) => None,
                _ => Some(Err(error)),
            },
        }
    }
}

impl Iterator for Listing {
    type Item = Result<(u64, StoredMessage), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let row = self.rows.next()?;
            if let Some(item) = self.read(row) {
                return Some(item);
            }
        }
    }

    fn nth(&mut self, skipped: usize) -> Option<Self::Item> {
        for _ in 0..skipped {
            if let Err(error) = self.rows.next()? {
                return Some(Err(error));
            }
        }
        self.next()
    }
}
