//! Power cuts while a store uses its room again: rows come and go until its file was written several times over. The
//! orders of `power_cut` are far fewer than sled needs before it moves what is left in a segment. The process that
//! suffers is this binary, run again.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use brolly_core::Commit;
use brolly_store::{Config, Engine, Store};
use brolly_tests::{
    disk::{Disk, FileSystem},
    skip,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::Semaphore,
};

use crate::crash::lives;

/// The folder in which the child works; unset in the parent.
const DIR: &str = "BROLLY_ROOM_TEST_DIR";
/// Power cuts that one disk lives through; further ones go to a new one.
const CUTS: usize = 10;
/// Rows of each table in one commit: a hundred kilobytes.
const ROWS: u64 = 50;
const TABLES: [Table; 2] = [Table::Ordered, Table::Scattered];
/// Rows of a table before its first ones go.
const KEPT: u64 = 4_000;
/// One of so many stays for ever, so that hardly a segment of sled's file ever comes to be free by itself.
const STAYS: u64 = 50;
/// Commits on their way at once.
const AHEAD: usize = 8;
/// The row that says how many rows each table had.
const WRITTEN: &[u8] = b"written";

/// Where a table has the row of a number: behind the one before, or anywhere.
#[derive(Clone, Copy)]
enum Table {
    Ordered = 1,
    Scattered = 2,
}

impl Table {
    fn key(self, number: u64) -> Vec<u8> {
        let place = match self {
            Self::Ordered => number,
            // Odd, so that no two numbers come to one place.
            Self::Scattered => number.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        };
        [&[self as u8], &place.to_be_bytes()[..]].concat()
    }

    /// A kilobyte that belongs to this row alone.
    fn value(self, number: u64) -> Vec<u8> {
        (number * 2 + self as u64).to_be_bytes().repeat(128)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_sled_uses_again_outlives_power_cuts() {
    check(Engine::Sled, "room_that_sled_uses_again_outlives_power_cuts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_redb_uses_again_outlives_power_cuts() {
    check(Engine::Redb, "room_that_redb_uses_again_outlives_power_cuts").await;
}

async fn check(engine: Engine, test: &str) {
    if let Some(dir) = std::env::var_os(DIR) {
        return write_until_the_end(engine, Path::new(&dir)).await;
    }
    let kind = FileSystem::Ext4;
    if let Err(why) = Disk::available(kind) {
        skip(&format!("power cuts while {engine} uses its room again"), &why);
        return;
    }
    for cuts in lives("BROLLY_POWER_CUTS", 2, 4, CUTS) {
        live(engine, test, Disk::start(kind), cuts).await;
    }
}

async fn live(engine: Engine, test: &str, mut disk: Disk, cuts: usize) {
    let dir = disk.path().join("store");
    let (mut written, mut unsynced) = (0, 0);
    for number in 1..=cuts {
        let (mut child, mut answers) = child(test, &dir);
        let mut answered = written;
        for _ in 0..fastrand::u32(200..600) {
            answered = answer(&mut answers).await.expect("the child goes on for as long as the disk does");
        }
        // All of it, nothing of it, or anything between.
        let chance = [0.0, 1.0, fastrand::f64(), fastrand::f64()][fastrand::usize(..4)];
        let cut = disk.cut(fastrand::u32(..50), chance).await;
        tokio::time::sleep(Duration::from_millis([0, fastrand::u64(..300)][fastrand::usize(..2)])).await;
        child.kill().await.unwrap();
        while let Some(later) = answer(&mut answers).await {
            answered = later;
        }
        disk.power_on().await;
        written = exact(engine, &dir, answered);
        unsynced += cut.unsynced;
        eprintln!("{engine}: cut {number} of {cuts} after {written} rows: {cut:?}");
    }
    assert!(unsynced > 0, "cuts that have nothing to lose show nothing");
    let file = match engine {
        Engine::Sled => "sled/db",
        Engine::Redb => "redb/rows.redb",
    };
    let bytes = std::fs::metadata(dir.join(file)).unwrap().len();
    let all = written * 1_024 * TABLES.len() as u64;
    assert!(bytes < all, "{bytes} bytes of a file to which {all} were written: no room was used again");
}

fn child(test: &str, dir: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("room::{test}"), "--nocapture", "--test-threads", "1"]).env(DIR, dir);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// How many rows of each table are durable, as the child says next; none when it has ended.
async fn answer(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<u64> {
    while let Some(line) = lines.next_line().await.unwrap() {
        // The last line may be cut off, and a number on it with it.
        if let Some(number) = line.strip_prefix("durable ").and_then(|rest| rest.strip_suffix(" rows")) {
            return Some(number.parse().unwrap());
        }
    }
    None
}

fn open(engine: Engine, dir: &Path) -> (Store, u64) {
    let store = Store::open(&Config { engine, ..Config::new(dir) }).unwrap();
    let written = store.get(WRITTEN).unwrap();
    let written = written.map_or(0, |written| u64::from_be_bytes(written[..].try_into().unwrap()));
    (store, written)
}

async fn write_until_the_end(engine: Engine, dir: &Path) {
    // Ends the line on which the test harness names the test.
    println!();
    let (store, mut written) = open(engine, dir);
    let ahead = Arc::new(Semaphore::new(AHEAD));
    while store.is_failed().is_none() {
        // A store that failed gives its permits back as well.
        let permit = ahead.clone().acquire_owned().await.unwrap();
        let mut commit = Commit::default();
        for number in written..written + ROWS {
            for table in TABLES {
                commit.put(table.key(number), table.value(number));
                if let Some(old) = number.checked_sub(KEPT).filter(|old| old % STAYS != 0) {
                    commit.delete(table.key(old));
                }
            }
        }
        written += ROWS;
        commit.put(WRITTEN.to_vec(), written.to_be_bytes().to_vec());
        commit.then(move || {
            println!("durable {written} rows");
            drop(permit);
        });
        store.submit(commit);
    }
}

/// What was answered is there, and each commit is there whole or not at all. Answers how many rows each table had.
fn exact(engine: Engine, dir: &Path, answered: u64) -> u64 {
    let (store, written) = open(engine, dir);
    assert!(written >= answered, "{answered} were answered, {written} are there");
    for table in TABLES {
        let there = |number: &u64| number + KEPT >= written || number.is_multiple_of(STAYS);
        let numbers: Vec<u64> = (0..written).filter(there).collect();
        for number in &numbers {
            let value = store.get(&table.key(*number)).unwrap();
            assert_eq!(value.as_deref(), Some(&table.value(*number)[..]), "{number} of {written}");
        }
        let rows = store.scan(&[table as u8], None).map(Result::unwrap).count();
        assert_eq!(rows, numbers.len(), "rows that were deleted are back");
    }
    store.close();
    written
}
