//! `brolly tail`: messages as they come.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    Error,
    api::{Api, Connection},
    output::{self, moment, number, shown, text},
};

/// How often new messages are looked for.
const POLL: Duration = Duration::from_millis(500);
/// How long after it was looked for a message may still appear before others that were shown.
const OVERLAP: Duration = Duration::from_secs(2);
/// Messages asked for at once.
const PAGE: u32 = 500;

/// Show messages as they come, with where their deliveries stand at that moment.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this topic.
    topic: Option<String>,
    /// Only with an attempted delivery to this subscription.
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// Only with an attempted delivery that stands so; they are shown once they do.
    #[arg(long, value_parser = ["waiting", "acked", "dead", "discarded", "replaced"])]
    status: Option<String>,
    /// Begin with so many that are there already.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=999))]
    last: u32,
    /// End after the messages that are there.
    #[arg(long)]
    no_follow: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Shows messages until it is interrupted.
///
/// # Errors
/// What the server says. A server that goes away for a while is waited for.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let api = args.connection.open()?;
    let newest = page(&api, &args, "desc", args.last + 1, None).await?;
    let by_delivery = args.status.is_some() || args.subscription.is_some();
    let mut window = Window::new(place(&newest, "next"), by_delivery, Instant::now());
    let mut reachable = true;
    loop {
        let found = match page(&api, &args, "asc", PAGE, window.after()).await {
            Ok(found) => found,
            Err(error) if error.is_passing() => {
                if std::mem::take(&mut reachable) {
                    eprintln!("{error}; waiting for it");
                }
                tokio::time::sleep(POLL).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        reachable = true;
        let full = place(&found, "next").is_some();
        for message in window.advance(&found, Instant::now()) {
            let line = if args.connection.json { message.to_string() } else { line(message) };
            output::print(&format!("{line}\n"))?;
        }
        if !full {
            if args.no_follow {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn page(api: &Api, args: &Args, order: &str, limit: u32, after: Option<&str>) -> Result<Value, Error> {
    let limit = limit.to_string();
    let mut query = vec![("order", order), ("limit", limit.as_str())];
    query.extend(args.topic.as_deref().map(|topic| ("topic", topic)));
    query.extend(args.subscription.as_deref().map(|name| ("subscription", name)));
    query.extend(args.status.as_deref().map(|status| ("status", status)));
    query.extend(after.map(|after| ("after", after)));
    api.get(&["messages"], &query).await
}

fn place(page: &Value, which: &str) -> Option<String> {
    page.get(which).and_then(Value::as_str).map(str::to_owned)
}

/// The messages from a place on that were shown already.
pub struct Window {
    /// Whether messages match by what becomes of them, and so may come to match later.
    by_delivery: bool,
    /// Where the next page begins.
    after: Option<String>,
    /// How far earlier answers came, and when; from the first of them on, messages are asked for again.
    reached: VecDeque<(Instant, Option<String>)>,
    /// What was shown of the messages after the first place reached, and when.
    seen: HashMap<(String, String), Instant>,
}

impl Window {
    /// Begins after a place, or at the very beginning.
    pub fn new(after: Option<String>, by_delivery: bool, now: Instant) -> Self {
        let reached = VecDeque::from([(now, after.clone())]);
        Self { by_delivery, after, reached, seen: HashMap::new() }
    }

    /// Where the next page begins.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The messages of a page that are new, oldest first.
    pub fn advance<'a>(&mut self, page: &'a Value, now: Instant) -> Vec<&'a Value> {
        let items = page.get("items").and_then(Value::as_array);
        let name = |item: &Value| (text(item, "topic").to_owned(), text(item, "id").to_owned());
        let is_new = |item: &&Value| match self.seen.entry(name(item)) {
            Entry::Vacant(place) => {
                place.insert(now);
                true
            }
            Entry::Occupied(_) => false,
        };
        let new = items.into_iter().flatten().filter(is_new).collect();
        let next = place(page, "next");
        if self.by_delivery {
            // Until a page is full the same one is asked for again: what matched nothing yet may.
            if next.is_some() {
                self.after = next;
                self.seen.clear();
            }
            return new;
        }
        if let Some(last) = place(page, "last") {
            self.reached.push_back((now, Some(last)));
        }
        match next {
            Some(next) => self.after = Some(next),
            None => self.go_back(now),
        }
        new
    }

    /// Begins again a moment before the end: a message that a handler published may appear after
    /// others whose place is later.
    fn go_back(&mut self, now: Instant) {
        let is_past = |(at, _): &(Instant, _)| now.duration_since(*at) >= OVERLAP;
        while self.reached.get(1).is_some_and(is_past) {
            self.reached.pop_front();
            if let Some((at, _)) = self.reached.front() {
                // What was shown by then lies before the place.
                self.seen.retain(|_, shown| *shown > *at);
            }
        }
        if let Some((_, place)) = self.reached.front() {
            self.after.clone_from(place);
        }
    }
}

fn line(message: &Value) -> String {
    let at = message.get("published_at_ms").and_then(Value::as_u64).unwrap_or(0);
    let mut line = format!("{}  {}  {}", moment(at), text(message, "topic"), shown(text(message, "id")));
    let key = text(message, "key");
    if !key.is_empty() {
        line.push_str(&format!("  key {}", shown(key)));
    }
    line.push_str(&format!("  {} bytes", number(message, "size_bytes")));
    for delivery in message.get("deliveries").and_then(Value::as_array).into_iter().flatten() {
        line.push_str(&format!("  {} {}", text(delivery, "subscription"), text(delivery, "status")));
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a window shows of one answer after the other, each with its moment in milliseconds, its
    /// messages, its `next` and its `last`, and with where the window then goes on.
    type Case =
        (u64, &'static [&'static str], Option<&'static str>, Option<&'static str>, Option<&'static str>);

    fn shown(by_delivery: bool, cases: &[Case]) -> Vec<String> {
        let start = Instant::now();
        let mut window = Window::new(None, by_delivery, start);
        let mut shown = Vec::new();
        for (ms, ids, next, last, after) in cases {
            let items: Vec<Value> = ids.iter().map(|id| json!({"topic": "t", "id": id})).collect();
            let page = json!({"items": items, "next": next, "last": last});
            let new = window.advance(&page, start + Duration::from_millis(*ms));
            shown.extend(new.iter().map(|item| text(item, "id").to_owned()));
            assert_eq!(window.after.as_deref(), *after, "after {ms} ms");
        }
        assert!(window.seen.len() <= 3, "what is passed is forgotten: {:?}", window.seen);
        shown
    }

    #[test]
    fn every_message_is_shown_once_though_it_appears_late() {
        let cases: [Case; 7] = [
            (0, &["a"], None, Some("1"), None),
            (500, &["a", "b"], Some("2"), Some("2"), Some("2")),
            (510, &["d"], None, Some("4"), None),
            // c, at 3, was published by a handler whose commit came after that of d.
            (1_000, &["a", "b", "c", "d"], None, Some("4"), None),
            (2_500, &["a", "b", "c", "d"], None, Some("4"), Some("2")),
            (3_100, &["c", "d", "e"], None, Some("5"), Some("4")),
            (3_600, &["e"], None, Some("5"), Some("4")),
        ];
        assert_eq!(shown(false, &cases), ["a", "b", "d", "c", "e"]);
    }

    #[test]
    fn a_message_that_comes_to_match_is_shown() {
        let cases: [Case; 5] = [
            (0, &["b"], None, Some("3"), None),
            (9_000, &["a", "b"], None, Some("3"), None),
            (18_000, &["a", "b", "c"], Some("3"), Some("3"), Some("3")),
            (18_010, &["d"], None, Some("4"), Some("3")),
            (18_500, &["d"], None, Some("4"), Some("3")),
        ];
        assert_eq!(shown(true, &cases), ["b", "a", "c", "d"]);
    }

    #[test]
    fn a_line_says_where_deliveries_stand() {
        let message = json!({"topic": "t", "id": "i\n", "key": "k", "published_at_ms": 0, "size_bytes": 3,
            "deliveries": [{"subscription": "s", "status": "acked"}]});
        assert_eq!(line(&message), "1970-01-01T00:00:00.000Z  t  i\\n  key k  3 bytes  s acked");
    }
}
