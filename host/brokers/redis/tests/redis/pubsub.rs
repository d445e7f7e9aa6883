//! Pub/sub as a source: what comes, gaps, a sink that is slow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use brolly_core::{BrokerDefinition, SystemClock};
use brolly_redis::{Gap, Published, Subscriber};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{runtime::Runtime, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    host::{name, quick},
    server::{PATIENCE, Server},
};

/// A subscriber and what has become of it.
struct Listening {
    runtime: Option<Runtime>,
    stop: CancellationToken,
    ended: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<Published>>>,
    gaps: Arc<Mutex<Vec<Gap>>>,
    /// A message takes one to become durable.
    leave: Arc<Semaphore>,
}

impl Listening {
    fn to(server: &Server, channels: &[&str], patterns: &[&str], leave: usize) -> Self {
        let definition: BrokerDefinition = serde_json::from_value(server.definition(quick())).unwrap();
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
        let clock = Arc::new(SystemClock);
        let subscriber =
            Subscriber::open(&name("cache"), &definition, texts(channels), texts(patterns), clock).unwrap();
        let listening = Self {
            runtime: Some(
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
            ),
            stop: CancellationToken::new(),
            ended: Arc::default(),
            got: Arc::default(),
            gaps: Arc::default(),
            leave: Arc::new(Semaphore::new(leave)),
        };
        let (stop, ended, got, gaps, leave) = (
            listening.stop.clone(),
            listening.ended.clone(),
            listening.got.clone(),
            listening.gaps.clone(),
            listening.leave.clone(),
        );
        listening.runtime.as_ref().unwrap().spawn(async move {
            let sink = |published: Published| {
                let (got, leave) = (got.clone(), leave.clone());
                async move {
                    leave.acquire().await.unwrap().forget();
                    got.lock().push(published);
                }
            };
            subscriber.run(sink, |gap| gaps.lock().push(gap), stop).await;
            ended.store(true, Ordering::Relaxed);
        });
        let all = channels.len() + patterns.len();
        listening.until("it is subscribed", || subscriptions(server) >= all);
        listening
    }

    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < until, "in time: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn count(&self) -> usize {
        self.got.lock().len()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn subscriptions(server: &Server) -> usize {
    let channels: Vec<String> = server.ask(&["PUBSUB", "CHANNELS"]);
    channels.len() + server.ask::<usize>(&["PUBSUB", "NUMPAT"])
}

#[test]
fn what_is_published_comes_in_its_order_from_channels_and_patterns() {
    let server = Server::start();
    let listening = Listening::to(&server, &["orders"], &["alarm.*"], usize::MAX >> 4);
    for number in 0..500 {
        server.ask::<u64>(&["PUBLISH", "orders", &number.to_string()]);
    }
    server.ask::<u64>(&["PUBLISH", "alarm.fire", "\u{e4}"]);
    server.ask::<u64>(&["PUBLISH", "other", "x"]);
    listening.until("all have come", || listening.count() == 501);
    let got = listening.got.lock();
    for (number, published) in got[..500].iter().enumerate() {
        assert_eq!(*published, Published { channel: "orders".into(), payload: number.to_string().into() });
    }
    assert_eq!(got[500], Published { channel: "alarm.fire".into(), payload: "ä".into() });
    assert_eq!(*listening.gaps.lock(), []);
    listening.stop.cancel();
    drop(got);
    listening.until("it ends when told", || listening.ended.load(Ordering::Relaxed));
}

#[test]
fn a_lost_connection_is_a_gap_and_made_again() {
    let mut server = Server::start();
    let listening = Listening::to(&server, &["orders"], &[], usize::MAX >> 4);
    server.ask::<u64>(&["PUBLISH", "orders", "before"]);
    listening.until("it has come", || listening.count() == 1);
    assert_eq!(server.kill_clients("pubsub"), 1);
    listening.until("the gap is told", || listening.gaps.lock().len() == 1);
    server.ask::<u64>(&["PUBLISH", "orders", "between"]);
    listening.until("it has come", || listening.count() == 2);
    server.kill();
    std::thread::sleep(Duration::from_millis(300));
    server.revive();
    listening.until("the gap is told", || listening.gaps.lock().len() == 2);
    server.ask::<u64>(&["PUBLISH", "orders", "after"]);
    listening.until("it has come", || listening.count() == 3);
    let gaps = listening.gaps.lock();
    for gap in gaps.iter() {
        assert!(gap.from <= gap.to && !gap.reason.is_empty(), "{gap:?}");
    }
    assert!(gaps[1].to.since(gaps[1].from) >= Duration::from_millis(300), "{gaps:?}");
    assert!(gaps[0].to <= gaps[1].from);
}

#[test]
fn a_slow_sink_is_not_read_for_and_what_the_server_throws_away_is_a_gap() {
    let server = Server::with(&["--client-output-buffer-limit", "pubsub", "8mb", "4mb", "60"]);
    let listening = Listening::to(&server, &["orders"], &[], 0);
    let large = "x".repeat(1 << 20);
    // What is not durable here, what waits in the system's buffers, what waits at the server.
    let mut sent = 0;
    let until = Instant::now() + PATIENCE;
    while server.ask::<u64>(&["PUBLISH", "orders", &large]) == 1 {
        sent += 1;
        assert!(Instant::now() < until, "{sent} were taken and never too many");
    }
    assert!(sent >= 16, "{sent}");
    assert_eq!(*listening.gaps.lock(), [], "what has come is to become durable first");
    // The sink is quick again: what was read comes, the rest is a gap.
    listening.leave.add_permits(10_000);
    listening.until("the gap is told", || listening.gaps.lock().len() == 1);
    let kept = listening.count();
    assert!((16..=sent).contains(&kept), "{kept} of {sent}");
    server.ask::<u64>(&["PUBLISH", "orders", "after"]);
    listening
        .until("it goes on", || listening.got.lock().last().is_some_and(|last| &*last.payload == b"after"));
}

#[test]
fn a_sink_that_is_slow_for_a_while_loses_nothing() {
    let server = Server::start();
    let listening = Listening::to(&server, &["orders"], &[], 0);
    let large = "x".repeat(1 << 20);
    for _ in 0..30 {
        assert_eq!(server.ask::<u64>(&["PUBLISH", "orders", &large]), 1);
    }
    // Longer than an answer may take: the connection lives all the same.
    std::thread::sleep(Duration::from_secs(6));
    listening.leave.add_permits(10_000);
    listening.until("all have come", || listening.count() == 30);
    assert_eq!(*listening.gaps.lock(), []);
}

#[test]
fn there_must_be_something_to_listen_to() {
    let definition: BrokerDefinition =
        serde_json::from_value(json!({"kind": "redis", "url": "redis://h"})).unwrap();
    let open = Subscriber::open(&name("cache"), &definition, vec![], vec![], Arc::new(SystemClock));
    assert!(open.is_err());
}
