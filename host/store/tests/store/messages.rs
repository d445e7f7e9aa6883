//! The message table.

use std::{fs, path::Path, sync::Arc};

use brolly_core::{Commit, Message, Name, Timestamp};
use brolly_store::{Config, Engine, Error, Messages, Parent, Store, StoredMessage, keys};

use crate::engines::on_each_engine;

on_each_engine! {
    messages_are_found_listed_and_removed,
    large_payloads_lie_in_files_as_long_as_their_message,
    files_without_a_message_go_at_the_next_start,
    numbers_are_never_given_out_twice,
    damage_is_named,
    a_payload_that_cannot_be_written_adds_nothing,
}

fn open(engine: Engine, dir: &Path) -> (Store, Messages) {
    let store = Store::open(&Config { engine, ..Config::new(dir) }).unwrap();
    let messages = Messages::open(&store).unwrap();
    (store, messages)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn message(topic: &str, id: &str, payload: usize) -> StoredMessage {
    let message = Message {
        id: id.into(),
        topic: name(topic),
        key: "customer.7".into(),
        content_type: "text/plain".into(),
        headers: [("h".to_owned(), "v".to_owned())].into(),
        published_at: Timestamp(5),
        expires_at: None,
        payload: vec![b'p'; payload].into(),
    };
    StoredMessage {
        message: Arc::new(message),
        met_at: Timestamp(6),
        routed: vec![name("q")],
        filter_errors: vec![(name("r"), "no such field".into())],
        parent: Some(Parent { seq: 3, subscription: name("s") }),
    }
}

async fn add(store: &Store, messages: &Messages, stored: &StoredMessage) -> u64 {
    let mut commit = Commit::default();
    let seq = messages.allocate();
    messages.stage(seq, stored, &mut commit).unwrap();
    store.commit(commit).await.unwrap();
    seq
}

fn forget(messages: &Messages, seq: u64, stored: &StoredMessage) {
    assert_eq!(messages.forget(seq, &stored.message, |_| Ok::<_, ()>(true)), Ok(true));
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir.join("blobs")).unwrap().count()
}

/// Waits for the thread that removes files, which tells nobody.
fn wait_for_files(dir: &Path, count: usize) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while files(dir) != count {
        assert!(std::time::Instant::now() < deadline, "{} files, not {count}", files(dir));
        std::thread::yield_now();
    }
}

async fn messages_are_found_listed_and_removed(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (store, messages) = open(engine, dir.path());
    let (a, b) = (message("t1", "same", 300), message("t2", "same", 0));
    let (first, second) = (add(&store, &messages, &a).await, add(&store, &messages, &b).await);
    assert_eq!(messages.load(first).unwrap(), Some(a.clone()));
    assert_eq!(messages.find(&name("t2"), "same").unwrap(), Some(second));
    assert_eq!(messages.find(&name("t2"), "sam").unwrap(), None);
    assert_eq!(messages.find_by_id("same").unwrap(), [(name("t1"), first), (name("t2"), second)]);
    let seqs = |listing: brolly_store::Listing| listing.map(|item| item.unwrap().0).collect::<Vec<_>>();
    assert_eq!(seqs(messages.oldest(None)), [first, second]);
    assert_eq!(seqs(messages.oldest(Some(first))), [second]);
    assert_eq!(seqs(messages.newest(None)), [second, first]);
    assert_eq!(seqs(messages.newest(Some(second))), [first]);
    assert_eq!(messages.newest(None).nth(1).unwrap().unwrap(), (first, a.clone()));
    forget(&messages, first, &a);
    assert_eq!(messages.find(&name("t1"), "same").unwrap(), None, "at once");
    store.commit(Commit::default()).await.unwrap();
    assert_eq!(messages.load(first).unwrap(), None);
    assert_eq!(messages.find_by_id("same").unwrap(), [(name("t2"), second)]);
}

