//! `brolly status`: what every queue holds and every subscription does.

use serde_json::{Value, json};

use super::{
    api::Connection,
    output::{self, cut, duration, number, text},
};

/// Show what every queue holds and every subscription does.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
}

/// Shows it.
///
/// # Errors
/// What the server says.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let api = args.connection.open()?;
    let queues = api.all(&["queues"]).await?;
    let subscriptions = api.all(&["subscriptions"]).await?;
    if args.connection.json {
        return Ok(output::print_json(&json!({"queues": queues, "subscriptions": subscriptions}))?);
    }
    Ok(output::print(&format!("{}\n{}", of_queues(&queues), of_subscriptions(&subscriptions)))?)
}

fn of_queues(queues: &[Value]) -> String {
    let rows: Vec<Vec<String>> = queues
        .iter()
        .map(|queue| {
            let none = Value::Null;
            let counts = queue.get("counts").unwrap_or(&none);
            let oldest = queue.get("oldest_age_ms").and_then(Value::as_u64);
            vec![
                text(queue, "name").to_owned(),
                number(counts, "ready"),
                number(counts, "in_flight"),
                number(counts, "delayed"),
                number(counts, "dead"),
                oldest.map_or_else(|| "-".to_owned(), |ms| duration(ms.saturating_mul(1_000))),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "no queues\n".to_owned();
    }
    output::table(&["QUEUE", ">READY", ">IN FLIGHT", ">DELAYED", ">DEAD", ">OLDEST"], &rows)
}

fn of_subscriptions(subscriptions: &[Value]) -> String {
    let mut failures = String::new();
    let mut rows = Vec::new();
    for subscription in subscriptions {
        let none = Value::Null;
        let status = subscription.get("status").unwrap_or(&none);
        let name = text(subscription, "name");
        let last = status.get("last_failure").unwrap_or(&none);
        for (what, why) in [("cannot run", text(status, "error")), ("last failure", text(last, "reason"))] {
            if !why.is_empty() {
                failures.push_str(&format!("{name}: {what}: {}\n", cut(why, 200)));
            }
        }
        rows.push(vec![
            name.to_owned(),
            text(subscription, "queue").to_owned(),
            format!("{} {}", text(subscription, "plugin"), short(text(subscription, "version"))),
            text(subscription, "state").to_owned(),
            number(subscription, "workers"),
            number(status, "acked"),
            number(status, "retried"),
            number(status, "dead"),
        ]);
    }
    if rows.is_empty() {
        return "no subscriptions\n".to_owned();
    }
    let headings = ["SUBSCRIPTION", "QUEUE", "PLUGIN", "STATE", ">WORKERS", ">ACKED", ">RETRIED", ">DEAD"];
    let table = output::table(&headings, &rows);
    if failures.is_empty() { table } else { format!("{table}\n{failures}") }
}

/// The first digits of a version, enough to tell it from others.
fn short(version: &str) -> &str {
    version.strip_prefix("sha256:").and_then(|hex| hex.get(..12)).unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_measurable_is_a_dash() {
        let queue = json!({"name": "q", "counts": {"ready": 3, "in_flight": null, "delayed": 0, "dead": 1},
            "oldest_age_ms": 1500});
        let shown = of_queues(&[queue]);
        let row: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["q", "3", "-", "0", "1", "1.5", "s"]);
    }

    #[test]
    fn failures_stand_below_the_table() {
        let subscription = json!({"name": "s", "queue": "q", "plugin": "p", "version": format!("sha256:{}", "ab".repeat(32)),
            "state": "failed", "workers": 2, "status": {"error": "no\u{1b}", "acked": 5, "retried": 0, "dead": 0,
            "last_failure": {"at_ms": 1, "reason": "trap"}}});
        let shown = of_subscriptions(&[subscription]);
        assert!(shown.contains("p abababababab "), "{shown}");
        assert!(shown.ends_with("s: cannot run: no\\u{1b}\ns: last failure: trap\n"), "{shown}");
    }
}
