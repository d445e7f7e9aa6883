//! Reading, group commit, failure, closing and reopening.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use brolly_core::Commit;
use brolly_store::{Config, Engine, Error, Stats, Store, VALUE_BYTES};

use crate::engines::on_each_engine;

on_each_engine! {
    rows_are_put_replaced_and_deleted_in_order,
    scans_keep_to_their_prefix_and_their_start,
    a_long_scan_finds_every_row_that_stays,
    a_scan_that_nobody_ends_does_not_hold_up_space,
    a_store_that_is_never_idle_uses_its_room_again,
    what_follows_runs_once_each_in_order_and_finds_its_rows,
    a_crowd_shares_its_flushes_and_a_lone_commit_has_its_own,
    a_commit_happens_even_if_nobody_waits_for_it,
    a_commit_far_over_the_batch_size_is_whole_with_a_small_cache,
    values_of_the_largest_size_are_kept,
    a_larger_value_is_never_written,
    a_failure_is_for_good_and_answers_nobody,
    what_is_durable_is_answered_before_a_failure_is_known,
    closing_drains_and_is_final,
    an_unclean_stop_keeps_what_was_answered_and_one_copy,
    a_copy_outlives_a_recovery_that_does_not_end,
    a_database_that_lost_its_beginning_is_refused,
    a_store_of_a_later_format_is_refused_and_stays_as_it_is,
    a_store_has_one_process,
    the_last_clone_may_go_in_what_follows_a_commit,
    the_disk_is_measured,
}

fn try_open(engine: Engine, dir: &Path) -> Result<Store, Error> {
    Store::open(&Config { engine, ..Config::new(dir) })
}

fn open(engine: Engine, dir: &Path) -> Store {
    try_open(engine, dir).unwrap()
}

/// The folder of an engine's database, and the file in it that has the rows.
fn database(engine: Engine, dir: &Path) -> (PathBuf, PathBuf) {
    let folder = dir.join(engine.name());
    let file = match engine {
        Engine::Sled => folder.join("db"),
        Engine::Redb => folder.join("rows.redb"),
    };
    (folder, file)
}

fn copy_of_an_unclean_stop(engine: Engine, dir: &Path) -> PathBuf {
    dir.join(format!("{engine}.unclean"))
}

fn put(rows: &[(&str, &str)]) -> Commit {
    let mut commit = Commit::default();
    rows.iter().for_each(|(key, value)| commit.put(key.as_bytes().to_vec(), value.as_bytes().to_vec()));
    commit
}

fn get(store: &Store, key: &str) -> Option<String> {
    store.get(key.as_bytes()).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn keys<E: std::fmt::Debug>(
    rows: impl Iterator<Item = Result<(bytes::Bytes, bytes::Bytes), E>>,
) -> Vec<String> {
    rows.map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap()).collect()
}

async fn rows_are_put_replaced_and_deleted_in_order(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    store.commit(put(&[("a", "1"), ("b", "1"), ("a", "2")])).await.unwrap();
    assert_eq!((get(&store, "a"), get(&store, "b")), (Some("2".into()), Some("1".into())));
    let mut commit = put(&[("a", "3"), ("c", "1")]);
    commit.delete(b"a".to_vec());
    commit.delete(b"not there".to_vec());
    store.commit(commit).await.unwrap();
    assert_eq!((get(&store, "a"), get(&store, "c")), (None, Some("1".into())));
}

