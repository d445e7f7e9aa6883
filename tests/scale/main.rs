//! `cargo xtask scale`: how lists answer when there is much of everything. Fills a host of the real binary
//! with topics, queues, subscriptions and dead letters, keeps messages flowing, asks for every list again
//! and again and for every page of the console, and prints how long they took and what memory the host has.
//!
//! Fails when the 95th percentile of a list is above [`GOAL`], or a page's first view above [`pages::GOAL`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot go on says where and stops"
)]

mod fill;
mod lists;
mod pages;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use brolly_tests::server::Server;
use tokio_util::sync::CancellationToken;

/// What the 95th percentile of each list is to stay below.
const GOAL: Duration = Duration::from_millis(200);

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Topics; each has three queues, each with a subscription.
    pub topics: usize,
    /// Dead letters.
    pub dead_letters: usize,
    /// Times that each list is asked for.
    pub rounds: usize,
}

impl Size {
    const QUEUES_OF_A_TOPIC: usize = 3;

    /// From the command line: topics, dead letters, rounds; those of the goal without.
    fn read() -> Self {
        let mut numbers = std::env::args().skip(1).map(|word| word.parse().expect("a number"));
        let mut next = |default| numbers.next().unwrap_or(default);
        Self { topics: next(1_000), dead_letters: next(1_000_000), rounds: next(40) }
    }

    /// How many queues there are.
    #[must_use]
    pub fn queues(self) -> usize {
        self.topics * Self::QUEUES_OF_A_TOPIC
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let size = Size::read();
    let dir = tempfile::tempdir().expect("a folder");
    let engine = std::env::var("BROLLY_STORE__ENGINE").unwrap_or_else(|_| "sled".to_owned());
    println!(
        "{} topics, {} queues, {} dead letters, {engine}",
        size.topics,
        size.queues(),
        size.dead_letters
    );
    let server = timed("started empty", Server::start(dir.path())).await;
    memory(&server);
    timed("topics, queues, routes and subscriptions", fill::definitions(&server, size)).await;
    memory(&server);
    timed("dead letters", fill::dead_letters(&server, size)).await;
    memory(&server);
    timed("stopped", server.terminate()).await;
    let server = timed("started full", Server::start(dir.path())).await;
    memory(&server);

    let stop = CancellationToken::new();
    let flow = fill::flow(&server, stop.clone());
    let measured = async {
        let rows = lists::measure(&server, size).await;
        let views = pages::measure(&server).await;
        stop.cancel();
        (rows, views)
    };
    let (sent, (rows, views)) = tokio::join!(flow, measured);
    println!("\n{sent} messages flowed meanwhile\n");
    memory(&server);
    println!("{:<58} {:>9} {:>9} {:>9} {:>9}", "list", "median", "95 %", "longest", "bytes");
    let mut holds = true;
    for row in &rows {
        let [median, high, longest] = [0.5, 0.95, 1.0].map(|share| row.quantile(share));
        let mark = if high > GOAL { "  over the goal" } else { "" };
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        println!(
            "{:<58} {:>9} {:>9} {:>9} {:>9}{mark}",
            row.what,
            ms(median),
            ms(high),
            ms(longest),
            row.bytes
        );
        holds &= high <= GOAL;
    }
    println!("\n{:<58} {:>9}", "page, first view", "slowest");
    for (page, took) in views {
        let mark = if took > pages::GOAL { "  over the goal" } else { "" };
        println!("#/{page:<56} {:>9}{mark}", format!("{:.1} ms", took.as_secs_f64() * 1e3));
        holds &= took <= pages::GOAL;
    }
    timed("stopped", server.terminate()).await;
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says how long something took.
async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = work.await;
    println!("{what}: {:.1} s", began.elapsed().as_secs_f64());
    done
}

/// Says what memory the host has now and has had at most.
fn memory(server: &Server) {
    let id = server.id().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs on Linux");
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is told");
        line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<f64>().expect("a number") / 1024.0
    };
    println!("  memory {:.0} MiB, at most {:.0} MiB", of("VmRSS"), of("VmHWM"));
}
