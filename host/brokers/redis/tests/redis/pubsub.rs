//! Pub/sub as a source: what comes, gaps, a sink that is slow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use brolly_core::{Feed, Gap, Listener, NewMessage, Seat, Standing, SystemClock};
use brolly_redis::Redis;
use brolly_remote::Transport;
use parking_lot::Mutex;
use tokio::{runtime::Runtime, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    host::{name, quick},
    server::{PATIENCE, Server},
};

/// A listener and what has become of it.
struct Listening {
    runtime: Option<Runtime>,
    stop: CancellationToken,
    ended: Arc<AtomicBool>,
    ear: Arc<Ear>,
}

struct Ear {
    got: Mutex<Vec<NewMessage>>,
    gaps: Mutex<Vec<Gap>>,
    standing: Mutex<Option<Standing>>,
    /// A message takes one to become durable.
    leave: Semaphore,
}

#[async_trait]
impl Listener for Ear {
    async fn hear(&self, message: NewMessage) {
        self.leave.acquire().await.unwrap().forget();
        self.got.lock().push(message);
    }

    fn stands(&self, standing: Standing) {
        *self.standing.lock() = Some(standing);
    }

    fn missed(&self, gap: Gap) {
        self.gaps.lock().push(gap);
    }
}

impl Listening {
    fn to(server: &Server, channel: &str, leave: usize) -> Self {
        let listening = Self::start(server, channel, "host", leave);
        listening.until("it listens", || listening.stands() == Some(Standing::Listening));
        listening
    }

