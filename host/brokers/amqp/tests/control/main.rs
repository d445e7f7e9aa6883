//! The way to RabbitMQ through what only its operator can do. `BROLLY_TEST_RABBITMQ_URL` names the
//! server and `BROLLY_TEST_RABBITMQ_CTL` a program that is its `rabbitmqctl`; further addresses are
//! named by `BROLLY_TEST_RABBITMQ_TLS_URL` with `BROLLY_TEST_RABBITMQ_CA`, and by
//! `BROLLY_TEST_RABBITMQ_MANAGEMENT`. What is missing is skipped, and said so. The server has to be
//! one that nobody else uses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

#[allow(dead_code, reason = "shared with the tests that need no operator")]
#[path = "../rabbit/bench.rs"]
mod bench;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use bench::{Bench, drain, eventually, failure, message, name, next, server, shows};
use brolly_core::{Broker, BrokerError, Code, Connection, Settlement};
use tokio::sync::{Mutex, MutexGuard};

/// One at a time: each does something to the whole server.
static ALONE: Mutex<()> = Mutex::const_new(());

struct Control {
    url: String,
    program: String,
    _alone: MutexGuard<'static, ()>,
}

async fn control(test: &str) -> Option<Control> {
    let url = server(test)?;
    let Ok(program) = std::env::var("BROLLY_TEST_RABBITMQ_CTL") else {
        println!("skipped {test}: BROLLY_TEST_RABBITMQ_CTL names no rabbitmqctl");
        return None;
    };
    Some(Control { url, program, _alone: ALONE.lock().await })
}

