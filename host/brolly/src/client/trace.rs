//! `brolly trace`: the story of one message, for people.

use serde_json::Value;

use super::{
    api::Connection,
    output::{self, cut, duration, moment, number, shown, text},
};

/// Characters of a payload that are shown.
const PAYLOAD: usize = 400;

/// Tell the story of one message: where it went, every attempt, what came of it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The message's id.
    id: String,
    /// The topic, where several have a message of this id.
    #[arg(long)]
    topic: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// Tells it.
///
/// # Errors
/// What the server says.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let query: Vec<(&str, &str)> = args.topic.as_deref().map(|topic| ("topic", topic)).into_iter().collect();
    let story = args.connection.open()?.get(&["messages", &args.id], &query).await?;
    if args.connection.json {
        return Ok(output::print_json(&story)?);
    }
    Ok(output::print(&told(&story))?)
}

fn told(story: &Value) -> String {
    let none = Value::Null;
    let message = story.get("message").unwrap_or(&none);
    let published_at = ms(message, "published_at_ms").unwrap_or(0);
    let mut lines = envelope(message);
    for delivery in items(story, "deliveries") {
        lines.push(String::new());
        lines.extend(of_delivery(delivery, published_at));
    }
    let others: Vec<&str> = items(story, "other_topics").filter_map(Value::as_str).collect();
    if !others.is_empty() {
        lines.push(String::new());
        lines.push(format!("Also with this id, see --topic: {}", others.join(", ")));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn envelope(message: &Value) -> Vec<String> {
    let mut lines = vec![format!("Message {} in {}", shown(text(message, "id")), text(message, "topic"))];
    let mut say = |what: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("  {what:<12} {value}"));
        }
    };
    say("published", ms(message, "published_at_ms").map(moment).unwrap_or_default());
    say("expires", ms(message, "expires_at_ms").map(moment).unwrap_or_default());
    say("key", shown(text(message, "key")));
    say("type", shown(text(message, "content_type")));
    for (name, value) in message.get("headers").and_then(Value::as_object).into_iter().flatten() {
        say("header", format!("{}: {}", shown(name), shown(value.as_str().unwrap_or_default())));
    }
    let payload = match message.get("payload") {
        Some(Value::String(text)) if message.get("payload_encoding").is_some_and(|how| how == "text") => {
            text.clone()
        }
        Some(_) if text(message, "payload_encoding") == "hidden" => {
            "(not shown: the token may not see it)".to_owned()
        }
        Some(other) => other.to_string(),
        None => String::new(),
    };
    say("payload", format!("{} bytes: {}", number(message, "size_bytes"), cut(&payload, PAYLOAD)));
    if let Some(parent) = message.get("parent").filter(|parent| parent.is_object()) {
        say("published by", format!("the handling of {}", reference(parent)));
    }
    let queues: Vec<&str> = items(message, "queues").filter_map(Value::as_str).collect();
    say("queues", if queues.is_empty() { "none: no route matches".to_owned() } else { queues.join(", ") });
    for error in items(message, "filter_errors") {
        let reason = shown(text(error, "reason"));
        say("filter error", format!("route {}: {reason}", text(error, "route")));
    }
    lines
}

fn of_delivery(delivery: &Value, published_at: u64) -> Vec<String> {
    let replays = match ms(delivery, "replays") {
        None | Some(0) => String::new(),
        Some(n) => format!(", replayed {n} times"),
    };
    let mut lines =
        vec![format!("{}: {}{replays}", text(delivery, "subscription"), text(delivery, "status"))];
    for attempt in items(delivery, "attempts") {
        let since = ms(attempt, "at_ms").unwrap_or(0).saturating_sub(published_at);
        let mut line = format!(
            "  {:>4}  +{:<9}  {:<7}  took {}",
            format!("#{}", number(attempt, "number")),
            duration(since.saturating_mul(1_000)),
            text(attempt, "outcome"),
            duration(ms(attempt, "duration_us").unwrap_or(0)),
        );
        if let Some(version) = text(attempt, "version").get(..19) {
            line.push_str(&format!("  {version}"));
        }
        lines.push(line);
        let mut detail = |what: String| lines.push(format!("        {what}"));
        if !text(attempt, "reason").is_empty() {
            detail(shown(text(attempt, "reason")));
        }
        if let Some(wait) = ms(attempt, "retry_after_ms") {
            detail(format!("to be tried again after {}", duration(wait.saturating_mul(1_000))));
        }
        for log in items(attempt, "logs") {
            detail(format!("{:<5} {}", text(log, "level"), shown(text(log, "text"))));
        }
        if let Some(dropped) = ms(attempt, "logs_dropped").filter(|dropped| *dropped > 0) {
            detail(format!("{dropped} more lines were over the log limit"));
        }
    }
    for child in items(delivery, "published") {
        lines.push(format!("     -> {}", reference(child)));
    }
    lines
}

fn reference(value: &Value) -> String {
    format!("{} in {}", shown(text(value, "id")), text(value, "topic"))
}

fn ms(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_story_has_everything_that_happened() {
        let story = json!({
            "message": {"id": "o1", "topic": "orders.paid", "key": "0001", "content_type": "application/json",
                "headers": {"a": "b"}, "published_at_ms": 1000, "expires_at_ms": null, "size_bytes": 7,
                "payload": {"n": 1}, "payload_encoding": "json", "queues": ["settlement"],
                "filter_errors": [{"route": "r", "reason": "no such field"}],
                "parent": {"topic": "t", "id": "p1"}},
            "deliveries": [{"subscription": "settlement", "status": "acked", "replays": 1,
                "attempts": [
                    {"number": 1, "at_ms": 1002, "duration_us": 1500, "outcome": "fault", "reason": "trap",
                     "version": format!("sha256:{}", "ab".repeat(32)), "retry_after_ms": 200, "logs": [], "logs_dropped": 0},
                    {"number": 2, "at_ms": 1202, "duration_us": 90, "outcome": "ack", "reason": null, "version": null,
                     "retry_after_ms": null, "logs": [{"level": "info", "text": "done"}], "logs_dropped": 3}],
                "published": [{"topic": "coupons.issued", "id": "coupon-o1"}]}],
            "other_topics": ["elsewhere"]});
        let expect = "\
Message o1 in orders.paid
  published    1970-01-01T00:00:01.000Z
  key          0001
  type         application/json
  header       a: b
  payload      7 bytes: {\"n\":1}
  published by the handling of p1 in t
  queues       settlement
  filter error route r: no such field

settlement: acked, replayed 1 times
    #1  +2.0 ms     fault    took 1.5 ms  sha256:abababababab
        trap
        to be tried again after 200 ms
    #2  +202 ms     ack      took 90 µs
        info  done
        3 more lines were over the log limit
     -> coupon-o1 in coupons.issued

Also with this id, see --topic: elsewhere
";
        assert_eq!(told(&story), expect);
    }
}
