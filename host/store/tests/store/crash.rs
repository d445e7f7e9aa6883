//! The promise that matters, with each engine: what was answered is there after the process was killed, and after
//! the disk refused to take more. Each test runs its own binary again as the process that suffers.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use brolly_core::{Commit, Message, Name, Timestamp};
use brolly_store::{Config, Engine, Messages, Store, StoredMessage};

use crate::engines::on_each_engine;

on_each_engine!(killed_at_any_moment, a_disk_that_takes_no_more);

/// The folder in which the child works; unset in the parent.
const DIR: &str = "BROLLY_STORE_TEST_DIR";

fn open(engine: Engine, dir: &Path) -> Store {
    Store::open(&Config { engine, ..Config::new(dir) }).unwrap()
}

fn child(engine: Engine, test: &str, dir: &Path, shell: &str) -> Child {
    let test = format!("crash::{engine}::{test}");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("{shell} exec \"$0\" --exact {test} --nocapture --test-threads 1")]);
    command.arg(std::env::current_exe().unwrap()).env(DIR, dir);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// The complete lines of a child's output.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    std::iter::from_fn(move || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        // The last line may be cut off, and a number on it with it.
        line.strip_suffix('\n').map(str::to_owned)
    })
}

/// The number on a line that answers a commit.
fn answer(line: &str) -> Option<u64> {
    line.strip_prefix("durable ").map(|number| number.parse().unwrap())
}

fn message(n: u64) -> StoredMessage {
    let size = if n.is_multiple_of(50) { 70_000 } else { 300 };
    let message = Message {
        id: format!("id-{n}"),
        topic: Name::new("t").unwrap(),
        key: String::new(),
        content_type: String::new(),
        headers: std::collections::BTreeMap::new(),
        published_at: Timestamp(n),
        expires_at: None,
        payload: vec![b'p'; size].into(),
    };
    let (message, met_at) = (Arc::new(message), Timestamp(0));
    StoredMessage { message, met_at, routed: Vec::new(), filter_errors: Vec::new(), parent: None }
}

fn row(table: &str, n: u64) -> Vec<u8> {
    [table.as_bytes(), &n.to_be_bytes()].concat()
}

/// Commits numbered rows, 32 at a time, and prints each number once it is durable; ends only when
/// the store fails.
async fn write_until_the_end(engine: Engine, dir: &Path) {
    // Ends the line on which the test harness names the test.
    println!();
    let store = open(engine, dir);
    let messages = Messages::open(&store).unwrap();
    let first = store.scan_back(b"left ", None).next().map_or(0, |row| {
        let key = row.unwrap().0;
        u64::from_be_bytes(key[5..].try_into().unwrap()) + 1
    });
    let permits = Arc::new(tokio::sync::Semaphore::new(32));
    for n in first.. {
        let permit = permits.clone().acquire_owned().await.unwrap();
        if store.is_failed().is_some() {
            break;
        }
        let mut commit = Commit::default();
        if messages.stage(messages.allocate(), &message(n), &mut commit).is_err() {
            break;
        }
        for table in ["left ", "right "] {
            commit.put(row(table, n), n.to_be_bytes().repeat(40));
        }
        if let Some(old) = n.checked_sub(20).filter(|old| old % 3 == 0) {
            commit.delete(row("right ", old));
        }
        commit.then(move || {
            println!("durable {n}");
            drop(permit);
        });
        store.submit(commit);
        tokio::task::yield_now().await;
    }
    println!("failed {}", store.failed().await);
}

/// Every answered commit is there, and every commit is there whole or not at all. Answers how many.
fn check(engine: Engine, dir: &Path, answered: u64) -> u64 {
    let store = open(engine, dir);
    let messages = Messages::open(&store).unwrap();
    let topic = Name::new("t").unwrap();
    let count = store.scan(b"left ", None).map(Result::unwrap).count() as u64;
    assert!(count >= answered, "{answered} were answered, {count} are there");
    for n in 0..count {
        assert!(store.get(&row("left ", n)).unwrap().is_some(), "{n} of {count}");
        let deleted = n % 3 == 0 && n + 20 < count;
        assert_eq!(store.get(&row("right ", n)).unwrap().is_none(), deleted, "{n} of {count}");
        let seq = messages.find(&topic, &format!("id-{n}")).unwrap().unwrap();
        assert_eq!(messages.load(seq).unwrap(), Some(message(n)), "{n} of {count}");
    }
    assert_eq!(messages.find(&topic, &format!("id-{count}")).unwrap(), None);
    // Not closed: the next process meets the folder of an unclean stop.
    count
}

async fn killed_at_any_moment(engine: Engine) {
    if let Some(dir) = std::env::var_os(DIR) {
        return write_until_the_end(engine, Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut count = 0;
    // How many answers to wait for before the kill.
    for patience in [0, 1, 37, 400, 1_000, 211, 3] {
        let mut child = child(engine, "killed_at_any_moment", dir.path(), "");
        let mut answers = lines(&mut child).filter_map(|line| answer(&line));
        let awaited: Vec<u64> = answers.by_ref().take(patience).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let answered: Vec<u64> = awaited.into_iter().chain(answers).collect();
        assert!(answered.len() >= patience);
        assert!(
            answered.iter().copied().eq((count..).take(answered.len())),
            "answers come in order: {answered:?}"
        );
        count = check(engine, dir.path(), count + answered.len() as u64);
    }
    assert!(count > 1_600);
}

async fn a_disk_that_takes_no_more(engine: Engine) {
    if let Some(dir) = std::env::var_os(DIR) {
        return write_until_the_end(engine, Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    // Files may have 16 MiB (in blocks of 512 bytes); a write beyond fails instead of killing.
    let mut child = child(engine, "a_disk_that_takes_no_more", dir.path(), "trap '' XFSZ; ulimit -f 32768;");
    let output: Vec<String> = lines(&mut child).collect();
    assert!(child.wait().unwrap().success());
    let answered = output.iter().filter_map(|line| answer(line)).count() as u64;
    let failed = output.iter().position(|line| line.starts_with("failed ")).unwrap();
    assert!(output[failed..].iter().all(|line| answer(line).is_none()), "an answer after the failure");
    assert!(answered > 1_000, "{answered}");
    check(engine, dir.path(), answered);
}