async fn large_payloads_lie_in_files_as_long_as_their_message(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (store, messages) = open(engine, dir.path());
    let small = message("t", "small", 64 * 1024);
    let large = message("t", "large", 64 * 1024 + 1);
    let in_row = add(&store, &messages, &small).await;
    assert_eq!(files(dir.path()), 0);
    let in_file = add(&store, &messages, &large).await;
    assert_eq!(files(dir.path()), 1);
    assert_eq!(messages.load(in_row).unwrap(), Some(small));
    assert_eq!(messages.load(in_file).unwrap(), Some(large.clone()));
    // Accepted again, its file is not touched: a crash in the middle of that would cost the payload.
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    let path = fs::read_dir(dir.path().join("blobs")).unwrap().next().unwrap().unwrap().path();
    fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    let mut again = Commit::default();
    messages.stage(in_file, &large, &mut again).unwrap();
    store.commit(again).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
    let bare: Vec<_> = messages.oldest(None).without_payloads().map(|item| item.unwrap().1).collect();
    assert!(
        bare.iter().all(|stored| stored.message.payload.is_empty() && stored.message.key == "customer.7")
    );
    store.close();
    drop((store, messages));

    let (_store, messages) = open(engine, dir.path());
    assert_eq!(messages.load(in_file).unwrap(), Some(large.clone()));
    forget(&messages, in_file, &large);
    wait_for_files(dir.path(), 0);
    assert_eq!(messages.load(in_file).unwrap(), None);
}

async fn files_without_a_message_go_at_the_next_start(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (store, messages) = open(engine, dir.path());
    let large = message("t", "large", 100_000);
    let kept = add(&store, &messages, &large).await;
    messages.stage(messages.allocate(), &large, &mut Commit::default()).unwrap();
    fs::write(dir.path().join("blobs/stray"), "x").unwrap();
    assert_eq!(files(dir.path()), 3);
    drop((store, messages));
    let (_store, messages) = open(engine, dir.path());
    assert_eq!(files(dir.path()), 1);
    assert_eq!(messages.load(kept).unwrap(), Some(large));
}

async fn numbers_are_never_given_out_twice(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..4 {
        let (store, messages) = open(engine, dir.path());
        // Over the end of the block that was set aside, and once without any commit.
        for _ in 0..[1, 100_000, 70_000, 0][round] {
            let seq = messages.allocate();
            assert!(seq > last, "{seq} after {last}");
            last = seq;
        }
        if round != 1 {
            let stored = message("t", "id", 1);
            let seq = add(&store, &messages, &stored).await;
            assert!(seq > last);
            last = seq;
            forget(&messages, seq, &stored);
            store.commit(Commit::default()).await.unwrap();
        }
        if round % 2 == 1 {
            store.close();
        }
    }
}

async fn damage_is_named(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (store, messages) = open(engine, dir.path());
    let large = add(&store, &messages, &message("t", "large", 100_000)).await;
    let newer = messages.allocate();
    let mut commit = Commit::default();
    commit.put(keys::message(newer), vec![9, 1, 2]);
    commit.put(keys::index("odd", &name("t")), vec![1]);
    store.commit(commit).await.unwrap();
    let error = messages.load(newer).unwrap_err().to_string();
    assert_eq!(error, format!("message row {newer} is damaged: its format is 9, this version knows 1 to 6"));
    assert!(matches!(messages.find(&name("t"), "odd"), Err(Error::Corrupt { .. })));
    let path = dir.path().join(format!("blobs/{large:016x}"));
    fs::write(&path, "short").unwrap();
    assert!(messages.load(large).unwrap_err().to_string().contains("has 5 bytes, not 100000"));
    fs::remove_file(&path).unwrap();
    assert!(messages.load(large).unwrap_err().to_string().contains("file is missing"));
    let listed: Vec<bool> = messages.oldest(None).map(|item| item.is_ok()).collect();
    assert_eq!(listed, [false, false], "a listing goes on after a damaged message");
}

async fn a_payload_that_cannot_be_written_adds_nothing(engine: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (_store, messages) = open(engine, dir.path());
    fs::remove_dir(dir.path().join("blobs")).unwrap();
    let mut commit = Commit::default();
    let staged = messages.stage(messages.allocate(), &message("t", "large", 100_000), &mut commit);
    assert!(matches!(staged, Err(Error::File { operation: "writing", .. })));
    assert!(commit.writes().is_empty());
}
