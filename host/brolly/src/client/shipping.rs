//! `brolly rollback` and `brolly rollout`: back to the version before, and candidates beside the running version.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    api::{Api, Connection},
    output::{self, shown, text},
};

/// Go back to what handled a subscription before its latest change: version, configuration, limits and grants.
#[derive(Debug, clap::Args)]
pub struct Rollback {
    /// The subscription.
    subscription: String,
    /// Back behind the change with this number instead; GET /api/v1/subscriptions/S/swaps lists them.
    #[arg(long, value_name = "N")]
    swap: Option<u64>,
    #[command(flatten)]
    connection: Connection,
}

/// Show what a candidate and the running version came to over the same deliveries, begin a rollout, or end it.
#[derive(Debug, clap::Args)]
pub struct Rollout {
    /// The subscription.
    subscription: String,
    /// Begin: this version gets a share of the deliveries with effect.
    #[arg(long, value_name = "VERSION", conflicts_with = "shadow")]
    canary: Option<String>,
    /// Begin: this version handles a copy of a share of the deliveries, without effect.
    #[arg(long, value_name = "VERSION")]
    shadow: Option<String>,
    /// The share in percent [default: 10 of a canary, 100 of a shadow].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    percent: Option<u32>,
    /// The candidate takes over.
    #[arg(long, conflicts_with_all = ["canary", "shadow", "percent"])]
    promote: bool,
    /// The candidate goes.
    #[arg(long, conflicts_with_all = ["canary", "shadow", "percent", "promote"])]
    abandon: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Goes back.
///
/// # Errors
/// What the server says.
pub async fn roll_back(args: Rollback) -> anyhow::Result<()> {
    let api = args.connection.open()?;
    let request = api.request(Method::POST, &["subscriptions", &args.subscription, "rollback"]);
    let request = match args.swap {
        Some(number) => request.json(&json!({ "swap": number })),
        None => request,
    };
    let now: Value = api.send(request).await?;
    runs(&args.connection, &args.subscription, &now)
}

/// Shows, begins or ends a rollout.
///
/// # Errors
/// What the server says.
pub async fn roll_out(args: Rollout) -> anyhow::Result<()> {
    let api = args.connection.open()?;
    let path = ["subscriptions", args.subscription.as_str(), "rollout"];
    if args.promote {
        let now = api.send(api.request(Method::POST, &[&path[..], &["promote"]].concat())).await?;
        return runs(&args.connection, &args.subscription, &now);
    }
    if args.abandon {
        api.send(api.request(Method::DELETE, &path)).await?;
        return Ok(output::print(&format!("the candidate of {} is gone\n", args.subscription))?);
    }
    if let Some((mode, version)) = begin(&args) {
        let percent = args.percent.unwrap_or(if mode == "canary" { 10 } else { 100 });
        let wanted = json!({"version": version, "mode": mode, "percent": percent});
        api.send(api.request(Method::PUT, &path).json(&wanted)).await?;
    }
    show(&api, &args).await
}

fn begin(args: &Rollout) -> Option<(&'static str, &str)> {
    let canary = args.canary.as_deref().map(|version| ("canary", version));
    canary.or_else(|| args.shadow.as_deref().map(|version| ("shadow", version)))
}

/// Says which version a subscription runs now.
fn runs(connection: &Connection, subscription: &str, now: &Value) -> anyhow::Result<()> {
    if connection.json {
        return Ok(output::print_json(now)?);
    }
    Ok(output::print(&format!("{subscription} runs {}\n", text(now, "version")))?)
}

async fn show(api: &Api, args: &Rollout) -> anyhow::Result<()> {
    let report = api.get(&["subscriptions", &args.subscription, "rollout"], &[]).await?;
    if args.connection.json {
        return Ok(output::print_json(&report)?);
    }
    let count = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or_default();
    let mut out = format!(
        "{} {} of {} % is {}\n{} compared, {} the same, {} differ, {} worse, {} skipped\n",
        text(&report, "mode"),
        text(&report, "version"),
        count("percent"),
        text(&report, "stage"),
        count("compared"),
        count("same"),
        count("differing"),
        count("worse"),
        count("skipped")
    );
    if let Some(why) = report.get("why").and_then(Value::as_str) {
        out.push_str(&format!("{}\n", shown(why)));
    }
    for side in ["running", "candidate"] {
        let took = report.get(side).cloned().unwrap_or_default();
        let number = |name: &str| took.get(name).map_or_else(|| "-".to_owned(), Value::to_string);
        out.push_str(&format!(
            "{side}: {} us, {} us CPU on average, {} bytes, outcomes {}\n",
            number("mean_us"),
            number("mean_cpu_us"),
            number("memory_bytes"),
            number("outcomes")
        ));
    }
    for example in report.get("examples").and_then(Value::as_array).into_iter().flatten() {
        let side = |name: &str| example.get(name).map_or_else(String::new, Value::to_string);
        let id = shown(text(example, "message_id"));
        out.push_str(&format!("{id}\n- {}\n+ {}\n", side("running"), side("candidate")));
    }
    Ok(output::print(&out)?)
}
