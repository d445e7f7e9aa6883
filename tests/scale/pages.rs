//! How long each page of the console takes to its first view: from loading it anew until what it shows is there.

use std::time::{Duration, Instant};

use brolly_tests::{browser::Browser, server::Server};

/// What a first view is to stay below.
pub const GOAL: Duration = Duration::from_secs(1);
/// Times that each page is loaded.
const ROUNDS: usize = 3;

/// Pages, with what is there once they show something.
const PAGES: [(&str, &str); 15] = [
    ("", "(//main//td)[1]"),
    ("topics", "(//main//td)[1]"),
    ("queues", "(//main//td)[1]"),
    ("queues/queue-00007", "(//main//dd)[1]"),
    ("subscriptions", "(//main//td)[1]"),
    ("subscriptions/queue-00007", "(//main//dd)[1]"),
    ("plugins", "(//main//td)[1]"),
    ("messages", "(//main//td)[1]"),
    ("messages/topic-00001-000001", "(//main//dd)[1]"),
    ("dead-letters", "(//main//td)[1]"),
    ("dead-letters/crowd", "(//main//td)[1]"),
    ("dead-letters/queue-00007", "(//main//td)[1]"),
    ("alerts", "(//main//*[.='There are no alerts.'])[1]"),
    ("audit", "(//main//td)[1]"),
    ("settings", "(//main//td)[1]"),
];

/// The slowest first view of each page; none where there is no browser.
pub async fn measure(server: &Server) -> Vec<(&'static str, Duration)> {
    if let Err(why) = Browser::available() {
        println!("pages are skipped: {why}");
        return Vec::new();
    }
    let browser = Browser::open(&server.url).await;
    browser.goto("/").await;
    browser.fill("Access token", &server.token).await;
    browser.press("Sign in").await;
    browser.find("//h1[.='Overview']").await;
    let mut slowest = Vec::new();
    for (page, shown) in PAGES {
        let mut longest = Duration::ZERO;
        for _ in 0..ROUNDS {
            browser.goto(&format!("/#/{page}")).await;
            browser.find(shown).await;
            let began = Instant::now();
            browser.reload().await;
            browser.find(shown).await;
            longest = longest.max(began.elapsed());
        }
        slowest.push((page, longest));
    }
    browser.close().await;
    slowest
}
