//! Copying a store to another engine, to each of them: nothing is lost or changed, and whatever
//! interrupts it leaves a store that opens with exactly one engine.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use brolly_core::Commit;
use brolly_store::{Config, Engine, Error, Progress, Store, copy};

use crate::engines::on_each_engine;

on_each_engine! {
    a_copy_has_every_row_and_counts,
    a_copy_that_is_killed_at_any_step_leaves_one_engine,
    a_store_that_is_open_or_not_there_is_not_copied,
    a_store_that_cannot_be_recovered_is_not_copied,
    what_lies_in_the_way_of_a_copy_does_not_get_into_it,
}

/// In the child: the folder in which it copies, and the step at which it dies.
const DIR: &str = "BROLLY_STORE_TEST_DIR";
const STEP: &str = "BROLLY_STORE_TEST_STEP";

type Rows = Vec<(bytes::Bytes, bytes::Bytes)>;

fn other(engine: Engine) -> Engine {
    match engine {
        Engine::Sled => Engine::Redb,
        Engine::Redb => Engine::Sled,
    }
}

fn config(engine: Engine, dir: &Path) -> Config {
    Config { engine, ..Config::new(dir) }
}

/// Makes a store of `rows` rows, closed, and answers with all that is in it.
async fn fill(engine: Engine, dir: &Path, rows: u32) -> Rows {
    let store = Store::open(&config(engine, dir)).unwrap();
    let mut commit = Commit::default();
    for n in 0..rows {
        let size = if n % 500 == 0 { brolly_store::VALUE_BYTES } else { n as usize % 300 };
        commit.put(n.wrapping_mul(2_654_435_761).to_be_bytes().to_vec(), vec![n as u8; size]);
    }
    store.commit(commit).await.unwrap();
    let rows = all(&store);
    store.close();
    rows
}

/// All rows but the one that counts the starts.
fn all(store: &Store) -> Rows {
    store.scan(&[], None).map(Result::unwrap).filter(|(key, _)| &key[..] != b"Mstarts").collect()
}

/// The one engine with which the store opens, and its rows; the other is refused, and says how the
/// store could become its own.
fn opens_with(dir: &Path) -> (Engine, Rows) {
    let mut found = None;
    for engine in Engine::ALL {
        match Store::open(&config(engine, dir)) {
            Ok(store) => {
                assert!(found.is_none(), "it opens with both");
                found = Some((engine, all(&store)));
                store.close();
            }
            Err(error @ Error::OtherEngine { .. }) => {
                assert!(error.to_string().contains(&format!("brolly store copy --to {engine}")), "{error}");
            }
            Err(error) => panic!("{engine}: {error}"),
        }
    }
    found.expect("it opens with neither")
}

async fn a_copy_has_every_row_and_counts(to: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let from = other(to);
    let rows = fill(from, dir.path(), 2_000).await;
    fs::write(dir.path().join("blobs/0000000000000001"), "a payload").unwrap();
    assert_eq!(opens_with(dir.path()), (from, rows.clone()));

    let mut steps = Vec::new();
    let copied = copy(&config(to, dir.path()), |step| steps.push(step)).unwrap().unwrap();
    let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert_eq!((copied.from, copied.rows, copied.bytes), (from, 2_001, bytes as u64 + 7 + 8));
    assert_eq!(copied.sha256.len(), 64);
    assert!(steps.contains(&Progress::Copying { rows: 2_001, bytes: copied.bytes }), "{steps:?}");
    assert!(steps.contains(&Progress::Verifying { rows: 2_000, of: 2_001 }), "{steps:?}");
    assert!(steps.ends_with(&[Progress::Switching, Progress::Removing]), "{steps:?}");

    assert!(!dir.path().join("open").exists(), "the stop was clean");
    assert!(!dir.path().join(from.name()).exists(), "the old database is gone");
    assert_eq!(opens_with(dir.path()), (to, rows.clone()));
    assert_eq!(fs::read(dir.path().join("blobs/0000000000000001")).unwrap(), b"a payload");
    // Once more is nothing, and back again is possible.
    assert_eq!(copy(&config(to, dir.path()), |step| panic!("{step:?}")).unwrap(), None);
    copy(&config(from, dir.path()), |_| ()).unwrap().unwrap();
    assert_eq!(opens_with(dir.path()), (from, rows));
}

