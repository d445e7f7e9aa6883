//! redb behind the port. Called through it; knows nothing of what the rows mean.
//!
//! What this file relies on in redb 4.6, as read in its sources and its design document:
//! * a commit with `Durability::Immediate` has written everything and called `fdatasync` once when it
//!   returns; one that a crash cut off is found by its checksums, and the one before it is taken;
//! * readers see the last commit, whole, and never wait for a writer; pages that a reader can see are
//!   not used again, so one that is kept for long makes the file grow;
//! * after a failed commit nothing more can be written until the database is opened again.
//!
//! Writes are gathered until the flush, and all that one flush makes durable is one transaction. A
//! commit without durability for each batch, so that readers see it before the flush, was measured: it
//! wrote half as much again and was a tenth slower; nobody can tell when a batch is applied anyway.

#[cfg(test)]
mod power_cut;

use std::{iter::Peekable, ops::Bound, path::Path, sync::Arc, vec};

use brolly_core::Write;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::{ReadOnlyTable, ReadableDatabase, TableDefinition, TableError};

use super::{Bounds, Database, End, Row, Rows};

const FILE: &str = "rows.redb";
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");

/// A scan reads at once at most so many rows, or, if that is less, rows of so many bytes and one.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 256 * 1024;
/// How many rows it reads first, as many look at the first one only; then ever more.
const FIRST_CHUNK_ROWS: usize = 4;

const CLOSED: &str = "the database is closed";

/// An open database.
pub(super) struct Redb {
    /// None when closed.
    db: Mutex<Option<redb::Database>>,
    latest: Arc<Latest>,
    /// Applied and not yet flushed.
    pending: Mutex<Vec<Write>>,
}

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The table as the last commit left it, so that a read need not look for it. None when closed.
///
/// INVARIANT: nobody keeps the table for longer than a read, so that its pages can be used again.
#[derive(Default)]
struct Latest(RwLock<Option<Arc<Table>>>);

impl Latest {
    fn get(&self) -> Result<Arc<Table>, String> {
        self.0.read().clone().ok_or_else(|| CLOSED.to_owned())
    }
}

impl Redb {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, String> {
        let db = redb::Builder::new()
            .set_cache_size(usize::try_from(cache_bytes).unwrap_or(usize::MAX))
            .create(dir.join(FILE))
            .map_err(|error| error.to_string())?;
        Self::with(db)
    }

    fn with(db: redb::Database) -> Result<Self, String> {
        let latest = match latest(&db)? {
            Some(table) => table,
            None => {
                commit(&db, Vec::new())?;
                latest(&db)?.ok_or("its table is missing")?
            }
        };
        Ok(Self {
            db: Mutex::new(Some(db)),
            latest: Arc::new(Latest(RwLock::new(Some(Arc::new(latest))))),
            pending: Mutex::default(),
        })
    }
}

