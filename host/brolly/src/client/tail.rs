//! `brolly tail`: messages as they come.

use std::{collections::HashSet, time::Duration};

use serde_json::Value;

use super::{
    Error,
    api::{Api, Connection},
    output::{self, moment, number, shown, text},
};

/// How often new messages are looked for.
const POLL: Duration = Duration::from_millis(500);
/// Messages asked for at once.
const PAGE: u32 = 200;

/// Show messages as they come, with where their deliveries stand at that moment.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this topic.
    topic: Option<String>,
    /// Only with an attempted delivery to this subscription.
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// Only with an attempted delivery that stands so; they are shown once they do.
    #[arg(long, value_parser = ["waiting", "acked", "dead", "discarded"])]
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
    let mut window = Window { after: None, seen: HashSet::new() };
    let newest = page(&api, &args, "desc", args.last + 1, None).await?;
    window.after = next(&newest);
    let mut reachable = true;
    loop {
        let found = match page(&api, &args, "asc", PAGE, window.after.as_deref()).await {
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
        let full = next(&found).is_some();
        for message in window.advance(&found) {
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

fn next(page: &Value) -> Option<String> {
    page.get("next").and_then(Value::as_str).map(str::to_owned)
}

/// The messages from a place on that were shown already. The place moves on only with a full page:
/// until then the same page is asked for again, and has what came since.
struct Window {
    after: Option<String>,
    seen: HashSet<(String, String)>,
}

impl Window {
    /// The messages of a page that are new, oldest first.
    fn advance<'a>(&mut self, page: &'a Value) -> Vec<&'a Value> {
        let items = page.get("items").and_then(Value::as_array);
        let name = |item: &Value| (text(item, "topic").to_owned(), text(item, "id").to_owned());
        let new = items.into_iter().flatten().filter(|item| self.seen.insert(name(item))).collect();
        if let Some(next) = next(page) {
            self.after = Some(next);
            self.seen.clear();
        }
        new
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

    #[test]
    fn every_message_is_shown_once() {
        let page = |ids: &[&str], next: Option<&str>| {
            let items: Vec<Value> = ids.iter().map(|id| json!({"topic": "t", "id": id})).collect();
            json!({"items": items, "next": next})
        };
        let mut window = Window { after: None, seen: HashSet::new() };
        let mut shown = Vec::new();
        for (ids, next, after) in [
            (vec!["a"], None, None),
            (vec!["a", "b"], None, None),
            (vec!["a", "b", "c"], Some("3"), Some("3")),
            (vec!["d"], None, Some("3")),
            (vec!["d"], None, Some("3")),
        ] {
            let page = page(&ids, next);
            shown.extend(window.advance(&page).iter().map(|item| text(item, "id").to_owned()));
            assert_eq!(window.after.as_deref(), after);
        }
        assert_eq!(shown, ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_line_says_where_deliveries_stand() {
        let message = json!({"topic": "t", "id": "i\n", "key": "k", "published_at_ms": 0, "size_bytes": 3,
            "deliveries": [{"subscription": "s", "status": "acked"}]});
        assert_eq!(line(&message), "1970-01-01T00:00:00.000Z  t  i\\n  key k  3 bytes  s acked");
    }
}
