//! Compiled plugins on disk: found again, and never trusted when damaged.

use std::{fs, path::PathBuf};

use sha2::{Digest as _, Sha256};

use super::*;

/// The one artefact in the cache.
fn artefact(rig: &Rig) -> PathBuf {
    let mut found = Vec::new();
    for engine in fs::read_dir(rig.dir.path().join("cache")).unwrap() {
        found.extend(fs::read_dir(engine.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// The same folder after a restart.
fn restart(rig: Rig) -> Rig {
    let Rig { runtime, dir } = rig;
    drop(runtime);
    Rig { runtime: Rig::runtime(&dir), dir }
}

#[test]
fn a_restart_does_not_compile_again() {
    let wasm = guest("(call $ack)");
    let rig = Rig::new();
    let first = rig.runtime.admit(&wasm).unwrap();
    assert!(first.compile_ms > 0);
    let name = artefact(&rig).file_name().unwrap().to_owned();
    assert_eq!(name.to_str().unwrap(), format!("{}.cwasm", first.digest.hex()));
    let rig = restart(rig);
    let second = rig.runtime.admit(&wasm).unwrap();
    assert_eq!(second.compile_ms, 0);
    assert_eq!((second.imports, second.world), (first.imports, first.world));
    assert_eq!(rig.subject(&wasm, |_| {}).deliver().verdict, ACK);
}

#[test]
fn a_damaged_artefact_is_compiled_anew() {
    let wasm = guest("(call $ack)");
    let mut rig = Rig::new();
    rig.runtime.admit(&wasm).unwrap();
    let sound = fs::read(artefact(&rig)).unwrap();
    let mut flipped = sound.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let foreign = [Sha256::digest(b"foreign").as_slice(), b"foreign"].concat();
    for damaged in [Vec::new(), sound[..sound.len() - 1].to_vec(), flipped, foreign] {
        fs::write(artefact(&rig), &damaged).unwrap();
        rig = restart(rig);
        assert!(rig.runtime.admit(&wasm).unwrap().compile_ms > 0, "compiled anew");
        assert_eq!(rig.subject(&wasm, |_| {}).deliver().verdict, ACK);
        assert_ne!(fs::read(artefact(&rig)).unwrap(), damaged, "and written anew");
    }
}

#[test]
fn interrupted_writes_are_cleared_away() {
    let rig = Rig::new();
    rig.runtime.admit(&guest("(call $ack)")).unwrap();
    let partial = artefact(&rig).with_extension("1-2.partial");
    fs::write(&partial, "torn").unwrap();
    let rig = restart(rig);
    assert!(!partial.exists());
    artefact(&rig);
}

#[test]
fn a_handler_is_made_from_the_file_alone_and_only_from_the_right_one() {
    let wasm = guest("(call $ack)");
    let digest = Rig::new().runtime.admit(&wasm).unwrap().digest;
    let subscription: Subscription = serde_json::from_value(serde_json::json!({
        "queue": "orders", "plugin": "guest", "version": digest.to_string(),
    }))
    .unwrap();
    let name = Name::new("sub").unwrap();
    let rig = Rig::new();
    let error = |path: &PathBuf| match rig.runtime.handler(&name, &subscription, &digest, path) {
        Err(PluginError::Host(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was made"),
    };
    assert!(error(&rig.dir.path().join("missing.wasm")).contains("missing.wasm"));
    assert!(error(&rig.keep(&guest("unreachable"))).contains("damaged"));
    assert!(rig.runtime.handler(&name, &subscription, &digest, &rig.keep(&wasm)).is_ok());
}
