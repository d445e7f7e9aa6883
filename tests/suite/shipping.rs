//! Shipping a handler: the proof of a swap, the way back by hand and by itself, candidates beside the running
//! version, and what protects those whom handlers call.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::{Duration, Instant},
};

use brolly_tests::{
    eventually, orders,
    server::{PATIENCE, Server, another_version, plugin_bytes},
};
use reqwest::Method;
use serde_json::{Value, json};

pub(crate) const SETTLEMENT: &str = "/subscriptions/settlement";

/// A host with the topic of the orders, and settlement on it, with these further fields.
async fn settling(dir: &std::path::Path, more: Value) -> (Server, String) {
    settling_with(dir, &[], more).await
}

pub(crate) async fn settling_with(
    dir: &std::path::Path,
    settings: &[(&str, &str)],
    more: Value,
) -> (Server, String) {
    let server = Server::start_with(dir, &[], settings).await;
    server.put("/topics/orders.paid", json!({})).await;
    let version = server.upload("settlement", plugin_bytes("settlement")).await;
    server.subscribe("settlement", "orders.paid", "settlement", &version, more).await;
    (server, version)
}

/// The definition of settlement with another version and other fields.
pub(crate) fn settlement(version: &str, more: &Value) -> Value {
    let mut definition =
        json!({"queue": "settlement", "plugin": "settlement", "version": version, "workers": 2});
    definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    definition
}

async fn acked(server: &Server) -> u64 {
    server.get(SETTLEMENT).await["status"]["acked"].as_u64().unwrap()
}

pub(crate) async fn swaps(server: &Server) -> Vec<Value> {
    server.all("/subscriptions/settlement/swaps").await
}

/// The latest swap, once this holds of it.
async fn swap(server: &Server, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(what, PATIENCE, || async {
        let latest = swaps(server).await.into_iter().next()?;
        holds(&latest).then_some(latest)
    })
    .await
}

