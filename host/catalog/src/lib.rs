//! What is wanted: every definition that an operator made, validated as a whole, durable, with
//! revisions. The supervisor compares it with what runs.
//!
//! Called by the dispatch `Handle`; knows the store, but no broker and no runtime. Readers take a
//! [`Snapshot`], which never changes under them; writers go one at a time and are durable before
//! anybody sees what they wrote.

mod audit;
mod definition;
mod error;
mod plugin;
mod references;
mod signature;
mod snapshot;
mod token;

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use brolly_core::{Clock, Code, Commit, Name, Refusal};
use brolly_store::{Store, keys};
use tokio::sync::{Mutex, watch};

use audit::Audit;

pub use audit::{Action, Record, Records};
pub use definition::{Definition, Kind};
pub use error::Error;
pub use plugin::{Plugin, Samples, Version};
pub use signature::Keys;
pub use snapshot::{Entry, Snapshot};
pub use token::{Grant, Rights, Role, Token};

/// The wanted state. Cheap to share; one per data directory.
pub struct Catalog {
    store: Store,
    clock: Arc<dyn Clock>,
    /// Where uploaded plugins lie, one file per version.
    plugins: PathBuf,
    current: ArcSwap<Snapshot>,
    /// INVARIANT: held from reading the snapshot that a change is checked against until the changed
    /// one is published, so that two changes cannot pass each other.
    writer: Mutex<()>,
    changed: watch::Sender<u64>,
    audit: Audit,
}

/// What must hold of a definition for a change to it to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// It must not exist.
    Absent,
    /// It must exist, at whatever revision.
    Present,
    /// It must be at this revision.
    Revision(u64),
}

/// A definition that was put.
#[derive(Clone, Debug)]
pub struct Put<T> {
    /// The definition as it stands now.
    pub entry: Entry<T>,
    /// Whether it is new.
    pub created: bool,
}

impl Catalog {
    /// The most definitions of one kind.
    pub const MAX_DEFINITIONS: usize = 100_000;

    /// Reads the whole catalog from the store.
    ///
    /// # Errors
    /// When the store cannot be read, or a row is not understood.
    pub fn open(store: Store, plugins: PathBuf, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        std::fs::create_dir_all(&plugins).map_err(|source| Error::File {
            operation: "create",
            path: plugins.clone(),
            source,
        })?;
        let snapshot = Snapshot::read(&store)?;
        let (changed, _) = watch::channel(snapshot.revision);
        let audit = Audit::open(&store)?;
        Ok(Self {
            store,
            clock,
            plugins,
            current: ArcSwap::from_pointee(snapshot),
            writer: Mutex::new(()),
            changed,
            audit,
        })
    }

    /// Everything as it is wanted now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Follows the revision of the snapshot, which grows with every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Creates or replaces a definition, once it is consistent with all others. The audit log has it
    /// as a change `by` a token, or by the host itself.
    ///
    /// # Errors
    /// [`Error::Refused`] when the definition, a reference or the precondition does not hold.
    pub async fn put<T: Definition>(
        &self,
        name: &Name,
        value: T,
        only_if: Precondition,
        by: Option<&Name>,
    ) -> Result<Put<T>, Error> {
        self.update(name, only_if, by, |_| Ok(value)).await
    }