async fn a_copy_that_is_killed_at_any_step_leaves_one_engine(to: Engine) {
    if let Some(dir) = std::env::var_os(DIR) {
        let mut steps: usize = std::env::var(STEP).unwrap().parse().unwrap();
        let die = |_| {
            if steps == 0 {
                std::process::abort();
            }
            steps -= 1;
        };
        copy(&config(to, Path::new(&dir)), die).unwrap().unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = other(to);
    let rows = fill(from, dir.path(), 1_000).await;
    let mut found = Vec::new();
    for step in 0.. {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", &format!("copy::{to}::a_copy_that_is_killed_at_any_step_leaves_one_engine")]);
        child.env(DIR, dir.path()).env(STEP, step.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        let ended = child.status().unwrap();
        let (engine, left) = opens_with(dir.path());
        assert_eq!(left, rows, "step {step}");
        found.push(engine);
        if engine == to {
            // The last step died between the switch and the end: finished by copying again.
            assert!(!ended.success());
            assert_eq!(copy(&config(to, dir.path()), |_| ()).unwrap(), None);
            break;
        }
    }
    assert_eq!(found.iter().filter(|engine| **engine == to).count(), 1);
    assert!(found.len() > 10, "{found:?}");
    assert!(!dir.path().join(from.name()).exists());
    assert_eq!(opens_with(dir.path()), (to, rows));
}

async fn a_store_that_is_open_or_not_there_is_not_copied(to: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let error = copy(&config(to, dir.path()), |step| panic!("{step:?}")).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made");

    let from = other(to);
    let rows = fill(from, dir.path(), 10).await;
    let store = Store::open(&config(from, dir.path())).unwrap();
    for engine in Engine::ALL {
        let error = copy(&config(engine, dir.path()), |step| panic!("{step:?}")).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
    }
    // As after a crash: it is recovered first.
    drop(store);
    copy(&config(to, dir.path()), |_| ()).unwrap().unwrap();
    assert!(dir.path().join(format!("{from}.unclean")).exists());
    assert_eq!(opens_with(dir.path()), (to, rows));
}

async fn a_store_that_cannot_be_recovered_is_not_copied(to: Engine) {
    let dir = tempfile::tempdir().unwrap();
    let from = other(to);
    fill(from, dir.path(), 10).await;
    fs::write(dir.path().join("open"), "open").unwrap();
    let file = dir.path().join(from.name()).join(if from == Engine::Sled { "db" } else { "rows.redb" });
    fs::write(&file, vec![0x55; 100_000]).unwrap();
    for _ in 0..2 {
        let error = copy(&config(to, dir.path()), |step| panic!("{step:?}")).unwrap_err();
        assert!(matches!(error, Error::Open { .. }), "{error}");
        assert!(!dir.path().join(to.name()).exists());
        let error = Store::open(&config(to, dir.path())).err().unwrap();
        assert!(matches!(error, Error::OtherEngine { .. }), "{error}");
    }
}

async fn what_lies_in_the_way_of_a_copy_does_not_get_into_it(to: Engine) {
    let (dir, earlier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rows = fill(other(to), dir.path(), 300).await;
    fill(to, earlier.path(), 600).await;
    fs::rename(earlier.path().join(to.name()), dir.path().join(to.name())).unwrap();
    assert_eq!(opens_with(dir.path()), (other(to), rows.clone()));
    copy(&config(to, dir.path()), |_| ()).unwrap().unwrap();
    assert_eq!(opens_with(dir.path()), (to, rows));
}