async fn scans_keep_to_their_prefix_and_their_start(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    let rows: Vec<String> = ["a", "b", "b\0", "b1", "b2", "b\u{10ffff}", "c"].map(String::from).to_vec();
    let mut commit = Commit::default();
    rows.iter().for_each(|key| commit.put(key.clone().into_bytes(), vec![1]));
    commit.put(vec![0xff, 0xff], vec![]);
    store.commit(commit).await.unwrap();
    let check = |after: Option<&str>, expect: &[&str]| {
        assert_eq!(keys(store.scan(b"b", after.map(str::as_bytes))), expect, "after {after:?}");
    };
    check(None, &["b", "b\0", "b1", "b2", "b\u{10ffff}"]);
    check(Some("a"), &["b", "b\0", "b1", "b2", "b\u{10ffff}"]);
    check(Some("b"), &["b\0", "b1", "b2", "b\u{10ffff}"]);
    check(Some("b11"), &["b2", "b\u{10ffff}"]);
    check(Some("b\u{10ffff}"), &[]);
    check(Some("c"), &[]);
    let check = |before: Option<&str>, expect: &[&str]| {
        assert_eq!(keys(store.scan_back(b"b", before.map(str::as_bytes))), expect, "before {before:?}");
    };
    check(None, &["b\u{10ffff}", "b2", "b1", "b\0", "b"]);
    check(Some("zz"), &["b\u{10ffff}", "b2", "b1", "b\0", "b"]);
    check(Some("b1"), &["b\0", "b"]);
    check(Some("b"), &[]);
    check(Some("a"), &[]);
    assert_eq!(store.scan(&[0xff], None).count(), 1);
    assert_eq!(store.scan_back(&[0xff], Some(&[0xff, 0xff])).count(), 0);
}

/// A scan may be kept for as long as anybody likes, and rows change meanwhile.
async fn a_long_scan_finds_every_row_that_stays(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    let row = |n: u32| format!("row{n:08}").into_bytes();
    let mut commit = Commit::default();
    // Some are large, so that both of an engine's limits on what it reads at once are met.
    (0..3_000).for_each(|n| commit.put(row(2 * n), vec![1; if n % 100 == 0 { 60_000 } else { 10 }]));
    store.commit(commit).await.unwrap();
    let (mut up, mut down) = (store.scan(b"row", None), store.scan_back(b"row", None));
    let mut seen = (keys(up.by_ref().take(10)), keys(down.by_ref().take(10)));
    let mut commit = Commit::default();
    (0..3_000).filter(|n| n % 3 == 0).for_each(|n| commit.delete(row(2 * n)));
    (0..3_000).filter(|n| n % 7 == 0).for_each(|n| commit.put(row(2 * n + 1), vec![2]));
    store.commit(commit).await.unwrap();
    seen.0.extend(keys(up));
    seen.1.extend(keys(down));
    assert!(seen.0.is_sorted() && seen.1.iter().rev().is_sorted());
    for seen in [seen.0, seen.1] {
        let numbers: Vec<u32> = seen.iter().map(|key| key[3..].parse().unwrap()).collect();
        let stayed = numbers.iter().filter(|n| *n % 2 == 0 && *n / 2 % 3 != 0).count();
        assert_eq!(stayed, 2_000);
        assert_eq!(numbers.iter().collect::<std::collections::HashSet<_>>().len(), numbers.len());
    }
}

async fn a_scan_that_nobody_ends_does_not_hold_up_space(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    store.commit(put(&[("a", "1"), ("b", "1")])).await.unwrap();
    let mut scan = store.scan(b"", None);
    scan.next().unwrap().unwrap();
    // 400 MB in all, of which 1 MB counts.
    for _ in 0..400 {
        let mut commit = Commit::default();
        (0..100_u8).for_each(|n| commit.put(vec![b'x', n], vec![n; 10_000]));
        store.commit(commit).await.unwrap();
    }
    let bytes = store.disk_bytes().unwrap();
    assert!(bytes < 64 << 20, "{bytes}");
    assert!(scan.next().is_some());
}

