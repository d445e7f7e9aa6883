//! Asks for every list, in parts of both sizes and from many places, and notes how long the answers took.

use std::time::{Duration, Instant};

use brolly_tests::server::Server;
use reqwest::Method;

use crate::Size;

/// How long the answers to one question took.
pub struct Row {
    /// The question.
    pub what: String,
    /// Bytes of the latest answer.
    pub bytes: usize,
    took: Vec<Duration>,
}

impl Row {
    /// So many of the answers took no longer.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut took = self.took.clone();
        took.sort();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
        let at = ((took.len() - 1) as f64 * share).round() as usize;
        took[at]
    }
}

/// Places in the names that the host was filled with.
fn place(kind: &str, all: usize, round: usize, rounds: usize) -> String {
    format!("{kind}-{:05}", all * round / rounds)
}

/// Asks for every list.
pub async fn measure(server: &Server, size: Size) -> Vec<Row> {
    let mut rows = Vec::new();
    for (list, kind, all) in [
        ("topics", "topic", size.topics),
        ("queues", "queue", size.queues()),
        ("routes", "topic", size.topics),
        ("subscriptions", "queue", size.queues()),
    ] {
        for limit in [100, 1_000] {
            let path =
                move |round| format!("/{list}?limit={limit}&after={}", place(kind, all, round, size.rounds));
            rows.push(ask(server, size, &format!("{list}, {limit} from anywhere"), path).await);
        }
    }
    let of_queue = |after: &'static str| {
        move |round| {
            let queue = place("queue", size.queues(), round, size.rounds);
            format!("/subscriptions/{queue}/{after}")
        }
    };
    for (what, after) in [
        ("dead letters of a subscription, 1000", "dead-letters?limit=1000"),
        ("reasons of dead letters", "dead-letter-reasons"),
        ("state", "state"),
        ("captures", "captures"),
    ] {
        rows.push(ask(server, size, what, of_queue(after)).await);
    }
    for (what, path) in [
        ("dead letters of a crowded queue, 100", "/subscriptions/crowd/dead-letters"),
        ("dead letters of a crowded queue, 1000", "/subscriptions/crowd/dead-letters?limit=1000"),
        ("reasons of dead letters of a crowded queue", "/subscriptions/crowd/dead-letter-reasons"),
        ("messages, 100 newest", "/messages"),
        ("messages, 1000 newest", "/messages?limit=1000"),
        ("messages of a topic", "/messages?topic=topic-00003"),
        ("messages of a topic, 1000 of an old one", "/messages?topic=topic-00001&limit=1000"),
        ("messages with a key", "/messages?key=123"),
        ("messages with a key that there is not", "/messages?key=none"),
        ("messages with a header", "/messages?header=shop:berlin"),
        ("messages with a header that there is not", "/messages?header=shop:paris"),
        ("messages with a dead letter", "/messages?status=dead&limit=1000"),
        ("messages that were acknowledged", "/messages?status=acked&limit=1000"),
        ("messages that wait, of which there are none", "/messages?status=waiting"),
        ("messages of a subscription", "/messages?subscription=queue-00007"),
        ("messages before the beginning", "/messages?until_ms=1"),
        ("messages of the queue that is flowing", "/queues/live/messages"),
        ("one queue", "/queues/queue-00007"),
        ("one subscription", "/subscriptions/queue-00007"),
        ("audit log, 1000", "/audit?limit=1000"),
        ("audit log of one thing", "/audit?name=topic-00001"),
        ("audit log of nobody", "/audit?by=nobody"),
        ("plugins", "/plugins"),
        ("brokers", "/brokers"),
        ("tokens", "/tokens"),
    ] {
        rows.push(ask(server, size, what, move |_| path.to_owned()).await);
    }
    rows.push(ask(server, size, "one message", |round| format!("/messages/topic-00001-{round:06}")).await);
    for path in ["/metrics", "/readyz"] {
        rows.push(ask(server, size, path, move |_| format!("/../..{path}")).await);
    }
    rows.push(console(server, size).await);
    rows
}

async fn ask(server: &Server, size: Size, what: &str, path: impl Fn(usize) -> String) -> Row {
    let mut row = Row { what: what.to_owned(), bytes: 0, took: Vec::new() };
    for round in 0..size.rounds {
        let path = path(round);
        let began = Instant::now();
        let response = server.request(Method::GET, &path).send().await.expect("an answer");
        let status = response.status();
        row.bytes = response.bytes().await.expect("its body").len();
        row.took.push(began.elapsed());
        assert!(status.is_success(), "{path}: {status}");
    }
    row
}

/// How long a console waits until it has everything.
async fn console(server: &Server, size: Size) -> Row {
    let mut row = Row { what: "everything, for a console".to_owned(), bytes: 0, took: Vec::new() };
    for _ in 0..size.rounds.min(10) {
        let began = Instant::now();
        let mut response = server.request(Method::GET, "/events").send().await.expect("an answer");
        let mut told = Vec::new();
        while !told.ends_with(b"\n\n") {
            told.extend_from_slice(&response.chunk().await.expect("a chunk").expect("no end"));
        }
        row.bytes = told.len();
        row.took.push(began.elapsed());
    }
    row
}
