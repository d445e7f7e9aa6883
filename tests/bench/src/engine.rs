//! The storage engine bare: the leanest program that makes the same rows durable with the same
//! commits as one message through the embedded broker does.

use std::{path::Path, time::Duration, time::Instant};

use anyhow::Context;

/// The rows of one message: what the publish writes, and what its outcome writes. Keys and values
/// are as long as Brolly's own for the order of the benchmark; a test holds that.
pub struct Rows {
    pub publish: Vec<(Vec<u8>, Vec<u8>)>,
    pub delete: Vec<u8>,
    pub outcome: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An engine opened as the store opens it, flushes to the disk included: the store's replacement
/// for `sync_file_range` is linked into this program.
pub struct Engine(sled::Db);

/// Operations between two flushes, and in one batch, as in the store.
const ROUND: usize = 1_024;
const BATCH: usize = 200;

impl Engine {
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(64 << 20)
            .segment_size(8 << 20)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None)
            .open()
            .context("opening the bare engine")?;
        Ok(Self(db))
    }

    /// Makes messages durable, first published and then handled, a round behind: the rate per second.
    pub fn throughput(&self, messages: &[Rows]) -> anyhow::Result<f64> {
        let started = Instant::now();
        let mut batch = Batch::new(&self.0);
        let lag = 256.min(messages.len());
        for at in 0..messages.len() + lag {
            if let Some(rows) = messages.get(at) {
                batch.commit(&rows.publish, None)?;
            }
            if let Some(rows) = at.checked_sub(lag).and_then(|at| messages.get(at)) {
                batch.commit(&rows.outcome, Some(&rows.delete))?;
            }
        }
        batch.flush()?;
        Ok(messages.len() as f64 / started.elapsed().as_secs_f64())
    }

    /// Two group commits of one message, alone: how long each message takes.
    pub fn latency(&self, messages: &[Rows]) -> anyhow::Result<Vec<Duration>> {
        let mut batch = Batch::new(&self.0);
        let mut took = Vec::with_capacity(messages.len());
        for rows in messages {
            let started = Instant::now();
            batch.commit(&rows.publish, None)?;
            batch.flush()?;
            batch.commit(&rows.outcome, Some(&rows.delete))?;
            batch.flush()?;
            took.push(started.elapsed());
        }
        Ok(took)
    }
}

/// Packs commits into batches, and batches between flushes.
struct Batch<'a> {
    db: &'a sled::Db,
    pending: sled::Batch,
    operations: usize,
    unflushed: usize,
}

impl<'a> Batch<'a> {
    fn new(db: &'a sled::Db) -> Self {
        Self { db, pending: sled::Batch::default(), operations: 0, unflushed: 0 }
    }

    fn commit(&mut self, puts: &[(Vec<u8>, Vec<u8>)], delete: Option<&Vec<u8>>) -> anyhow::Result<()> {
        if self.operations + puts.len() + 1 > BATCH {
            self.apply()?;
        }
        for (key, value) in puts {
            self.pending.insert(key.as_slice(), value.as_slice());
        }
        if let Some(key) = delete {
            self.pending.remove(key.as_slice());
        }
        self.operations += puts.len() + usize::from(delete.is_some());
        if self.unflushed + self.operations >= ROUND { self.flush() } else { Ok(()) }
    }

    fn apply(&mut self) -> anyhow::Result<()> {
        self.db.apply_batch(std::mem::take(&mut self.pending)).context("applying a batch")?;
        self.unflushed += std::mem::take(&mut self.operations);
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.apply()?;
        self.unflushed = 0;
        self.db.flush().context("flushing")?;
        Ok(())
    }
}