/// Rows come and go in the order of their keys and in none, and a few of them stay: without what moves those, no
/// part of a log would ever be free as a whole.
async fn a_store_that_is_never_idle_uses_its_room_again(engine: Engine) {
    const KEPT: u64 = 4_000;
    let key = |table: u64, n: u64| {
        let n = if table == 1 { n.wrapping_mul(0x9E37_79B9_7F4A_7C15) } else { n };
        [&[u8::try_from(table).unwrap()], &n.to_be_bytes()[..]].concat()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    // 300 MB in all, of which 18 MB count in the end.
    for first in (0..100_000).step_by(50) {
        let mut commit = Commit::default();
        for n in first..first + 50 {
            for table in 0..3 {
                commit.put(key(table, n), vec![0; 1_000]);
                if let Some(old) = n.checked_sub(KEPT).filter(|old| old % 50 != 0) {
                    commit.delete(key(table, old));
                }
            }
        }
        store.commit(commit).await.unwrap();
    }
    let bytes = store.disk_bytes().unwrap();
    assert!(bytes < 112 << 20, "{bytes}");
}

async fn what_follows_runs_once_each_in_order_and_finds_its_rows(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    let (told, heard) = mpsc::channel();
    for n in 0..1_000_u32 {
        let mut commit = Commit::default();
        commit.put(n.to_be_bytes().to_vec(), vec![1]);
        for half in [0, 1] {
            let (told, reader) = (told.clone(), store.clone());
            commit.then(move || {
                let there = reader.get(&n.to_be_bytes()).unwrap().is_some();
                told.send((n, half, there)).unwrap();
            });
        }
        store.submit(commit);
    }
    store.commit(Commit::default()).await.unwrap();
    let expect: Vec<_> = (0..1_000).flat_map(|n| [(n, 0, true), (n, 1, true)]).collect();
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), expect);
}

async fn a_crowd_shares_its_flushes_and_a_lone_commit_has_its_own(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    for n in 0..3_u8 {
        store.commit(put(&[("alone", &n.to_string())])).await.unwrap();
    }
    assert_eq!(store.stats(), Stats { commits: 3, flushes: 3, operations: 3 });
    let crowd: Vec<_> = (0..2_000_u32)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut commit = Commit::default();
                commit.put(n.to_be_bytes().to_vec(), vec![0; 100]);
                store.commit(commit).await
            })
        })
        .collect();
    for one in crowd {
        one.await.unwrap().unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.commits, stats.operations), (2_003, 2_003));
    assert!(stats.flushes < 1_000, "{stats:?}");
}

async fn a_commit_happens_even_if_nobody_waits_for_it(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    {
        let mut waiting = Box::pin(store.commit(put(&[("given up", "1")])));
        poll_once(waiting.as_mut()).await;
    }
    store.commit(put(&[("later", "1")])).await.unwrap();
    assert_eq!(get(&store, "given up"), Some("1".into()));
}

/// Polls a future once, whatever comes of it.
async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) {
    let poll = |context: &mut std::task::Context<'_>| {
        std::task::Poll::Ready(future.as_mut().poll(context).is_ready())
    };
    std::future::poll_fn(poll).await;
}

async fn a_commit_far_over_the_batch_size_is_whole_with_a_small_cache(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { engine, cache_bytes: 1024 * 1024, ..Config::new(dir.path()) };
    let store = Store::open(&config).unwrap();
    let mut commit = Commit::default();
    for n in 0..20_000_u32 {
        commit.put([b"row".as_slice(), &n.wrapping_mul(2_654_435_761).to_be_bytes()].concat(), vec![1; 300]);
    }
    store.commit(commit).await.unwrap();
    drop(store);
    let store = Store::open(&config).unwrap();
    assert_eq!(store.scan(b"row", None).filter(Result::is_ok).count(), 20_000);
}

async fn values_of_the_largest_size_are_kept(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    for n in 0..200_u32 {
        let mut commit = Commit::default();
        commit.put(n.to_be_bytes().to_vec(), vec![7; VALUE_BYTES]);
        store.commit(commit).await.unwrap();
    }
    if engine == Engine::Sled {
        let files = fs::read_dir(dir.path().join("sled/blobs")).unwrap().count();
        assert_eq!(files, 0, "sled does not sync these files");
    }
    store.close();
    drop(store);
    let store = open(engine, dir.path());
    for (n, row) in (0..200_u32).zip(store.scan(&[], None)) {
        let (key, value) = row.unwrap();
        assert_eq!((&key[..], value.len()), (&n.to_be_bytes()[..], VALUE_BYTES));
    }
}

async fn a_larger_value_is_never_written(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    let too_large = || {
        let mut commit = put(&[("with it", "1")]);
        commit.put(b"x".to_vec(), vec![7; VALUE_BYTES + 1]);
        commit
    };
    assert!(matches!(store.commit(too_large()).await, Err(Error::TooLarge { .. })));
    store.commit(put(&[("next", "1")])).await.unwrap();
    store.submit(too_large());
    assert!(store.failed().await.contains("the limit is 114688"));
    assert_eq!((get(&store, "with it"), get(&store, "next")), (None, Some("1".into())));
}