/// The table as it is now; none in a new database.
fn latest(db: &redb::Database) -> Result<Option<Table>, String> {
    let transaction = db.begin_read().map_err(|error| error.to_string())?;
    match transaction.open_table(ROWS) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

impl Database for Redb {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        // Its transaction must outlive the value: a flush puts another in its place at any moment.
        let table = self.latest.get()?;
        let value = table.get(key).map_err(|error| error.to_string())?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn rows(&self, bounds: Bounds, from: End) -> Rows {
        Box::new(Scan {
            latest: self.latest.clone(),
            rest: Some(bounds),
            from,
            chunk: Vec::new().into_iter(),
            rows: FIRST_CHUNK_ROWS,
        })
    }

    fn apply(&self, mut writes: Vec<Write>) -> Result<(), String> {
        self.pending.lock().append(&mut writes);
        Ok(())
    }

    fn flush(&self) -> Result<(), String> {
        let db = self.db.lock();
        let db = db.as_ref().ok_or(CLOSED)?;
        commit(db, std::mem::take(&mut *self.pending.lock()))?;
        let table = latest(db)?.ok_or("its table is missing")?;
        *self.latest.0.write() = Some(Arc::new(table));
        Ok(())
    }

    fn close(&self) -> Result<(), String> {
        *self.latest.0.write() = None;
        let db = self.db.lock().take().ok_or(CLOSED)?;
        db.close().map_err(|error| error.to_string())
    }
}

/// Makes writes durable, and creates the table if need be.
fn commit(db: &redb::Database, writes: Vec<Write>) -> Result<(), String> {
    let transaction = db.begin_write().map_err(|error| error.to_string())?;
    {
        let mut table = transaction.open_table(ROWS).map_err(|error| error.to_string())?;
        let mut writes = last_of_each_key(writes).into_iter().peekable();
        while let Some(write) = writes.next() {
            match write {
                Write::Put { key, value } => put(&mut table, &key, &value, &mut writes)?,
                Write::Delete { key } => {
                    table.remove(key.as_slice()).map_err(|error| error.to_string())?;
                }
            }
        }
    }
    transaction.commit().map_err(|error| error.to_string())
}

/// What is left of writes that happen together, sorted by key.
fn last_of_each_key(mut writes: Vec<Write>) -> Vec<Write> {
    // A stable sort: of one key, the last write stays the last one.
    writes.sort_by(|a, b| key(a).cmp(key(b)));
    writes.reverse();
    writes.dedup_by(|earlier, later| key(earlier) == key(later));
    writes.reverse();
    writes
}

fn key(write: &Write) -> &[u8] {
    match write {
        Write::Put { key, .. } | Write::Delete { key } => key,
    }
}

/// Puts a row, and with it those that follow and belong into the same gap between two rows. That is
/// what most of ours do, as numbers ascend, and it takes two thirds of the time, and half of the space,
/// that putting each row alone takes.
fn put(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    value: &[u8],
    more: &mut Peekable<vec::IntoIter<Write>>,
) -> Result<(), String> {
    let mut gap = table.lower_bound_mut(Bound::Included(key)).map_err(|error| error.to_string())?;
    let next = gap.peek_next().map_err(|error| error.to_string())?.map(|(key, _)| key.value().to_vec());
    if next.as_deref() == Some(key) {
        gap.close().map_err(|error| error.to_string())?;
        return table.insert(key, value).map(drop).map_err(|error| error.to_string());
    }
    gap.insert_before(key, value).map_err(|error| error.to_string())?;
    let fits = |write: &Write| match write {
        Write::Put { key, .. } => next.as_ref().is_none_or(|next| key < next),
        Write::Delete { .. } => false,
    };
    while let Some(Write::Put { key, value }) = more.next_if(fits) {
        gap.insert_before(key.as_slice(), value.as_slice()).map_err(|error| error.to_string())?;
    }
    gap.close().map_err(|error| error.to_string())
}

/// Rows, read chunk by chunk, each from the table as it is then.
struct Scan {
    latest: Arc<Latest>,
    /// What is to be read when the chunk is used up.
    rest: Option<Bounds>,
    from: End,
    chunk: vec::IntoIter<Row>,
    /// How many rows the next chunk has.
    rows: usize,
}

impl Scan {
    fn read(&mut self, (low, high): Bounds) -> Result<(), String> {
        let table = self.latest.get()?;
        let bounds = (low.as_ref().map(Vec::as_slice), high.as_ref().map(Vec::as_slice));
        let mut range = table.range::<&[u8]>(bounds).map_err(|error| error.to_string())?;
        let (mut chunk, mut bytes) = (Vec::with_capacity(self.rows), 0);
        while chunk.len() < self.rows && bytes < CHUNK_BYTES {
            let row = match self.from {
                End::First => range.next(),
                End::Last => range.next_back(),
            };
            let Some(row) = row else { break };
            let (key, value) = row.map_err(|error| error.to_string())?;
            let (key, value) = (Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value()));
            bytes += key.len() + value.len();
            chunk.push((key, value));
        }
        let full = chunk.len() == self.rows || bytes >= CHUNK_BYTES;
        self.rest = chunk.last().filter(|_| full).map(|(key, _)| match self.from {
            End::First => (Bound::Excluded(key.to_vec()), high),
            End::Last => (low, Bound::Excluded(key.to_vec())),
        });
        self.rows = (4 * self.rows).min(CHUNK_ROWS);
        self.chunk = chunk.into_iter();
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<Row, String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.chunk.next() {
                return Some(Ok(row));
            }
            let rest = self.rest.take()?;
            if let Err(reason) = self.read(rest) {
                return Some(Err(reason));
            }
        }
    }
}
