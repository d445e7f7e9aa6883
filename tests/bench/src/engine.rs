//! The storage engines bare: the leanest program that makes the same rows durable with the same
//! commits as one message through the embedded broker does.

use std::{collections::BTreeMap, ops::Bound, path::Path, time::Duration, time::Instant};

use anyhow::Context;
use brolly_store::Engine;
use redb::TableDefinition;

/// The rows of one message: what the publish writes, and what its outcome writes. Keys and values
/// are as long as Brolly's own for the order of the benchmark; a test holds that.
pub struct Rows {
    pub publish: Vec<(Vec<u8>, Vec<u8>)>,
    pub delete: Vec<u8>,
    pub outcome: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An engine opened as the store opens it, flushes to the disk included: the store's replacement
/// for `sync_file_range` is linked into this program.
pub enum Bare {
    Sled(sled::Db),
    Redb(redb::Database),
}

const CACHE_BYTES: usize = 64 << 20;
const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");

/// Operations between two flushes, as in the store.
const ROUND: usize = 1_024;
/// Operations in one batch of sled, as in the store.
const BATCH: usize = 200;

impl Bare {
    pub fn open(engine: Engine, dir: &Path) -> anyhow::Result<Self> {
        match engine {
            Engine::Sled => sled::Config::new()
                .path(dir)
                .cache_capacity(CACHE_BYTES as u64 / 2)
                .segment_size(8 << 20)
                .mode(sled::Mode::HighThroughput)
                .flush_every_ms(None)
                .open()
                .map(Self::Sled)
                .context("opening sled"),
            Engine::Redb => redb::Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create(dir.join("db"))
                .map(Self::Redb)
                .context("opening redb"),
        }
    }

    /// Makes messages durable, first published and then handled, a round behind: the rate per second.
    pub fn throughput(&self, messages: &[Rows]) -> anyhow::Result<f64> {
        let started = Instant::now();
        let mut round = Round::new(self);
        let lag = 256.min(messages.len());
        for at in 0..messages.len() + lag {
            if let Some(rows) = messages.get(at) {
                round.commit(&rows.publish, None)?;
            }
            if let Some(rows) = at.checked_sub(lag).and_then(|at| messages.get(at)) {
                round.commit(&rows.outcome, Some(&rows.delete))?;
            }
        }
        round.flush()?;
        Ok(messages.len() as f64 / started.elapsed().as_secs_f64())
    }

    /// Two group commits of one message, alone: how long each message takes.
    pub fn latency(&self, messages: &[Rows]) -> anyhow::Result<Vec<Duration>> {
        let mut round = Round::new(self);
        let mut took = Vec::with_capacity(messages.len());
        for rows in messages {
            let started = Instant::now();
            round.commit(&rows.publish, None)?;
            round.flush()?;
            round.commit(&rows.outcome, Some(&rows.delete))?;
            round.flush()?;
            took.push(started.elapsed());
        }
        Ok(took)
    }
}

/// A row to be put, or to go.
type Operation<'a> = (&'a [u8], Option<&'a [u8]>);

/// Packs commits into batches, and batches between flushes.
struct Round<'a> {
    engine: &'a Bare,
    pending: Vec<Operation<'a>>,
    unflushed: usize,
}

impl<'a> Round<'a> {
    fn new(engine: &'a Bare) -> Self {
        Self { engine, pending: Vec::new(), unflushed: 0 }
    }

    fn commit(&mut self, puts: &'a [(Vec<u8>, Vec<u8>)], delete: Option<&'a Vec<u8>>) -> anyhow::Result<()> {
        let operations = puts.len() + usize::from(delete.is_some());
        if let Bare::Sled(db) = self.engine
            && self.pending.len() + operations > BATCH
        {
            apply_to_sled(db, &mut self.pending)?;
        }
        self.pending.extend(puts.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice()))));
        self.pending.extend(delete.map(|key| (key.as_slice(), None)));
        self.unflushed += operations;
        if self.unflushed >= ROUND { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.unflushed = 0;
        match self.engine {
            Bare::Sled(db) => {
                apply_to_sled(db, &mut self.pending)?;
                db.flush().context("flushing sled")?;
            }
            Bare::Redb(db) => commit_to_redb(db, self.pending.drain(..)).context("a commit of redb")?,
        }
        Ok(())
    }
}

fn apply_to_sled(db: &sled::Db, pending: &mut Vec<Operation>) -> anyhow::Result<()> {
    let mut batch = sled::Batch::default();
    for (key, value) in pending.drain(..) {
        match value {
            Some(value) => batch.insert(key, value),
            None => batch.remove(key),
        }
    }
    db.apply_batch(batch).context("applying a batch")
}

/// One transaction; what is new goes in by a cursor, as that is redb's fastest way.
fn commit_to_redb<'a>(
    db: &redb::Database,
    pending: impl Iterator<Item = Operation<'a>>,
) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    let mut table = transaction.open_table(TABLE)?;
    let mut sorted = pending.collect::<BTreeMap<_, _>>().into_iter().peekable();
    while let Some((key, value)) = sorted.next() {
        let Some(value) = value else {
            table.remove(key)?;
            continue;
        };
        let mut gap = table.lower_bound_mut(Bound::Included(key))?;
        let next = gap.peek_next()?.map(|(key, _)| key.value().to_vec());
        if next.as_deref() == Some(key) {
            gap.close()?;
            table.insert(key, value)?;
            continue;
        }
        gap.insert_before(key, value).map_err(cursor)?;
        let fits =
            |(key, value): &Operation| value.is_some() && next.as_deref().is_none_or(|next| *key < next);
        while let Some((key, Some(value))) = sorted.next_if(fits) {
            gap.insert_before(key, value).map_err(cursor)?;
        }
        gap.close()?;
    }
    drop(table);
    Ok(transaction.commit()?)
}

fn cursor(error: redb::CursorError) -> redb::Error {
    redb::Error::Corrupted(error.to_string())
}
