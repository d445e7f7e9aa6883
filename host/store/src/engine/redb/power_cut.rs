//! What is left after a power cut, on a disk that keeps what was synced, and of the rest whatever sectors
//! it likes: every flush that returned, whole, and of the one that was under way all or nothing. Runs
//! with the tests of this package.

use std::{collections::BTreeMap, io, sync::Arc};

use brolly_core::Write;
use parking_lot::Mutex;

use super::{Database, End, Redb};

const SECTOR: usize = 512;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A disk that is cut off, in one image after the other, while it goes on.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// As the program sees it.
    seen: Vec<u8>,
    /// As of the last sync.
    synced: Vec<u8>,
    /// What came since.
    unsynced: Vec<Change>,
    /// How many flushes have returned.
    flushes: usize,
    /// What was left, and how many flushes had returned.
    images: Vec<(Vec<u8>, usize)>,
    random: u64,
}

#[derive(Debug)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

impl Disk {
    fn new(bytes: Vec<u8>, seed: u64) -> Self {
        let (seen, synced) = (bytes.clone(), bytes);
        Self(Arc::new(Mutex::new(State {
            seen,
            synced,
            unsynced: Vec::new(),
            flushes: 0,
            images: Vec::new(),
            random: seed,
        })))
    }

    fn open(&self) -> Redb {
        Redb::with(redb::Builder::new().create_with_backend(self.clone()).unwrap()).unwrap()
    }
}

impl State {
    /// xorshift: the same images for the same seed.
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % limit as u64) as usize
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.unsynced.push(change);
        self.cut_now_and_then();
    }

    fn cut_now_and_then(&mut self) {
        if self.below(12) > 0 {
            return;
        }
        // Between nothing and everything of what is not synced survives.
        let share = self.below(5);
        let mut image = self.synced.clone();
        for change in std::mem::take(&mut self.unsynced) {
            match &change {
                Change::Length(_) if self.below(4) < share => apply(&mut image, &change),
                Change::Length(_) => {}
                Change::Bytes(offset, bytes) => {
                    for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                        if self.below(4) < share {
                            apply(&mut image, &Change::Bytes(offset + n * SECTOR, sector.to_vec()));
                        }
                    }
                }
            }
            self.unsynced.push(change);
        }
        self.images.push((image, self.flushes));
    }
}

fn apply(file: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => file.resize(*length, 0),
        Change::Bytes(offset, bytes) => {
            let end = offset + bytes.len();
            file.resize(file.len().max(end), 0);
            file[*offset..end].copy_from_slice(bytes);
        }
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        let from = offset as usize;
        let bytes = state.seen.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().change(Change::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.cut_now_and_then();
        let unsynced = std::mem::take(&mut state.unsynced);
        unsynced.iter().for_each(|change| apply(&mut state.synced, change));
        state.cut_now_and_then();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.lock().change(Change::Bytes(offset as usize, data.to_vec()));
        Ok(())
    }
}

fn rows(database: &Redb) -> Rows {
    let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    database.rows(all, End::First).map(|row| row.unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
}

/// Writes at random, a flush after each few; answers with the disk and what was there after each flush.
fn work(seed: u64) -> (Disk, Vec<Rows>) {
    let disk = Disk::new(Vec::new(), seed);
    let database = disk.open();
    disk.0.lock().images.clear();
    let mut states = vec![Rows::new()];
    for flush in 1..=60 {
        let mut state = states.last().unwrap().clone();
        let operations = disk.0.lock().below(40);
        for _ in 0..operations {
            let (key, size) = {
                let mut disk = disk.0.lock();
                (disk.below(300) as u32, disk.below(3_000))
            };
            let key = key.to_be_bytes().to_vec();
            if size % 3 == 0 {
                state.remove(&key);
                database.apply(vec![Write::Delete { key }]).unwrap();
            } else {
                let value = vec![flush as u8; size];
                state.insert(key.clone(), value.clone());
                database.apply(vec![Write::Put { key, value }]).unwrap();
            }
        }
        states.push(state);
        database.flush().unwrap();
        disk.0.lock().flushes = flush;
    }
    database.close().unwrap();
    (disk, states)
}

#[test]
fn every_flush_that_returned_survives_a_power_cut() {
    let (mut images, mut under_way) = (0, 0);
    for seed in 1..=12_u64 {
        let (disk, states) = work(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let cuts = std::mem::take(&mut disk.0.lock().images);
        for (n, (image, flushes)) in cuts.into_iter().enumerate() {
            let database = Disk::new(image, 1).open();
            let found = rows(&database);
            let next = states.get(flushes + 1).is_some_and(|state| *state == found);
            assert!(found == states[flushes] || next, "image {n} of seed {seed}, after {flushes} flushes");
            images += 1;
            under_way += u32::from(found != states[flushes]);
        }
    }
    // Otherwise it would prove little.
    assert!(images > 1_000 && under_way > 20, "{images}, {under_way}");
}
