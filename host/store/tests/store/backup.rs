//! A copy of a store that is written to meanwhile: it is the store as of one moment, and opens.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use brolly_core::{Commit, Message, Name, Timestamp};
use brolly_store::{Backup, Config, Engine, Error, Messages, Store, StoredMessage};

use crate::engines::on_each_engine;

on_each_engine! {
    a_copy_is_the_store_as_of_one_moment,
    one_copy_at_a_time_and_none_is_half_made,
    payloads_in_files_go_along,
}

fn open(engine: Engine, dir: &Path) -> (Store, Messages) {
    let store = Store::open(&Config { engine, ..Config::new(dir) }).unwrap();
    let messages = Messages::open(&store).unwrap();
    (store, messages)
}

fn number(store: &Store, key: &str) -> u64 {
    let value = store.get(key.as_bytes()).unwrap();
    value.map_or(0, |value| u64::from_be_bytes((&*value).try_into().unwrap()))
}

/// Every commit writes its number under two keys far apart, moves a row, and adds one.
fn commit(at: u64) -> Commit {
    let mut commit = Commit::default();
    for key in ["a-first", "z-last"] {
        commit.put(key.as_bytes().to_vec(), at.to_be_bytes().to_vec());
    }
    commit.delete(format!("walk/{:08}", (at + 4_999) % 5_000).into_bytes());
    commit.put(format!("walk/{:08}", at % 5_000).into_bytes(), at.to_be_bytes().to_vec());
    commit.put(format!("row/{at:08}").into_bytes(), vec![7; 100]);
    commit
}

async fn a_copy_is_the_store_as_of_one_moment(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (store, messages) = open(engine, &dir.path().join("store"));
    for at in 1..=5_000 {
        store.submit(commit(at));
    }
    store.commit(Commit::default()).await.unwrap();
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(5_000)));
    let writer = {
        let (store, stop, written) = (store.clone(), stop.clone(), written.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let at = written.load(Ordering::Relaxed) + 1;
                store.commit(commit(at)).await.unwrap();
                written.store(at, Ordering::Relaxed);
            }
        })
    };
    let to = dir.path().join("copy");
    let (copied_to, before_end) = (to.clone(), written.clone());
    let (backed_up, least) = tokio::task::spawn_blocking(move || {
        let backup = Backup::begin(&messages, copied_to).unwrap();
        let least = before_end.load(Ordering::Relaxed);
        (backup.finish().unwrap(), least)
    })
    .await
    .unwrap();
    let most = written.load(Ordering::Relaxed) + 1;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    store.close();
    assert!(backed_up.writes > 0, "nothing was written meanwhile, so nothing was shown");

    assert!(!to.join("journal").exists() && !to.join("open").exists(), "it was not closed cleanly");
    let (copy, _) = open(engine, &to);
    let at = number(&copy, "a-first");
    assert!((least..=most).contains(&at), "{at} is not between {least} and {most}");
    assert_eq!(number(&copy, "z-last"), at);
    let moving: Vec<_> = copy.scan(b"walk/", None).map(|row| row.unwrap().0).collect();
    assert_eq!(moving, [format!("walk/{:08}", at % 5_000)], "it moved with the others");
    assert_eq!(copy.scan(b"row/", None).count() as u64, at);
    copy.close();
}

async fn one_copy_at_a_time_and_none_is_half_made(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (store, messages) = open(engine, &dir.path().join("store"));
    let first = Backup::begin(&messages, dir.path().join("first")).unwrap();
    match Backup::begin(&messages, dir.path().join("second")) {
        Err(Error::Copy { reason, .. }) => assert!(reason.contains("another copy"), "{reason}"),
        other => panic!("{:?}", other.err()),
    }
    drop(first);
    let third = Backup::begin(&messages, dir.path().join("third")).unwrap();
    store.commit(commit(1)).await.unwrap();
    assert_eq!(third.finish().unwrap().writes, 5);
    store.close();
    let (copy, _) = open(engine, &dir.path().join("third"));
    assert_eq!(number(&copy, "z-last"), 1);
    copy.close();
}

fn message(id: &str) -> StoredMessage {
    let message = Message {
        id: id.into(),
        topic: Name::new("t").unwrap(),
        key: String::new(),
        content_type: String::new(),
        headers: std::collections::BTreeMap::new(),
        published_at: Timestamp(1),
        expires_at: None,
        payload: vec![9; 200_000].into(),
    };
    let (message, met_at) = (Arc::new(message), Timestamp(0));
    StoredMessage { message, met_at, routed: Vec::new(), filter_errors: Vec::new(), parent: None }
}

async fn payloads_in_files_go_along(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (store, messages) = open(engine, &dir.path().join("store"));
    let put = |id: &'static str| {
        let (seq, mut commit) = (messages.allocate(), Commit::default());
        messages.stage(seq, &message(id), &mut commit).unwrap();
        (seq, commit)
    };
    let (early, commit) = put("early");
    store.commit(commit).await.unwrap();
    let (gone, commit) = put("gone");
    store.commit(commit).await.unwrap();
    let backup = Backup::begin(&messages, dir.path().join("copy")).unwrap();
    let (late, commit) = put("late");
    store.commit(commit).await.unwrap();
    let forgotten = messages.forget(gone, &message("gone").message, |_| Ok::<_, ()>(true));
    assert_eq!(forgotten, Ok(true));
    store.commit(Commit::default()).await.unwrap();
    let blob = |seq: u64| dir.path().join("store/blobs").join(format!("{seq:016x}"));
    assert!(blob(gone).exists(), "while a copy is made nothing that it may need is removed");
    backup.finish().unwrap();
    while blob(gone).exists() {
        tokio::task::yield_now().await;
    }
    store.close();
    let (copy, found) = open(engine, &dir.path().join("copy"));
    for seq in [early, late] {
        assert_eq!(found.load(seq).unwrap().unwrap().message.payload.len(), 200_000);
    }
    assert!(found.load(gone).unwrap().is_none());
    copy.close();
}