    /// Makes a definition from the one that is there, without anyone coming in between.
    ///
    /// # Errors
    /// As [`Catalog::put`], and whatever `change` refuses.
    pub async fn update<T: Definition>(
        &self,
        name: &Name,
        only_if: Precondition,
        by: Option<&Name>,
        change: impl FnOnce(Option<&T>) -> Result<T, Refusal>,
    ) -> Result<Put<T>, Error> {
        let _writer = self.writer.lock().await;
        let before = self.snapshot();
        let present = T::map(&before).get(name);
        check_precondition::<T>(name, present, only_if)?;
        if present.is_none() && T::map(&before).len() >= Self::MAX_DEFINITIONS {
            let detail =
                format!("there are {} {}s already, the limit", Self::MAX_DEFINITIONS, T::KIND.word());
            return Err(Refusal::new(Code::InvalidDefinition, detail).into());
        }
        let value = change(present.map(|entry| &*entry.value))?.merged(present.map(|entry| &*entry.value));
        value.check(name, &before)?;
        let now = self.clock.now();
        if let Some(entry) = present.filter(|entry| *entry.value == value) {
            return Ok(Put { entry: entry.clone(), created: false });
        }
        let revision = before.revision + 1;
        let created_at = present.map_or(now, |entry| entry.created_at);
        let entry = Entry { revision, created_at, changed_at: now, value: Arc::new(value) };
        let created = present.is_none();
        let row = entry.to_row()?;
        if row.len() > brolly_store::VALUE_BYTES {
            let (word, bytes, limit) = (T::KIND.word(), row.len(), brolly_store::VALUE_BYTES);
            let detail = format!("the {word} {name} takes {bytes} bytes as JSON, the limit is {limit}");
            return Err(Refusal::new(Code::TooLarge, detail).into());
        }
        let mut commit = Commit::default();
        commit.put(keys::catalog(T::KIND.word(), name), row);
        self.stage_record(name, by, present.map(|entry| &*entry.value), Some(&*entry.value), &mut commit)?;
        self.store.commit(commit).await?;
        let mut after = (*before).clone();
        T::map_mut(&mut after).insert(name.clone(), entry.clone());
        self.publish(after, revision);
        Ok(Put { entry, created })
    }

    /// Removes a definition that nothing refers to.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InUse`], [`Code::Changed`], or a failing store.
    pub async fn delete<T: Definition>(
        &self,
        name: &Name,
        only_if: Precondition,
        by: Option<&Name>,
    ) -> Result<(), Error> {
        let _writer = self.writer.lock().await;
        let before = self.snapshot();
        let present = T::map(&before).get(name);
        if present.is_none() {
            return Err(Refusal::not_found(T::KIND.word(), name.as_str()).into());
        }
        check_precondition::<T>(name, present, only_if)?;
        T::check_unused(name, &before)?;
        let mut commit = Commit::default();
        commit.delete(keys::catalog(T::KIND.word(), name));
        self.stage_record(name, by, present.map(|entry| &*entry.value), None, &mut commit)?;
        self.store.commit(commit).await?;
        let mut after = (*before).clone();
        T::map_mut(&mut after).remove(name);
        self.publish(after, before.revision + 1);
        Ok(())
    }

    fn stage_record<T: Definition>(
        &self,
        name: &Name,
        by: Option<&Name>,
        before: Option<&T>,
        after: Option<&T>,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let action = match (before, after) {
            (None, _) => Action::Create,
            (Some(_), Some(_)) => Action::Replace,
            (Some(_), None) => Action::Delete,
        };
        let shown = |value: &T| {
            value.audited().map_err(|source| Error::Row {
                kind: T::KIND.word(),
                name: name.to_string(),
                source,
            })
        };
        let record = Record {
            number: 0,
            at: self.clock.now(),
            by: by.cloned(),
            action,
            kind: T::KIND.word().to_owned(),
            name: name.clone(),
            before: before.map(shown).transpose()?,
            after: after.map(shown).transpose()?,
        };
        self.audit.stage(record, commit)
    }

    fn publish(&self, mut snapshot: Snapshot, revision: u64) {
        snapshot.revision = revision;
        self.current.store(Arc::new(snapshot));
        self.changed.send_replace(revision);
    }
}

fn check_precondition<T: Definition>(
    name: &Name,
    present: Option<&Entry<T>>,
    only_if: Precondition,
) -> Result<(), Refusal> {
    let word = T::KIND.word();
    let found = present.map(|entry| entry.revision);
    let holds = match only_if {
        Precondition::None => true,
        Precondition::Absent => found.is_none(),
        Precondition::Present => found.is_some(),
        Precondition::Revision(wanted) => found == Some(wanted),
    };
    if holds {
        return Ok(());
    }
    let state = match found {
        None => "does not exist".to_owned(),
        Some(revision) => format!("is at revision {revision}"),
    };
    Err(Refusal::new(
        Code::Changed,
        format!(
            "the {word} {name} {state}, which is not what the request expects; read it again and decide anew"
        ),
    ))
}

#[cfg(test)]
mod tests;
