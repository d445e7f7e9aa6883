//! Shows the deliveries of one subscription as they come, each attempt once. Knows the HTTP API; knows
//! nothing of the project.

use std::time::Duration;

use serde_json::Value;

use crate::client::{
    Error, Window,
    api::Api,
    output::{duration, moment, number, shown, text},
    print,
};

/// How often new deliveries are looked for.
const POLL: Duration = Duration::from_millis(300);
/// Messages asked for at once.
const PAGE: &str = "100";
/// Deliveries that are being tried again and looked at meanwhile; the oldest make room for new ones.
const WAITING: usize = 100;

/// A subscription that is followed.
pub struct Follow<'a> {
    api: &'a Api,
    subscription: &'a str,
    window: Window,
    waiting: Vec<Waiting>,
}

/// A delivery that is not decided yet.
struct Waiting {
    topic: String,
    id: String,
    /// Attempts that were shown.
    attempts: usize,
}

impl<'a> Follow<'a> {
    /// Begins after the newest message that the subscription has handled.
    ///
    /// # Errors
    /// What the server says.
    pub async fn begin(api: &'a Api, subscription: &'a str) -> Result<Self, Error> {
        let query = [("subscription", subscription), ("order", "desc"), ("limit", "1")];
        let newest = api.get(&["messages"], &query).await?;
        let last = newest.get("last").and_then(Value::as_str).map(str::to_owned);
        let window = Window::new(last, true, tokio::time::Instant::now());
        Ok(Self { api, subscription, window, waiting: Vec::new() })
    }

    /// Shows deliveries until it is interrupted. A server that goes away for a while is waited for.
    ///
    /// # Errors
    /// What the server says.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut reachable = true;
        loop {
            match self.look().await {
                Ok(lines) => {
                    reachable = true;
                    print(&lines)?;
                }
                Err(error) if error.is_passing() => {
                    if std::mem::take(&mut reachable) {
                        eprintln!("brolly: {error}; waiting for it");
                    }
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What is new since the last look.
    async fn look(&mut self) -> Result<String, Error> {
        let mut query = vec![("subscription", self.subscription), ("order", "asc"), ("limit", PAGE)];
        let after = self.window.after().map(str::to_owned);
        query.extend(after.as_deref().map(|after| ("after", after)));
        let page = self.api.get(&["messages"], &query).await?;
        for message in self.window.advance(&page, tokio::time::Instant::now()) {
            let (topic, id) = (text(message, "topic").to_owned(), text(message, "id").to_owned());
            self.waiting.push(Waiting { topic, id, attempts: 0 });
        }
        let surplus = self.waiting.len().saturating_sub(WAITING);
        let mut lines = match surplus {
            0 => String::new(),
            n => format!("{n} deliveries are not shown: more came than can be\n"),
        };
        self.waiting.drain(..surplus);
        let mut decided = Vec::new();
        for waiting in &mut self.waiting {
            let story = self.api.get(&["messages", &waiting.id], &[("topic", &waiting.topic)]).await?;
            let (told, is_decided) = news(&story, self.subscription, waiting);
            lines.push_str(&told);
            decided.push(is_decided);
        }
        let mut decided = decided.into_iter();
        self.waiting.retain(|_| decided.next() != Some(true));
        Ok(lines)
    }
}

/// What is new of a delivery, and whether it is decided.
fn news(story: &Value, subscription: &str, waiting: &mut Waiting) -> (String, bool) {
    let deliveries = story.get("deliveries").and_then(Value::as_array).into_iter().flatten();
    let Some(delivery) = deliveries.into_iter().find(|one| text(one, "subscription") == subscription) else {
        return (String::new(), false);
    };
    let items = |of: &Value, key: &str| of.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let attempts = items(delivery, "attempts");
    let mut told = String::new();
    for attempt in attempts.iter().skip(waiting.attempts) {
        let took = attempt.get("duration_us").and_then(Value::as_u64).unwrap_or(0);
        let at = attempt.get("at_ms").and_then(Value::as_u64).unwrap_or(0);
        told.push_str(&format!(
            "{}  {}  #{} {}  {}  {}\n",
            moment(at),
            shown(&waiting.id),
            number(attempt, "number"),
            text(attempt, "outcome"),
            duration(took),
            text(attempt, "version").get(..19).unwrap_or_default(),
        ));
        if !text(attempt, "reason").is_empty() {
            told.push_str(&format!("    {}\n", shown(text(attempt, "reason"))));
        }
        for log in items(attempt, "logs") {
            told.push_str(&format!("    {:<5} {}\n", text(&log, "level"), shown(text(&log, "text"))));
        }
    }
    waiting.attempts = attempts.len();
    let is_decided = text(delivery, "status") != "waiting";
    if is_decided {
        for child in items(delivery, "published") {
            told.push_str(&format!("    -> {} in {}\n", shown(text(&child, "id")), text(&child, "topic")));
        }
        if text(delivery, "status") == "dead" {
            told.push_str("    it is a dead letter now\n");
        }
    }
    (told, is_decided)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_attempt_is_told_once() {
        let mut waiting = Waiting { topic: "t".into(), id: "m\n1".into(), attempts: 0 };
        let attempt = |number: u32, outcome: &str| {
            json!({"number": number, "at_ms": 0, "duration_us": 1500, "version": format!("sha256:{}", "ab".repeat(32)),
                "outcome": outcome, "reason": if outcome == "ack" { Value::Null } else { "later".into() },
                "logs": [{"level": "info", "text": format!("line {number}")}]})
        };
        let story = |status: &str, attempts: Vec<Value>| {
            json!({"deliveries": [{"subscription": "other", "status": "acked", "attempts": []},
                {"subscription": "s", "status": status, "attempts": attempts,
                "published": [{"topic": "out", "id": "c"}]}]})
        };
        let mut told = |status, attempts| news(&story(status, attempts), "s", &mut waiting);
        let (first, decided) = told("waiting", vec![attempt(1, "retry")]);
        assert_eq!(
            first,
            "1970-01-01T00:00:00.000Z  m\\n1  #1 retry  1.5 ms  sha256:abababababab\n    later\n    info  line 1\n"
        );
        assert!(!decided);
        assert_eq!(told("waiting", vec![attempt(1, "retry")]), (String::new(), false));
        let (last, decided) = told("acked", vec![attempt(1, "retry"), attempt(2, "ack")]);
        assert!(
            last.contains("#2 ack") && !last.contains("#1") && last.ends_with("    -> c in out\n"),
            "{last}"
        );
        assert!(decided);
    }
}
