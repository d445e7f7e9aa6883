//! Guests of WASI: they run, and find nothing that was not granted.

use serde_json::{Value, json};

use super::{Rig, Run};

fn run(rig: &Rig, mode: &str, grants: &Value) -> Run {
    rig.run("wasi", &json!({"config": {"mode": mode}, "grants": grants}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_of_wasi_is_taken_and_finds_an_empty_world() {
    let rig = Rig::new();
    let imports = rig.admit("wasi").imports;
    for part in
        ["wasi:cli/environment@0.2.", "wasi:filesystem/types@0.2.", "wasi:sockets/tcp-create-socket@0.2."]
    {
        assert!(imports.iter().any(|import| import.starts_with(part)), "{part} in {imports:?}");
    }
    let run = run(&rig, "surroundings", &json!({}));
    let expect = [
        "Info environment []",
        "Info arguments []",
        "Info folder None",
        "Info open folders 0",
        "Info terminal false",
        "Info input Err(\"StreamError::Closed\")",
    ];
    assert_eq!(run.is("ack", "").logs(), expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_prints_is_its_log() {
    let rig = Rig::new();
    let printed = run(&rig, "print", &json!({}));
    let expect = ["Info one", "Warn !", "Info two", "Warn !", "Warn !", "Info and the rest"];
    assert_eq!(printed.is("ack", "").logs(), expect);
    let cut = rig.run("wasi", &json!({"config": {"mode": "print"}, "limits": {"log_bytes": 5}}));
    assert_eq!(cut.logs(), ["Info one", "Warn !", "Info t"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_stops_it_and_is_named() {
    let rig = Rig::new();
    let everything = || json!({"clock": true, "random": true, "http": {"hosts": ["example.com"]}});
    let check = |mode: &str, grants: Value, words: &str| {
        run(&rig, mode, &grants).is("fault", words);
    };
    for (mode, words) in [
        ("clock", "(grants.clock of"),
        ("sleep", "(grants.clock of"),
        ("random", "(grants.random of"),
        ("insecure", "(grants.random of"),
        ("http", "(grants.http of"),
    ] {
        check(mode, json!({}), words);
        if mode != "http" {
            run(&rig, mode, &everything()).is("ack", "");
        }
    }
    for grants in [json!({}), everything()] {
        check("socket", grants.clone(), "no grant opens sockets to a handler; grants.http");
        check("lookup", grants.clone(), "wasi:sockets/instance-network");
        check("exit", grants.clone(), "trap: the plugin left by itself (exit)");
        check("exit_code", grants.clone(), "(exit with the code 7)");
        check("poll_nothing", grants.clone(), "bad call: poll: there is nothing to wait for");
        check("hoard", grants, "513 handles of WASI interfaces at the same time, the limit is 512");
    }
    check("poll_unfinished", everything(), "whose body it has not finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_of_hash_maps_is_fixed_unless_randomness_is_granted() {
    let rig = Rig::new();
    let seed = |grants: Value| run(&rig, "seed", &grants).is("ack", "").logs();
    assert_eq!(seed(json!({})), seed(json!({})));
    assert_ne!(seed(json!({"random": true})), seed(json!({"random": true})));
}