/// Nothing lost and nothing twice, on either side.
pub(crate) fn sound(swap: &Value) {
    for side in ["old", "new"] {
        let side = &swap[side];
        assert_eq!((&side["lost"], &side["twice"]), (&json!(0), &json!(0)), "{swap}");
        let sum: u64 = ["acked", "retried", "dead", "released", "in_hand"]
            .iter()
            .map(|part| side[part].as_u64().unwrap())
            .sum();
        assert_eq!(side["taken"], sum, "{swap}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_comes_with_its_proof_and_a_way_back() {
    let dir = tempfile::tempdir().unwrap();
    let (server, old) = settling(dir.path(), json!({"workers": 2})).await;
    let new = server.upload("settlement", another_version(plugin_bytes("settlement"), "new")).await;
    let first = swap(&server, "the first version is on record", |swap| swap["number"] == 1).await;
    assert_eq!(
        (&first["version"], &first["from"], &first["cause"]),
        (&json!(old), &Value::Null, &json!("put"))
    );
    assert_eq!(
        server.call(Method::POST, "/subscriptions/settlement/rollback", None).await.problem(404),
        "not-found"
    );

    let orders = orders::real();
    server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
    eventually("the old version is at work", PATIENCE, || async {
        (acked(&server).await > 300).then_some(())
    })
    .await;
    let more = json!({"config": {"commission_percent": "15.00"}});
    server.put(SETTLEMENT, settlement(&new, &more)).await;
    // The old one may be gone before the new one has taken anything.
    let swapped = swap(&server, "the old version is gone and the new one at work", |swap| {
        !swap["freed_at_ms"].is_null() && swap["new"]["taken"] != 0
    })
    .await;
    assert_eq!(
        (&swapped["number"], &swapped["from"], &swapped["version"]),
        (&json!(2), &json!(old), &json!(new))
    );
    assert_eq!(swapped["by"], "admin");
    let at = |side: &str, what: &str| {
        swapped[side][what].as_u64().unwrap_or_else(|| panic!("{side} {what}: {swapped}"))
    };
    assert!(at("old", "last_finished_at_ms") <= swapped["freed_at_ms"].as_u64().unwrap(), "{swapped}");
    assert!(at("new", "first_taken_at_ms") >= swapped["at_ms"].as_u64().unwrap(), "{swapped}");
    sound(&swapped);

    // One call, and it is as it was, configuration and all.
    let back = server.post("/subscriptions/settlement/rollback").await;
    assert_eq!((&back["version"], &back["config"]), (&json!(old), &json!({})));
    let returned = swap(&server, "the way back is on record", |swap| swap["number"] == 3).await;
    assert_eq!((&returned["cause"], &returned["from"]), (&json!("rolled_back"), &json!(new)));
    server.idle(&["settlement"]).await;
    assert_eq!(server.days().await, orders::totals(&orders).days);
    let all = swaps(&server).await;
    all.iter().for_each(sound);
    // What the three had in all is what there was.
    let taken = |swap: &Value| swap["new"]["taken"].as_u64().unwrap();
    let (third, second_old, second) =
        (taken(&all[0]), all[1]["old"]["taken"].as_u64().unwrap(), all[0]["old"]["taken"].as_u64().unwrap());
    assert_eq!(third + second + second_old, orders.len() as u64, "{all:?}");

    // A change further back, and one that is none.
    let body = Some(json!({"swap": 2}));
    let far = server.call(Method::POST, "/subscriptions/settlement/rollback", body).await.ok();
    assert_eq!(far["version"], old);
    let none =
        server.call(Method::POST, "/subscriptions/settlement/rollback", Some(json!({"swap": 9}))).await;
    assert_eq!(none.problem(404), "not-found");
    assert_eq!(server.terminate().await, Some(0));
    let server = Server::start(dir.path()).await;
    let after = swap(&server, "the records are kept", |swap| swap["number"] == 3).await;
    assert_eq!(after["new"]["taken"], third);

    // What takes over while it rests, on a host that has not run it, has a way back too.
    server.post("/subscriptions/settlement/pause").await;
    server.kill().await;
    let server = Server::start(dir.path()).await;
    server.put(SETTLEMENT, settlement(&new, &json!({}))).await;
    server.post("/subscriptions/settlement/resume").await;
    let rested = swap(&server, "it takes over when it goes on", |swap| swap["version"] == json!(new)).await;
    assert_eq!((&rested["number"], &rested["from"]), (&json!(4), &json!(old)));
    assert_eq!(server.post("/subscriptions/settlement/rollback").await["version"], old);
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_traps_at_once_is_taken_back_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    // One attempt for each: whatever the bad version spoils would be a dead letter for ever.
    let more = json!({"workers": 2, "order": "key", "retry": {"max_attempts": 1, "initial_delay_ms": 50}});
    let (server, good) = settling(dir.path(), more.clone()).await;
    let bad = server.upload("settlement", plugin_bytes("hostile")).await;
    let orders = orders::real();
    server.bulk("orders.paid", orders::ndjson(&orders)).await.unwrap().ok();
    eventually("the good version is at work", PATIENCE, || async {
        (acked(&server).await > 300).then_some(())
    })
    .await;
    let mut wanted = settlement(&bad, &more);
    wanted["config"] = json!({"mode": "trap"});
    wanted["guard"] = json!({"faults": 5, "for_ms": 60_000});
    server.put(SETTLEMENT, wanted).await;
    let returned = swap(&server, "the host goes back", |swap| swap["cause"] == "returned").await;
    assert_eq!(
        (&returned["version"], &returned["from"], &returned["by"]),
        (&json!(good), &json!(bad), &Value::Null)
    );
    let why = returned["why"].as_str().unwrap();
    assert!(why.contains("5 faults") && why.contains("guard.faults"), "{why}");
    server.idle(&["settlement"]).await;
    let expect = orders::totals(&orders);
    assert_eq!(server.days().await, expect.days);
    let dead = server.all("/subscriptions/settlement/dead-letters").await;
    assert_eq!(dead.len(), orders.iter().filter(|order| order.amount_cents <= 0).count());
    let all = swaps(&server).await;
    all.iter().for_each(sound);
    // Not many more than the rule says: what was in hand when it rang.
    let faults = all[0]["old"]["faults"].as_u64().unwrap();
    assert!((5..=5 + 2 * 2).contains(&faults), "{all:?}");
    assert_eq!(server.get(SETTLEMENT).await["config"], json!({}));
    let audit = server.get("/audit?limit=1").await;
    assert_eq!(audit["items"][0]["by"], Value::Null, "{audit}");

    // Without a guard people decide.
    let mut wanted = settlement(&bad, &more);
    wanted["config"] = json!({"mode": "trap"});
    wanted["guard"] = Value::Null;
    server.put(SETTLEMENT, wanted).await;
    server.bulk("orders.paid", json!({"id": "one-more", "payload": {}}).to_string()).await.unwrap().ok();
    eventually("it is a dead letter at once", PATIENCE, || async {
        let dead = server.all("/subscriptions/settlement/dead-letters").await;
        dead.iter().any(|letter| letter["message_id"] == "one-more").then_some(())
    })
    .await;
    assert_eq!(server.get(SETTLEMENT).await["version"], bad);
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_is_wrong_for_one_day_is_found_and_has_no_effect() {
    let dir = tempfile::tempdir().unwrap();
    let (server, running) = settling(dir.path(), json!({"workers": 2, "order": "key"})).await;
    let wrong = server.upload("settlement", plugin_bytes("hostile")).await;
    let rollout = json!({"version": wrong, "mode": "shadow", "percent": 100,
        "config": {"mode": "settle", "wrong_day": "1997-03-05"}});
    server.put("/subscriptions/settlement/rollout", rollout).await;
    let orders = orders::real();
    let days =
        orders.iter().filter(|order| order.paid_on == "1997-03-05" && order.amount_cents > 0).count() as u64;
    // Not faster than comparing can follow: each order is looked at.
    for chunk in orders.chunks(200) {
        server.bulk("orders.paid", orders::ndjson(chunk)).await.unwrap().ok();
        server.idle(&["settlement"]).await;
    }
    let report = eventually("every order is compared", PATIENCE, || async {
        let report = server.get("/subscriptions/settlement/rollout").await;
        let seen = report["compared"].as_u64()? + report["skipped"].as_u64()?;
        (seen >= orders.len() as u64).then_some(report)
    })
    .await;
    assert_eq!(report["skipped"], 0, "{report}");
    assert_eq!(
        (&report["differing"], &report["differs"]),
        (&json!(days), &json!({"state": days})),
        "{report}"
    );
    assert_eq!((&report["worse"], &report["stage"]), (&json!(0), &json!("running")));
    let examples = report["examples"].as_array().unwrap();
    assert_eq!(examples.len() as u64, days.min(20));
    for example in examples {
        let day = |side: &str| example[side]["state"]["day/1997-03-05"]["commission_cents"].as_u64().unwrap();
        assert_eq!(day("candidate"), day("running") + 1, "{example}");
        assert_eq!(example["differs"], json!(["state"]));
    }
    for side in ["running", "candidate"] {
        let side = &report[side];
        assert!(
            side["mean_us"].as_u64().unwrap() > 0 && side["memory_bytes"].as_u64().unwrap() > 65_536,
            "{report}"
        );
        assert!(side["mean_cpu_us"].as_u64().unwrap() > 0, "{report}");
    }
    // No trace of it anywhere.
    assert_eq!(server.days().await, orders::totals(&orders).days);
    let story = server.get(&format!("/messages/{}", examples[0]["message_id"].as_str().unwrap())).await;
    let attempts = story["deliveries"][0]["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["version"]), (1, &json!(running)), "{story}");
    // A viewer sees that there are differences, and not what is in them.
    let token =
        server.call(Method::POST, "/tokens", Some(json!({"name": "eve", "role": "viewer"}))).await.ok();
    let viewer =
        reqwest::Client::new().get(format!("{}/api/v1/subscriptions/settlement/rollout", server.url));
    let seen = server.send(viewer.bearer_auth(token["token"].as_str().unwrap())).await.ok();
    assert_eq!((&seen["differing"], &seen["examples"][0]["running"]["state"]), (&json!(days), &Value::Null));
    // It outlives a restart, and ends by hand.
    server.kill().await;
    let server = Server::start(dir.path()).await;
    let kept = eventually("the rollout goes on", PATIENCE, || async {
        let answer = server.call(Method::GET, "/subscriptions/settlement/rollout", None).await;
        (answer.body["stage"] == "running").then_some(answer.body)
    })
    .await;
    assert_eq!(kept["differing"], days);
    assert_eq!(server.call(Method::DELETE, "/subscriptions/settlement/rollout", None).await.status, 204);
    assert_eq!(server.get("/subscriptions/settlement/rollout").await["stage"], "abandoned");
    assert_eq!(
        server.call(Method::DELETE, "/subscriptions/settlement/rollout", None).await.problem(404),
        "not-found"
    );
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_ends_as_it_was_answered_though_its_subscription_rests() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, _) = settling(dir.path(), json!({})).await;
    let candidate = server.upload("settlement", another_version(plugin_bytes("settlement"), "next")).await;
    let orders = orders::real();
    let rollout = "/subscriptions/settlement/rollout";
    for (promote, stage) in [(false, "abandoned"), (true, "promoted")] {
        server.put(rollout, json!({"version": candidate, "mode": "shadow", "percent": 100})).await;
        let some = orders::named(stage, &orders[..50]);
        server.bulk("orders.paid", orders::ndjson(&some)).await.unwrap().ok();
        eventually("all are compared", PATIENCE, || async {
            let report = server.get(rollout).await;
            (report["compared"].as_u64()? + report["skipped"].as_u64()? == 50).then_some(())
        })
        .await;
        server.post("/subscriptions/settlement/pause").await;
        eventually("it rests, with its numbers written down", PATIENCE, || async {
            (server.get(SETTLEMENT).await["state"] == "paused").then_some(())
        })
        .await;
        // What is answered is durable, and what was written before it.
        server.put(&format!("/topics/after.{stage}"), json!({})).await;
        let compared = server.get(rollout).await["compared"].clone();
        server.kill().await;
        // No controller has looked at the rollout since the start, and none will.
        server = Server::start(dir.path()).await;
        assert_eq!(server.get(rollout).await["stage"], "running");
        if promote {
            server.post(&format!("{rollout}/promote")).await;
        } else {
            assert_eq!(server.call(Method::DELETE, rollout, None).await.status, 204);
        }
        let seen = server.get(rollout).await;
        assert_eq!((&seen["stage"], &seen["compared"]), (&json!(stage), &compared), "{seen}");
        assert!(seen["ended_at_ms"].as_u64() >= seen["since_ms"].as_u64(), "{seen}");
        // Nor has it seen a definition without the rollout, or brings it back when it does.
        server.post("/subscriptions/settlement/resume").await;
        server.idle(&["settlement"]).await;
        assert_eq!(server.get(rollout).await, seen);
    }
    assert_eq!(server.get(SETTLEMENT).await["version"], candidate);
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_keys_and_is_promoted_or_abandoned_by_rule() {
    let dir = tempfile::tempdir().unwrap();
    let more = json!({"workers": 2, "order": "key", "retry": {"max_attempts": 1, "initial_delay_ms": 50}});
    let (server, running) = settling(dir.path(), more).await;
    let good = server.upload("settlement", another_version(plugin_bytes("settlement"), "good")).await;
    let bad = server.upload("settlement", plugin_bytes("hostile")).await;
    let orders = orders::real();
    let (first, rest) = orders.split_at(3_000);

    // A candidate that rejects: gone after a few, and what it touched is decided by the running version.
    let rollout = json!({"version": bad, "mode": "canary", "percent": 20, "config": {"mode": "reject"},
        "rules": {"after": 200, "worse_percent": 2.0}});
    server.put("/subscriptions/settlement/rollout", rollout).await;
    server.bulk("orders.paid", orders::ndjson(first)).await.unwrap().ok();
    server.idle(&["settlement"]).await;
    let report = server.get("/subscriptions/settlement/rollout").await;
    assert_eq!(report["stage"], "abandoned", "{report}");
    assert!(report["why"].as_str().unwrap().contains("worse_percent"), "{report}");
    assert!(report["worse"].as_u64().unwrap() >= 5, "{report}");
    assert!(report["candidate"]["outcomes"]["reject"].as_u64().unwrap() < 200, "{report}");
    assert_eq!(server.days().await, orders::totals(first).days);
    let rejected = first.iter().filter(|order| order.amount_cents <= 0).count();
    assert_eq!(server.all("/subscriptions/settlement/dead-letters").await.len(), rejected);
    assert_eq!(server.get(SETTLEMENT).await["version"], running);

    // One that does as it should: it takes over.
    let rollout = json!({"version": good, "mode": "canary", "percent": 30,
        "rules": {"after": 50, "differing_percent": 0.0, "promote_after": 300}});
    server.put("/subscriptions/settlement/rollout", rollout).await;
    server.bulk("orders.paid", orders::ndjson(rest)).await.unwrap().ok();
    server.idle(&["settlement"]).await;
    let report = server.get("/subscriptions/settlement/rollout").await;
    assert_eq!((&report["stage"], &report["differing"]), (&json!("promoted"), &json!(0)), "{report}");
    let now = server.get(SETTLEMENT).await;
    assert_eq!((&now["version"], &now["rollout"]), (&json!(good), &Value::Null));
    assert_eq!(swaps(&server).await[0]["cause"], "promoted");
    assert_eq!(server.days().await, orders::totals(&orders).days);

    // A share is a share, and a key keeps to its version.
    let mut versions: BTreeMap<String, BTreeSet<String>> = Default::default();
    let rollout =
        json!({"version": running, "mode": "canary", "percent": 30, "rules": {"worse_percent": null}});
    server.put("/subscriptions/settlement/rollout", rollout).await;
    let again = orders::named("again-", &orders[..2_000]);
    server.bulk("orders.paid", orders::ndjson(&again)).await.unwrap().ok();
    server.idle(&["settlement"]).await;
    for order in again.iter().step_by(4) {
        let story = server.get(&format!("/messages/{}", order.order_id)).await;
        let version = story["deliveries"][0]["attempts"][0]["version"].as_str().unwrap().to_owned();
        versions.entry(order.customer_id.clone()).or_default().insert(version);
    }
    assert!(versions.values().all(|seen| seen.len() == 1), "{versions:?}");
    let candidates = versions.values().filter(|seen| seen.contains(&running)).count();
    let share = candidates * 100 / versions.len();
    assert!((20..=40).contains(&share), "{share} % of {} keys", versions.len());
    let promoted = server.post("/subscriptions/settlement/rollout/promote").await;
    assert_eq!(promoted["version"], running);
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_hold_for_one_subscription_and_for_those_that_share_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    let with = |rate: Value| json!({"config": {"mode": "ok"}, "workers": 4, "rate": rate});
    for (name, rate) in [
        ("alone", json!({"per_second": 100, "burst": 1})),
        ("left", json!({"per_second": 50, "burst": 1, "shared": "insurer"})),
        ("right", json!({"per_second": 80, "burst": 1, "shared": "insurer"})),
        ("free", Value::Null),
    ] {
        server.subscribe(name, "in", "hostile", &version, with(rate)).await;
    }
    let names = ["alone", "left", "right", "free"];
    let lines: String =
        (0..100).map(|n| format!("{}\n", json!({"id": n.to_string(), "payload": n}))).collect();
    let began = Instant::now();
    server.bulk("in", lines).await.unwrap().ok();
    let took = Mutex::new(BTreeMap::new());
    eventually("all are handled", PATIENCE, || async {
        for name in names {
            let status = server.get(&format!("/subscriptions/{name}")).await;
            if status["status"]["acked"] == 100 {
                took.lock().unwrap().entry(name).or_insert_with(|| began.elapsed());
            }
        }
        (took.lock().unwrap().len() == names.len()).then_some(())
    })
    .await;
    let took = took.into_inner().unwrap();
    // 99 after the first at 100 a second; 199 after the first at 50 a second, the slower of the two.
    assert!(took["alone"] >= Duration::from_millis(985), "{took:?}");
    assert!(took["left"].max(took["right"]) >= Duration::from_millis(3_970), "{took:?}");
    assert!(took["left"].max(took["right"]) < Duration::from_secs(20), "{took:?}");
    assert!(took["free"] < took["alone"], "{took:?}");
    // One that slows its share down slows the other.
    let slower = json!({"queue": "right", "plugin": "hostile", "version": version, "config": {"mode": "ok"},
        "rate": {"per_second": 20, "burst": 1, "shared": "insurer"}});
    server.put("/subscriptions/right", slower).await;
    let lines: String =
        (100..140).map(|n| format!("{}\n", json!({"id": n.to_string(), "payload": n}))).collect();
    let began = Instant::now();
    server.bulk("in", lines).await.unwrap().ok();
    for name in ["left", "right"] {
        eventually("the rest is handled", PATIENCE, || async {
            let status = server.get(&format!("/subscriptions/{name}")).await;
            (status["status"]["acked"] == 140).then_some(())
        })
        .await;
    }
    assert!(began.elapsed() >= Duration::from_millis(3_900), "{:?} for 80 at 20 a second", began.elapsed());
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_need_what_is_down_rest_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.put("/topics/in", json!({})).await;
    let version = server.upload("hostile", plugin_bytes("hostile")).await;
    // One attempt for each: an attempt that counted would be the last.
    let definition = |down: &str| {
        json!({"queue": "calls", "plugin": "hostile", "version": version, "workers": 2,
        "config": {"mode": "needs", "down": down}, "retry": {"max_attempts": 1, "initial_delay_ms": 20}})
    };
    server.put("/queues/calls", json!({})).await;
    server.put("/routes/in-to-calls", json!({"topic": "in", "queue": "calls"})).await;
    server.put("/subscriptions/calls", definition("insurer")).await;
    let lines: String = (0..200)
        .map(|n| {
            let needs = if n % 4 == 0 { "insurer" } else { "nothing" };
            format!("{}\n", json!({"id": format!("{needs}-{n}"), "key": n.to_string(), "payload": needs}))
        })
        .collect();
    server.bulk("in", lines).await.unwrap().ok();
    let calls = || server.get("/subscriptions/calls");
    let shown = eventually("the others are handled, and these are held", PATIENCE, || async {
        let now = calls().await;
        let down = now["status"]["dependencies"][0].clone();
        (now["status"]["acked"] == 150 && down["held"] == 50).then_some(down)
    })
    .await;
    assert_eq!((&shown["name"], &shown["recovering"]), (&json!("insurer"), &json!(false)));
    assert!(shown["reason"].as_str().unwrap().contains("insurer"), "{shown}");
    // It is tried now and then, by one of them, and not by all.
    eventually("a probe is made", PATIENCE, || async {
        let attempts = calls().await["status"]["retried"].as_u64()?;
        (attempts > 50).then_some(())
    })
    .await;
    let metric = brolly_tests::flow::metric(&server, "brolly_deliveries_held_back_total").await;
    assert!(calls().await["status"]["retried"].as_u64().unwrap() < 50 + 12, "{metric} held back");
    assert!(server.all("/subscriptions/calls/dead-letters").await.is_empty());
    server.put("/subscriptions/calls", definition("")).await;
    server.idle(&["calls"]).await;
    let after = calls().await;
    assert_eq!(
        (&after["status"]["acked"], &after["status"]["dependencies"]),
        (&json!(200), &json!([])),
        "{after}"
    );
    let story = server.get("/messages/insurer-0").await;
    let attempts = story["deliveries"][0]["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 2 && attempts.last().unwrap()["outcome"] == "ack", "{story}");
    assert_eq!(server.terminate().await, Some(0));
}
