//! The audit log: who changed what, from what, to what.
//!
//! A change of a definition and its record are one commit, so that neither is ever without the
//! other. What is done to dead letters is recorded before it is done.

use std::sync::atomic::{AtomicU64, Ordering};

use brolly_core::{Commit, Name, Timestamp};
use brolly_store::{Store, keys};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Catalog, Error};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Something new was made.
    Create,
    /// Something was replaced; pausing and resuming are of this kind.
    Replace,
    /// Something was deleted.
    Delete,
    /// Dead letters were sent back to their queue.
    Replay,
    /// Dead letters were deleted.
    Discard,
    /// An edited copy of a dead letter was sent to its queue, in its place.
    Edit,
    /// An alert was seen by somebody.
    Acknowledge,
    /// A copy of everything was made.
    Backup,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its place in the log; the first is 1.
    #[serde(skip)]
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// The token of whoever made it; none for the host itself.
    pub by: Option<Name>,
    /// What was done.
    pub action: Action,
    /// To which kind of thing: the word of a definition's kind.
    pub kind: String,
    /// To which one.
    pub name: Name,
    /// What was there before, without secrets; none if nothing was.
    pub before: Option<Value>,
    /// What is there now, or what was done to dead letters; none after a deletion.
    pub after: Option<Value>,
}

/// Which records are wanted; everything given must hold.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Of changes to this kind of thing.
    pub kind: Option<String>,
    /// Of changes to things of this name.
    pub name: Option<Name>,
    /// Of changes by this token.
    pub by: Option<Name>,
    /// Not of changes to this kind of thing.
    pub without: Option<&'static str>,
}

impl Records {
    fn want(&self, record: &Record) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == record.kind)
            && self.name.as_ref().is_none_or(|name| *name == record.name)
            && (self.by.is_none() || self.by == record.by)
            && self.without.is_none_or(|kind| kind != record.kind)
    }
}

/// The numbers of the log.
pub(crate) struct Audit {
    next: AtomicU64,
}

impl Audit {
    /// Records kept; an older one goes with each new one.
    pub const KEPT: u64 = 100_000;
    /// Bytes of one side of a change as JSON; of a larger one only the size is kept.
    const SIDE_BYTES: usize = 48 * 1024;

    pub(crate) fn open(store: &Store) -> Result<Self, Error> {
        let latest = store.scan_back(&keys::audit_prefix(), None).next().transpose()?;
        let latest = latest.and_then(|(key, _)| keys::parse_audit(&key));
        Ok(Self { next: AtomicU64::new(latest.unwrap_or(0) + 1) })
    }

    /// Adds a record, whose number is ignored, and the removal of the one that is too old.
    pub(crate) fn stage(&self, mut record: Record, commit: &mut Commit) -> Result<(), Error> {
        record.before = record.before.map(bounded);
        record.after = record.after.map(bounded);
        let row = serde_json::to_vec(&record).map_err(|source| unreadable(&record.name, source))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        commit.put(keys::audit(number), row);
        if let Some(old) = number.checked_sub(Self::KEPT) {
            commit.delete(keys::audit(old));
        }
        Ok(())
    }
}

fn bounded(side: Value) -> Value {
    let bytes = side.to_string().len();
    if bytes > Audit::SIDE_BYTES { json!({ "omitted_bytes": bytes }) } else { side }
}

fn unreadable(name: impl ToString, source: serde_json::Error) -> Error {
    Error::Row { kind: "audit record", name: name.to_string(), source }
}

impl Catalog {
    /// The most records that one call of [`Catalog::audit`] looks at.
    pub const AUDIT_BUDGET: usize = 10_000;

    /// Records that something other than a definition is about to be changed; durable when it answers.
    ///
    /// # Errors
    /// A failing store.
    pub async fn record(
        &self,
        by: Option<&Name>,
        action: Action,
        kind: &str,
        name: &Name,
        after: Value,
    ) -> Result<(), Error> {
        let mut commit = Commit::default();
        let record = Record {
            number: 0,
            at: self.clock.now(),
            by: by.cloned(),
            action,
            kind: kind.to_owned(),
            name: name.clone(),
            before: None,
            after: Some(after),
        };
        self.audit.stage(record, &mut commit)?;
        Ok(self.store.commit(commit).await?)
    }

    /// Records, the latest first and before the one with the number `before`; and where to go on, if
    /// there may be more. A part may have fewer records than `limit`, and still go on. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn audit(
        &self,
        wanted: &Records,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Record>, Option<u64>), Error> {
        let before = before.map(keys::audit);
        let mut found = Vec::new();
        for (looked, row) in self.store.scan_back(&keys::audit_prefix(), before.as_deref()).enumerate() {
            let (key, value) = row?;
            let number = keys::parse_audit(&key).unwrap_or_default();
            if found.len() >= limit || looked >= Self::AUDIT_BUDGET {
                return Ok((found, Some(number + 1)));
            }
            let record: Record =
                serde_json::from_slice(&value).map_err(|source| unreadable(number, source))?;
            if wanted.want(&record) {
                found.push(Record { number, ..record });
            }
        }
        Ok((found, None))
    }
}