async fn a_failure_is_for_good_and_answers_nobody(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    store.commit(put(&[("before", "1")])).await.unwrap();
    assert_eq!(store.is_failed(), None);
    let (told, heard) = mpsc::channel();
    let (hold, held) = mpsc::channel::<()>();
    let mut commit = put(&[("first", "1")]);
    commit.then(move || held.recv().unwrap());
    commit.then(|| panic!("an action that panics"));
    store.submit(commit);
    let mut commit = put(&[("second", "1")]);
    commit.then(move || told.send(()).unwrap());
    store.submit(commit);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.commit(put(&[("third", "1")])).await }
    });
    let failed = tokio::spawn({
        let store = store.clone();
        async move { store.failed().await }
    });
    hold.send(()).unwrap();
    assert!(failed.await.unwrap().contains("an action that panics"));
    assert!(matches!(waiting.await.unwrap(), Err(Error::Failed(_))));
    assert!(matches!(store.commit(put(&[("fourth", "1")])).await, Err(Error::Failed(_))));
    assert!(heard.recv().is_err(), "an action ran after the failure");
    store.close();
    drop(store);
    assert!(dir.path().join("open").exists(), "a failed store is not closed cleanly");
    assert_eq!(get(&open(engine, dir.path()), "before"), Some("1".into()));
}

async fn what_is_durable_is_answered_before_a_failure_is_known(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    let (told, heard) = mpsc::channel();
    let (begun, begins) = mpsc::channel();
    let (hold, held) = mpsc::channel::<()>();
    let mut commit = put(&[("durable", "1")]);
    let clone = store.clone();
    commit.then(move || {
        begun.send(()).unwrap();
        held.recv().unwrap();
        told.send(clone.is_failed()).unwrap();
    });
    store.submit(commit);
    begins.recv().unwrap();
    let mut commit = Commit::default();
    commit.put(b"x".to_vec(), vec![7; VALUE_BYTES + 1]);
    store.submit(commit);
    // The answer is held up, and so must be what the second commit causes.
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), store.failed()).await;
    assert!(early.is_err(), "{early:?}");
    hold.send(()).unwrap();
    assert!(store.failed().await.contains("the limit is"));
    assert_eq!(heard.recv().unwrap(), None);
}

async fn closing_drains_and_is_final(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    for n in 0..500_u32 {
        store.submit(put(&[(&format!("row {n}"), "1")]));
    }
    let clone = store.clone();
    store.close();
    store.close();
    assert!(!dir.path().join("open").exists());
    assert!(matches!(clone.get(b"row 1"), Err(Error::Closed)));
    assert!(matches!(clone.scan(b"row", None).next(), Some(Err(Error::Closed))));
    assert_eq!(clone.scan(b"row", None).count(), 1);
    assert!(matches!(clone.commit(put(&[("late", "1")])).await, Err(Error::Closed)));
    let again = open(engine, dir.path());
    assert_eq!(again.scan(b"row ", None).count(), 500);
    assert_eq!(get(&again, "late"), None);
    assert!(!copy_of_an_unclean_stop(engine, dir.path()).exists(), "a clean stop needs no copy");
}

async fn an_unclean_stop_keeps_what_was_answered_and_one_copy(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let copy = copy_of_an_unclean_stop(engine, dir.path());
    for n in 1..=3_u32 {
        let store = open(engine, dir.path());
        assert_eq!(copy.exists(), n > 1);
        assert_eq!(store.scan(b"run ", None).count(), n as usize - 1);
        store.commit(put(&[(&format!("run {n}"), "1")])).await.unwrap();
    }
    let store = open(engine, dir.path());
    assert_eq!(store.scan(b"run ", None).count(), 3);
    let other = tempfile::tempdir().unwrap();
    fs::rename(&copy, database(engine, other.path()).0).unwrap();
    assert_eq!(open(engine, other.path()).scan(b"run ", None).count(), 3, "the copy is a database");
}