    fn start(server: &Server, channel: &str, host: &'static str, leave: usize) -> Self {
        let definition = serde_json::from_value(server.definition(quick())).unwrap();
        let redis = Redis::open(&name("cache"), &definition, host, Arc::new(SystemClock)).unwrap();
        let ear = Arc::new(Ear {
            got: Mutex::default(),
            gaps: Mutex::default(),
            standing: Mutex::default(),
            leave: Semaphore::new(leave),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, ended) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let feed = Feed { broker: name("cache"), channel: channel.to_owned(), group: None };
        let (hears, told, over) = (ear.clone(), stop.clone().cancelled_owned(), ended.clone());
        runtime.spawn(async move {
            let seat = Seat { group: "group", host, heard: None };
            redis.listen(&feed, seat, hears, Box::pin(told)).await.unwrap();
            over.store(true, Ordering::Relaxed);
        });
        Self { runtime: Some(runtime), stop, ended, ear }
    }

    fn stands(&self) -> Option<Standing> {
        self.ear.standing.lock().clone()
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
        self.ear.got.lock().len()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[test]
fn what_is_published_comes_in_its_order_from_a_channel_or_a_pattern() {
    let server = Server::start();
    let listening = Listening::to(&server, "orders", usize::MAX >> 4);
    for number in 0..500 {
        server.ask::<u64>(&["PUBLISH", "orders", &number.to_string()]);
    }
    server.ask::<u64>(&["PUBLISH", "other", "x"]);
    listening.until("all have come", || listening.count() == 500);
    let got = listening.ear.got.lock();
    for (number, message) in got.iter().enumerate() {
        assert_eq!((message.key.as_str(), &*message.payload), ("orders", number.to_string().as_bytes()));
        assert!(message.id.is_some(), "it is one message however often it is handed on");
    }
    drop(got);
    assert_eq!(*listening.ear.gaps.lock(), []);
    listening.stop.cancel();
    listening.until("it ends when told", || listening.ended.load(Ordering::Relaxed));
    let patterns = Listening::to(&server, "alarm.*", usize::MAX >> 4);
    server.ask::<u64>(&["PUBLISH", "alarm.fire", "\u{e4}"]);
    patterns.until("it has come", || patterns.count() == 1);
    let got = patterns.ear.got.lock();
    assert_eq!((got[0].key.as_str(), &*got[0].payload), ("alarm.fire", "ä".as_bytes()));
}

#[test]
fn of_a_group_one_listens_and_another_takes_its_seat() {
    let server = Server::start();
    let first = Listening::to(&server, "orders", usize::MAX >> 4);
    let second = Listening::start(&server, "orders", "other", usize::MAX >> 4);
    second.until("it stands by", || second.stands() == Some(Standing::Standby));
    server.ask::<u64>(&["PUBLISH", "orders", "one"]);
    first.until("the first has it", || first.count() == 1);
    // It dies without a word.
    drop(first);
    second.until("the second listens", || second.stands() == Some(Standing::Listening));
    assert_eq!(second.ear.gaps.lock().len(), 1, "the time between the two");
    server.ask::<u64>(&["PUBLISH", "orders", "two"]);
    second.until("the second has the next", || second.count() == 1);
    let first = Listening::start(&server, "orders", "host", usize::MAX >> 4);
    first.until("the first one stands by now", || first.stands() == Some(Standing::Standby));
}

#[test]
fn a_lost_connection_is_a_gap_and_made_again() {
    let mut server = Server::start();
    let listening = Listening::to(&server, "orders", usize::MAX >> 4);
    server.ask::<u64>(&["PUBLISH", "orders", "before"]);
    listening.until("it has come", || listening.count() == 1);
    assert_eq!(server.kill_clients("pubsub"), 1);
    listening.until("the gap is told", || listening.ear.gaps.lock().len() == 1);
    server.ask::<u64>(&["PUBLISH", "orders", "between"]);
    listening.until("it has come", || listening.count() == 2);
    server.kill();
    std::thread::sleep(Duration::from_millis(300));
    server.revive();
    listening.until("the gap is told", || listening.ear.gaps.lock().len() == 2);
    server.ask::<u64>(&["PUBLISH", "orders", "after"]);
    listening.until("it has come", || listening.count() == 3);
    let gaps = listening.ear.gaps.lock();
    for gap in gaps.iter() {
        assert!(gap.from <= gap.to && !gap.reason.is_empty(), "{gap:?}");
    }
    assert!(gaps[1].to.since(gaps[1].from) >= Duration::from_millis(300), "{gaps:?}");
    assert!(gaps[0].to <= gaps[1].from);
}

#[test]
fn a_slow_sink_is_not_read_for_and_what_the_server_throws_away_is_a_gap() {
    let server = Server::with(&["--client-output-buffer-limit", "pubsub", "8mb", "4mb", "60"]);
    let listening = Listening::to(&server, "orders", 0);
    let large = "x".repeat(1 << 20);
    // What is not durable here, what waits in the system's buffers, what waits at the server.
    let mut sent = 0;
    let until = Instant::now() + PATIENCE;
    while server.ask::<u64>(&["PUBLISH", "orders", &large]) == 1 {
        sent += 1;
        assert!(Instant::now() < until, "{sent} were taken and never too many");
    }
    assert!(sent >= 16, "{sent}");
    assert_eq!(*listening.ear.gaps.lock(), [], "what has come is to become durable first");
    // The sink is quick again: what was read comes, the rest is a gap.
    listening.ear.leave.add_permits(10_000);
    listening.until("the gap is told", || listening.ear.gaps.lock().len() == 1);
    let kept = listening.count();
    assert!((16..=sent).contains(&kept), "{kept} of {sent}");
    server.ask::<u64>(&["PUBLISH", "orders", "after"]);
    listening.until("it goes on", || {
        listening.ear.got.lock().last().is_some_and(|last| &*last.payload == b"after")
    });
}

#[test]
fn a_sink_that_is_slow_for_a_while_loses_nothing() {
    let server = Server::start();
    let listening = Listening::to(&server, "orders", 0);
    let large = "x".repeat(1 << 20);
    for _ in 0..30 {
        assert_eq!(server.ask::<u64>(&["PUBLISH", "orders", &large]), 1);
    }
    // Longer than an answer may take: the connection lives all the same.
    std::thread::sleep(Duration::from_secs(6));
    listening.ear.leave.add_permits(10_000);
    listening.until("all have come", || listening.count() == 30);
    assert_eq!(*listening.ear.gaps.lock(), []);
}
