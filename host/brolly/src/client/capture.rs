//! `brolly capture`: takes captures from a running host, as files.

use std::{fs, path::PathBuf};

use anyhow::Context;
use brolly_capture::Capture;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Error,
    api::{Api, Connection},
    output::{self, shown, text},
};

/// Take captures of a subscription's attempts from a running host, for `brolly replay`.
///
/// A host records the attempts that fail; --record sets which ones, from now on until it stops. It keeps
/// the newest 100 of a subscription in its memory. A capture holds the message, the configuration and the
/// state that was read, as they are.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The subscription.
    subscription: String,
    /// The newest N attempts that were recorded, whatever came of them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    last: Option<u32>,
    /// The newest N failing attempts [default: 10, unless --last or --record is given].
    #[arg(long, value_name = "N", conflicts_with = "last", value_parser = clap::value_parser!(u32).range(1..=100))]
    failing: Option<u32>,
    /// Record these attempts from now on.
    #[arg(long, value_name = "WHICH", value_parser = ["off", "failing", "all"])]
    record: Option<String>,
    /// The folder that the files are written to.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

/// Takes them.
///
/// # Errors
/// What the server says; a file that cannot be written.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let api = args.connection.open()?;
    let subscription = args.subscription.as_str();
    if let Some(record) = &args.record {
        let request = api.request(Method::PUT, &["subscriptions", subscription, "recording"]);
        api.send(request.json(&json!({ "record": record }))).await?;
        if args.last.is_none() && args.failing.is_none() {
            return Ok(output::print(&format!("{subscription} records {record}\n"))?);
        }
    }
    let found = found(&api, &args).await?;
    let items = found.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut files = Vec::new();
    for item in items {
        let capture = Capture::from_json(item.to_string().as_bytes());
        let capture = capture.map_err(|reason| Error::Answer { url: "captures".to_owned(), reason })?;
        files.push(write(&args, &capture)?);
    }
    if args.connection.json {
        return Ok(output::print_json(&json!(files))?);
    }
    output::print(&files.iter().map(|file| format!("{file}\n")).collect::<String>())?;
    if files.is_empty() {
        let record = text(&found, "record");
        eprintln!("nothing was recorded that fits; {subscription} records {record} (--record sets it)");
    }
    match found.get("skipped").and_then(Value::as_u64) {
        Some(skipped) if skipped > 0 => eprintln!("{skipped} attempts were too large to be recorded"),
        _ => {}
    }
    Ok(())
}

async fn found(api: &Api, args: &Args) -> Result<Value, Error> {
    let limit = args.last.or(args.failing).unwrap_or(10).to_string();
    let failing = if args.last.is_some() { "false" } else { "true" };
    let query = [("limit", limit.as_str()), ("failing", failing)];
    api.get(&["subscriptions", &args.subscription, "captures"], &query).await
}

/// Writes a capture into a file of its own; answers with the path.
fn write(args: &Args, capture: &Capture) -> anyhow::Result<String> {
    let name =
        file_name(&args.subscription, capture.message.topic.as_str(), &capture.message.id, capture.attempt);
    let path = args.out.join(name);
    let json = serde_json::to_string_pretty(capture)?;
    fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    fs::write(&path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
    Ok(shown(&path.display().to_string()))
}

/// A name that no message id can turn into another folder, a hidden file or the name of another message.
fn file_name(subscription: &str, topic: &str, id: &str, attempt: u32) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let readable: String = id.chars().map(safe).take(100).collect();
    let digest = format!("{:x}", Sha256::digest(format!("{topic}/{id}")));
    let unique = digest.get(..8).unwrap_or_default();
    format!("{subscription}-{readable}-{unique}-{attempt}.capture.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_others_stay_in_the_folder_and_apart() {
        let name = file_name("s", "t", "../../etc/x y", 2);
        assert!(name.starts_with("s-.._.._etc_x_y-") && name.ends_with("-2.capture.json"), "{name}");
        assert_ne!(file_name("s", "t", "a b", 1), file_name("s", "t", "a_b", 1));
        assert_ne!(file_name("s", "t", "a", 1), file_name("s", "u", "a", 1));
        assert!(file_name("s", "t", &"ä".repeat(300), 1).len() < 200);
    }
}