async fn a_copy_outlives_a_recovery_that_does_not_end(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    store.commit(put(&[("kept", "1")])).await.unwrap();
    drop(store);
    let (folder, file) = database(engine, dir.path());
    let copy = copy_of_an_unclean_stop(engine, dir.path());
    let good = fs::read(&file).unwrap();
    // Stands for a recovery that does harm: the first start after it copies, and is refused.
    fs::write(dir.path().join("open"), "recovering").unwrap();
    fs::rename(&folder, &copy).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(&file, vec![0; good.len()]).unwrap();
    for _ in 0..2 {
        assert!(matches!(try_open(engine, dir.path()), Err(Error::Open { .. })));
        assert_eq!(fs::read(copy.join(file.file_name().unwrap())).unwrap(), good);
    }
}

async fn a_database_that_lost_its_beginning_is_refused(engine: Engine) {
    let damages: [fn(&Path); 3] = [
        |db| fs::write(db, []).unwrap(),
        |db| fs::write(db, vec![0x55; 100_000]).unwrap(),
        |db| fs::remove_dir_all(db.parent().unwrap()).unwrap(),
    ];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        let store = open(engine, dir.path());
        store.commit(put(&[("row", "1")])).await.unwrap();
        store.close();
        drop(store);
        damage(&database(engine, dir.path()).1);
        match try_open(engine, dir.path()) {
            Err(Error::Open { reason, .. }) => assert!(!reason.is_empty()),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("opened, with {} rows", open(engine, dir.path()).scan(b"row", None).count()),
        }
    }
}

async fn a_store_of_a_later_format_is_refused_and_stays_as_it_is(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let format = dir.path().join("format");
    let store = open(engine, dir.path());
    store.commit(put(&[("row", "1")])).await.unwrap();
    store.close();
    drop(store);
    let current: u32 = fs::read_to_string(&format).unwrap().parse().unwrap();
    fs::write(&format, (current + 1).to_string()).unwrap();
    let database = database(engine, dir.path()).1;
    let before = fs::read(&database).unwrap();
    let refused = try_open(engine, dir.path()).err().expect("it is refused").to_string();
    assert!(refused.contains(&format!("has the format {}", current + 1)), "{refused}");
    assert!(refused.contains(&format!("up to {current}")), "{refused}");
    assert_eq!(fs::read(&database).unwrap(), before);
    assert_eq!(fs::read_to_string(&format).unwrap(), (current + 1).to_string());
    // One from before there were numbers is of the first form.
    for earlier in [None, Some("1")] {
        match earlier {
            None => fs::remove_file(&format).unwrap(),
            Some(text) => fs::write(&format, text).unwrap(),
        }
        assert_eq!(get(&open(engine, dir.path()), "row").unwrap(), "1");
        assert_eq!(fs::read_to_string(&format).unwrap(), current.to_string());
    }
    fs::write(&format, "new").unwrap();
    assert!(matches!(try_open(engine, dir.path()), Err(Error::Open { .. })));
}

async fn a_store_has_one_process(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    assert!(matches!(try_open(engine, dir.path()), Err(Error::Locked { .. })));
    store.close();
    drop(try_open(engine, dir.path()).unwrap());
}

async fn the_last_clone_may_go_in_what_follows_a_commit(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    let (told, heard) = mpsc::channel();
    let last = Arc::new(store);
    let mut commit = put(&[("row", "1")]);
    let clone = last.clone();
    commit.then(move || {
        while Arc::strong_count(&clone) > 1 {
            std::thread::yield_now();
        }
        drop(clone);
        told.send(()).unwrap();
    });
    last.submit(commit);
    drop(last);
    heard.recv().unwrap();
}

async fn the_disk_is_measured(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(engine, dir.path());
    assert!(store.free_bytes().unwrap() > 0);
    let before = store.disk_bytes().unwrap();
    fs::write(dir.path().join("blobs/0000000000000001"), vec![1; 1 << 20]).unwrap();
    assert!(store.disk_bytes().unwrap() >= before + (1 << 20));
}