impl Control {
    async fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{} \"$@\"", self.program)).arg("ctl").args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}{errors}");
        said.into_owned()
    }

    async fn alarm(&self, on: bool) {
        self.run(&["set_vm_memory_high_watermark", if on { "0.000001" } else { "0.4" }]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_blocks_publishers_still_delivers_and_settles() {
    let Some(control) = control("blocked").await else { return };
    let bench = Bench::simple(&control.url).await;
    bench.publish(&["a", "b"]).await;
    control.alarm(true).await;
    // The server tells only those who publish.
    let source = bench.consume("q").await;
    let blocked = eventually("publishing is refused", || async {
        let began = Instant::now();
        let refused = bench.broker.publish(&name("t"), vec![message("c")]).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        refused.err()
    })
    .await;
    assert!(
        matches!(&blocked, BrokerError::Refused(refusal) if refusal.code == Code::Unavailable),
        "{blocked}"
    );
    shows::<()>(&Err(blocked), "low on memory");
    assert!(bench.health(Connection::Blocked).await.contains("memory"));
    assert_eq!(drain(&source, 2).await, ["a", "b"]);
    bench.until_counts("q", (0, 0, 0)).await;
    control.alarm(false).await;
    bench.connected().await;
    bench.publish(&["d"]).await;
    eventually("d comes", || async { drain(&source, 1).await.contains(&"d".to_owned()).then_some(()) }).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_broker_can_be_closed() {
    let Some(control) = control("close while blocked").await else { return };
    let bench = Bench::simple(&control.url).await;
    control.alarm(true).await;
    eventually("publishing is refused", || async {
        bench.broker.publish(&name("t"), vec![message("c")]).await.err()
    })
    .await;
    let began = Instant::now();
    bench.broker.close().await;
    println!("closed in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5));
    control.alarm(false).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_is_found_again_with_all_it_had() {
    let Some(control) = control("restart").await else { return };
    let bench = Bench::simple(&control.url).await;
    let source = bench.consume("q").await;
    bench.publish(&["a", "b", "c"]).await;
    let a = next(&source).await;
    let retry = Settlement::Retry { delay: Duration::from_secs(10), attempts: 2 };
    source.settle(a.lease, retry);
    bench.until_counts("q", (0, 2, 1)).await;
    let b = next(&source).await;
    source.settle(b.lease, Settlement::Ack);
    bench.until_counts("q", (0, 1, 1)).await;
    control.run(&["stop_app"]).await;
    let why = failure(&source).await;
    println!("{why}");
    source.close();
    bench.health(Connection::Failed).await;
    shows(&bench.broker.publish(&name("t"), vec![message("x")]).await, "publish again with the same ids");
    control.run(&["start_app"]).await;
    bench.connected().await;
    let source = bench.consume("q").await;
    assert_eq!(drain(&source, 1).await, ["c"]);
    let again = next(&source).await;
    assert_eq!((again.message.id.as_str(), again.attempts), ("a", 2));
    source.settle(again.lease, Settlement::Ack);
    bench.until_counts("q", (0, 0, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_server_closes_are_made_again() {
    let Some(control) = control("closed by the server").await else { return };
    let bench = Bench::simple(&control.url).await;
    for round in 0..5 {
        let source = bench.consume("q").await;
        control.run(&["close_all_connections", "maintenance"]).await;
        let why = failure(&source).await;
        assert!(why.contains("maintenance"), "{why}");
        source.close();
        let id = format!("m{round}");
        eventually("it is published", || async {
            bench.broker.publish(&name("t"), vec![message(&id)]).await.ok()
        })
        .await;
        let source = bench.consume("q").await;
        assert_eq!(drain(&source, 1).await, [id]);
        bench.until_counts("q", (0, 0, 0)).await;
        source.close();
        eventually("it can be consumed again", || async {
            (bench.counts("q").await == (0, 0, 0)).then_some(())
        })
        .await;
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_does_not_confirm_holds_up_nobody_else() {
    let Some(control) = control("unconfirmed").await else { return };
    let mut bench = Bench::start(&control.url, serde_json::json!({"confirm_timeout_ms": 4_000}));
    for (topic, queue) in [("t", "q"), ("slow", "stuck")] {
        bench.topic(topic);
        bench.queue(queue, |_| {});
        bench.route(queue, topic, queue, |_| {});
    }
    bench.connected().await;
    bench.configure().await;
    let stuck = bench.address("stuck");
    let process = |what: &str| {
        format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{stuck}\">>)), \
             {{Name, _}} = amqqueue:get_pid(Q), sys:{what}(Name)."
        )
    };
    control.run(&["eval", &process("suspend")]).await;
    let slow = name("slow");
    let late = async {
        let began = Instant::now();
        let refused = bench.broker.publish(&slow, vec![message("late")]).await;
        (refused, began.elapsed())
    };
    let many = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let began = Instant::now();
        for n in 0..50 {
            let (topic, id) = (name("t"), format!("m{n}"));
            bench.broker.publish(&topic, vec![message(&id)]).await.unwrap();
        }
        began.elapsed()
    };
    let more = async {
        tokio::time::sleep(Duration::from_millis(1_600)).await;
        bench.broker.publish(&slow, vec![message("later")]).await
    };
    let ((refused, waited), took, more) = tokio::join!(late, many, more);
    println!("{refused:?} after {waited:?}; the others took {took:?}");
    shows(&refused, "did not confirm");
    shows(&more, "did not confirm");
    assert!(waited < Duration::from_secs(6) && took < Duration::from_secs(1));
    control.run(&["eval", &process("resume")]).await;
    eventually("it is accepted", || async { bench.broker.publish(&slow, vec![message("late")]).await.ok() })
        .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_needs_an_authority_that_is_known() {
    let Some(_control) = control("TLS").await else { return };
    let (Ok(url), Ok(ca)) =
        (std::env::var("BROLLY_TEST_RABBITMQ_TLS_URL"), std::env::var("BROLLY_TEST_RABBITMQ_CA"))
    else {
        println!("skipped TLS: BROLLY_TEST_RABBITMQ_TLS_URL or BROLLY_TEST_RABBITMQ_CA is missing");
        return;
    };
    let pem = std::fs::read_to_string(&ca).unwrap();
    for settings in [serde_json::json!({"ca_file": ca}), serde_json::json!({"ca_pem": pem})] {
        let mut bench = Bench::start(&url, settings);
        bench.topic("t");
        bench.queue("q", |_| {});
        bench.route("r", "t", "q", |_| {});
        bench.connected().await;
        bench.configure().await;
        let source = bench.consume("q").await;
        bench.publish(&["m"]).await;
        assert_eq!(drain(&source, 1).await, ["m"]);
        bench.end().await;
    }
    for (url, settings, expect) in [
        (url.clone(), serde_json::json!({}), "no TLS with"),
        (url.clone(), serde_json::json!({"ca_file": "/no/such/file"}), "cannot be read"),
        (url.replace("amqps", "amqp"), serde_json::json!({}), "does not greet"),
        (_control.url.replace("amqp:", "amqps:"), serde_json::json!({"ca_pem": pem}), "no TLS with"),
    ] {
        let bench = Bench::start(&url, settings);
        let said = bench.health(Connection::Failed).await;
        println!("{said}");
        assert!(said.contains(expect), "{expect}: {said}");
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_api_counts_what_others_hold() {
    let Some(control) = control("management").await else { return };
    let Ok(management) = std::env::var("BROLLY_TEST_RABBITMQ_MANAGEMENT") else {
        println!("skipped management: BROLLY_TEST_RABBITMQ_MANAGEMENT is missing");
        return;
    };
    let mut bench = Bench::start(&control.url, serde_json::json!({"management": management}));
    bench.topic("t");
    bench.queue("q", |_| {});
    bench.route("r", "t", "q", |_| {});
    bench.connected().await;
    bench.configure().await;
    bench.publish(&["a", "b"]).await;
    let foreign = bench.foreign().await;
    let got =
        foreign.channel.basic_get(bench.address("q").as_str().into(), Default::default()).await.unwrap();
    assert!(got.is_some());
    bench.until_counts("q", (1, 1, 0)).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_said_to_be_full() {
    let Some(control) = control("full").await else { return };
    let bench = Bench::simple(&control.url).await;
    let pattern = format!("^{}$", bench.address("q").replace('.', "\\."));
    control.run(&["set_policy", "full", &pattern, "{\"max-length\": 3}"]).await;
    let full = eventually("it is full", || async {
        let id = bench::unique("m");
        bench.broker.publish(&name("t"), vec![message(&id)]).await.err()
    })
    .await;
    control.run(&["clear_policy", "full"]).await;
    assert!(matches!(&full, BrokerError::Refused(refusal) if refusal.code == Code::QueueFull), "{full}");
    let source = bench.consume("q").await;
    // Nothing was dropped for it.
    assert!(drain(&source, 3).await.len() == 3);
    bench.end().await;
}
