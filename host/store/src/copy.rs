//! Copies every row to another engine, in the folder of a store that is not open, and has the copy
//! count. Called by the command line; knows nothing of what the rows mean.
//!
//! The copy is written, read again and compared while the engine's file still names the old one, so
//! whatever interrupts it leaves a store that opens with the old engine. Naming the new one is one
//! durable step; after it the store opens with the new engine, whatever else is done by then.

use std::{path::Path, sync::Arc};

use brolly_core::Write;
use sha2::{Digest, Sha256};

use crate::{
    Config, Engine, Error,
    engine::{self, Bounds, Database, End, Row},
    folder::{self, COPY_RESERVE_BYTES, Folder},
    store::{close_database, open_database},
};

/// Rows in one batch, and bytes after which a batch is closed all the same.
const BATCH_ROWS: usize = 200;
const BATCH_BYTES: u64 = 4 << 20;
/// Batches between two flushes.
pub(crate) const COPY_FLUSH_BATCHES: usize = 20;

const ALL: Bounds = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);

/// How far a copy is; it is told at each step, and every few hundred rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Rows are copied.
    Copying {
        /// How many are.
        rows: u64,
        /// Bytes of their keys and values.
        bytes: u64,
    },
    /// The copy is read again, from the disk.
    Verifying {
        /// How many rows were read.
        rows: u64,
        /// How many there must be.
        of: u64,
    },
    /// The copy is whole; it is next made to count.
    Switching,
    /// The copy counts; the database that it was made from is removed next.
    Removing,
}

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The engine that kept the store.
    pub from: Engine,
    /// How many rows were copied.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// SHA-256 over all keys and values, each after its length, the same on both sides.
    pub sha256: String,
}

/// Copies a store to the engine of `config`. Blocks. If the store is that engine's already, nothing is
/// copied, what a copy left that was interrupted is removed, and the answer is none.
///
/// # Errors
/// [`Error::Locked`] when the store is open, [`Error::Open`] when there is none or it cannot be
/// recovered, [`Error::Copy`] or [`Error::File`] when it cannot be copied: it then opens with the old
/// engine as before. Only an error in removing the old database comes after the copy counts.
pub fn copy(config: &Config, mut progress: impl FnMut(Progress)) -> Result<Option<Copied>, Error> {
    let folder = Folder::existing(&config.dir)?;
    let (from, to) = (folder.engine(), config.engine);
    if from == to {
        for other in Engine::ALL.into_iter().filter(|other| *other != to) {
            remove(&folder.database_of(other))?;
        }
        return Ok(None);
    }
    let source = open_database(&folder, &config.dir, config.cache_bytes)?;
    let copied = write(config, &folder, &*source, &mut progress);
    let closed = close_database(source);
    let tally = match copied {
        Ok(tally) => tally,
        Err(error) => {
            if let Err(left) = remove(&folder.database_of(to)) {
                tracing::warn!(error = %left, "the part that was copied could not be removed");
            }
            if closed.is_ok() {
                folder.end()?;
            }
            return Err(error);
        }
    };
    progress(Progress::Switching);
    folder.switch(to)?;
    progress(Progress::Removing);
    remove(&folder.database_of(from))?;
    folder.end()?;
    let Tally { rows, bytes, hash } = tally;
    Ok(Some(Copied { from, rows, bytes, sha256: format!("{:x}", hash.finalize()) }))
}

/// Writes the copy, closes it, and compares what is on the disk with what was written.
fn write(
    config: &Config,
    folder: &Folder,
    source: &dyn Database,
    progress: &mut dyn FnMut(Progress),
) -> Result<Tally, Error> {
    let fail = |reason: String| Error::Copy { dir: config.dir.clone(), reason };
    let (to, dir) = (config.engine, folder.database_of(config.engine));
    let measured = folder::disk_bytes(&folder.database())
        .and_then(|needed| Ok((needed.saturating_add(COPY_RESERVE_BYTES), folder::free_bytes(&config.dir)?)));
    let (needed, free) = measured.map_err(|source| Error::File {
        operation: "measuring",
        path: config.dir.clone(),
        source,
    })?;
    if free < needed {
        return Err(fail(format!("it needs {needed} bytes of free disk space, and there are {free}")));
    }
    remove(&dir)?;
    folder::create(&dir).map_err(|source| Error::File { operation: "making", path: dir.clone(), source })?;

    let target = engine::open(to, &dir, config.cache_bytes).map_err(fail)?;
    let written = fill(source, &*target, progress).map_err(fail);
    let closed = close_database(target).map_err(fail);
    let written = written?;
    closed?;

    let target = engine::open(to, &dir, config.cache_bytes).map_err(fail)?;
    let read = verify(&target, written.rows, progress).map_err(fail);
    let closed = close_database(target).map_err(fail);
    let read = read?;
    closed?;
    if (read.rows, read.hash.clone().finalize()) != (written.rows, written.hash.clone().finalize()) {
        let (had, has) = (written.rows, read.rows);
        return Err(fail(format!(
            "the copy has {has} rows of {had}, or other ones; this is an error of {to}"
        )));
    }
    folder.sync(to)?;
    Ok(written)
}

/// Copies all rows.
pub(crate) fn fill(
    source: &dyn Database,
    target: &dyn Database,
    progress: &mut dyn FnMut(Progress),
) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let mut rows = source.rows(ALL, End::First);
    for batch_number in 1_usize.. {
        let mut batch = Vec::with_capacity(BATCH_ROWS);
        let before = tally.bytes;
        while batch.len() < BATCH_ROWS && tally.bytes - before < BATCH_BYTES {
            let Some(row) = rows.next() else { break };
            let row = row?;
            tally.add(&row);
            let (key, value) = row;
            batch.push(Write::Put { key: key.into(), value: value.into() });
        }
        if batch.is_empty() {
            break;
        }
        target.apply(batch)?;
        if batch_number.is_multiple_of(COPY_FLUSH_BATCHES) {
            target.flush()?;
        }
        progress(Progress::Copying { rows: tally.rows, bytes: tally.bytes });
    }
    target.flush()?;
    Ok(tally)
}

/// Reads all rows.
fn verify(target: &Arc<dyn Database>, of: u64, progress: &mut dyn FnMut(Progress)) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for row in target.rows(ALL, End::First) {
        tally.add(&row?);
        if tally.rows.is_multiple_of(BATCH_ROWS as u64) {
            progress(Progress::Verifying { rows: tally.rows, of });
        }
    }
    Ok(tally)
}

/// What was seen of rows.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    hash: Sha256,
}

impl Tally {
    fn add(&mut self, (key, value): &Row) {
        self.rows += 1;
        for part in [key, value] {
            let length = part.len() as u64;
            self.bytes += length;
            self.hash.update(length.to_le_bytes());
            self.hash.update(part);
        }
    }
}

fn remove(dir: &Path) -> Result<(), Error> {
    folder::remove_dir(dir).map_err(|source| Error::File {
        operation: "removing",
        path: dir.to_owned(),
        source,
    })
}
