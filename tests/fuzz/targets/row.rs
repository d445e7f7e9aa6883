//! Stored rows: whatever stands in a row of any table, everything that reads it answers or says that the row is not
//! understood; and what is understood is, written and read again, the same.
//!
//! The first byte names the table by its letter (`host/store/src/keys.rs`), the rest is the row.
#![no_main]

use std::{collections::BTreeMap, ops::Bound, path::PathBuf, sync::Arc, sync::OnceLock};

use brolly_alerts::Alerts;
use brolly_catalog::{Catalog, Records};
use brolly_core::{Commit, Name, SystemClock, Timestamp, Write};
use brolly_embedded::{Config, Embedded};
use brolly_ledger::{Ledger, Search};
use brolly_store::{Bounds, Database, End, Messages, Row, Rows, Steps, Store, keys};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;

/// The kinds of definitions, one of which a row of the catalog has.
const KINDS: [&str; 9] =
    ["broker", "topic", "queue", "route", "plugin", "subscription", "token", "channel", "samples"];
const SEQ: u64 = 7;

fuzz_target!(|data: &[u8]| {
    let Some((table, row)) = data.split_first() else { return };
    for key in places(*table) {
        let mut rows = BTreeMap::new();
        // So that there is a message whose deliveries and places are looked at.
        rows.insert(keys::index("m", &name("t")).into(), Bytes::copy_from_slice(&SEQ.to_be_bytes()));
        rows.insert(key.into(), Bytes::copy_from_slice(row));
        read(*table, rows);
    }
});

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// Where a row of this table may stand.
fn places(table: u8) -> Vec<Vec<u8>> {
    let (s, q, t) = (name("s"), name("q"), name("t"));
    match table {
        b'M' => ["seq", "host", "starts"].map(keys::meta).into_iter().chain([keys::feed(&t)]).collect(),
        b'a' => vec![keys::audit(SEQ)],
        b'c' => KINDS.iter().map(|kind| keys::catalog(kind, &s)).collect(),
        b'd' => vec![keys::delivery(SEQ, &s), keys::earlier_attempt(SEQ, &s, 1)],
        b'i' => vec![keys::index("m", &t)],
        b'l' => vec![keys::alert(SEQ)],
        b'm' => vec![keys::message(SEQ)],
        b'o' => vec![keys::outbox(SEQ, 0)],
        b'q' => vec![keys::queue_entry(&q, SEQ)],
        b'r' => vec![keys::rollout(&s)],
        b's' => vec![keys::state(&s, "k")],
        b't' => vec![keys::terms(&s)],
        b'v' => vec![keys::swap(&s, SEQ)],
        b'x' => vec![keys::dead_letter(&q, SEQ)],
        _ => Vec::new(),
    }
}

/// Opens everything over these rows, and reads it. Errors are answers; a panic is none.
fn read(table: u8, rows: BTreeMap<Bytes, Bytes>) {
    let clock = Arc::new(SystemClock);
    let memory = Arc::new(Memory(Mutex::new(rows)));
    let (store, mut steps) = Store::in_steps(folder().join("store"), memory).expect("a folder");
    let _ = Catalog::open(store.clone(), folder().join("plugins"), clock.clone())
        .map(|catalog| catalog.audit(&Records::default(), None, 10));
    // It makes a client for HTTP, which takes long.
    if table == b'l' {
        let _ = Alerts::open(store.clone(), "h", clock.clone()).map(|alerts| alerts.get(SEQ));
    }
    let Ok(messages) = Messages::open(&store) else { return };
    let _ = Embedded::open(store.clone(), messages.clone(), clock, Config::default());
    if let Ok(Some(stored)) = messages.load(SEQ) {
        let mut commit = Commit::default();
        messages.stage(SEQ, &stored, &mut commit).expect("what was read is written");
        store.submit(commit);
        carry_out(&mut steps);
        assert_eq!(messages.load(SEQ).expect("it was written").as_ref(), Some(&stored));
    }
    if let Ok(ledger) = Ledger::open(store, messages) {
        tell(&ledger);
        write_again(&ledger, &mut steps);
    }
}

/// Everything that the ledger tells of rows.
fn tell(ledger: &Ledger) {
    let (s, q) = (name("s"), name("q"));
    let _ = ledger.tally();
    let _ = ledger.history("m", None);
    let _ = ledger.search(&Search::default(), None, true, 10);
    let _ = ledger.peek(&q, None, 10);
    let _ = ledger.list_dead_letters(&q, None, 10);
    let _ = ledger.dead_letter_reasons(&q);
    let _ = ledger.state_entries(&s, "", None, 10);
    let _ = ledger.rollout::<serde_json::Value>(&s);
    let _ = ledger.sweep(Timestamp(u64::MAX), Timestamp(u64::MAX), None, |_| false);
}

/// Rows that are written as they were read.
fn write_again(ledger: &Ledger, steps: &mut Steps) {
    let (s, t) = (name("s"), name("t"));
    if let Ok(heard) = ledger.heard(&t) {
        ledger.remember(&t, &heard).expect("what was read is written");
        carry_out(steps);
        assert_eq!(ledger.heard(&t).expect("it was written"), heard);
    }
    let (Ok(swaps), Ok(terms)) = (ledger.swaps(&s, None, 10), ledger.terms(&s)) else { return };
    for swap in &swaps {
        ledger.put_swap(&s, swap).expect("what was read is written");
        if let Some(terms) = &terms {
            ledger.add_swap(&s, swap, terms).expect("what was read is written");
        }
    }
    carry_out(steps);
    assert_eq!(ledger.terms(&s).expect("it was written"), terms);
}

fn carry_out(steps: &mut Steps) {
    while steps.write() | steps.follow() {}
}

/// A folder for payloads and plugins; nothing is put into it.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder").keep())
}

/// Rows in memory.
struct Memory(Mutex<BTreeMap<Bytes, Bytes>>);

impl Database for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        Ok(self.0.lock().get(key).cloned())
    }

    fn rows(&self, (low, high): Bounds, from: End) -> Rows {
        let bound = |bound: Bound<Vec<u8>>| bound.map(Bytes::from);
        let rows = self.0.lock();
        let mut rows: Vec<Row> =
            rows.range((bound(low), bound(high))).map(|(key, value)| (key.clone(), value.clone())).collect();
        if from == End::Last {
            rows.reverse();
        }
        Box::new(rows.into_iter().map(Ok))
    }

    fn apply(&self, writes: Vec<Write>) -> Result<(), String> {
        let mut rows = self.0.lock();
        for write in writes {
            match write {
                Write::Put { key, value } => rows.insert(key.into(), value.into()),
                Write::Delete { key } => rows.remove(key.as_slice()),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), String> {
        Ok(())
    }

    fn close(&self) -> Result<(), String> {
        Ok(())
    }
}
