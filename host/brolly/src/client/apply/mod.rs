//! `brolly apply`: a document with the whole desired state, compared with the server and made true.

mod document;
mod plan;

use std::{
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
};

use anyhow::Context;
use reqwest::{Method, header};
use serde_json::{Value, json};

use self::{
    document::{Kind, Wanted},
    plan::{Before, Present, Step},
};
use super::{
    Error,
    api::{Api, Connection},
    output::{self, text},
};

/// Make the server what a document wants.
///
/// The document, in TOML or YAML, has the sections brokers, topics, queues, routes, subscriptions (name →
/// definition, as the HTTP API has them) and plugins (name → file = path relative to the document). A
/// subscription that names no version uses the file of its plugin, and a topic or queue that names no
/// broker lives on the one that `broker` at the top of the document names. The changes are shown before they
/// are made; applying the same again changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The document: .toml, .yaml or .yml.
    file: PathBuf,
    /// Make the changes without asking.
    #[arg(long)]
    yes: bool,
    /// Show the changes and make none.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Also delete brokers, topics, queues, routes, subscriptions and plugins that the document does not name.
    /// Queues that hold messages are not deleted.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Applies a document to a server of this process as `brolly apply --yes` does.
///
/// # Errors
/// As [`run`].
pub async fn at_start(file: PathBuf, url: String, data_dir: PathBuf) -> anyhow::Result<()> {
    without_asking(file, Connection::own(url, data_dir)).await
}

/// Applies a document as `brolly apply --yes` does.
///
/// # Errors
/// As [`run`].
pub async fn without_asking(file: PathBuf, connection: Connection) -> anyhow::Result<()> {
    run(Args { file, yes: true, dry_run: false, prune: false, connection }).await
}

/// Of what the server shows of a subscription, what can be put again.
pub fn definition_of_subscription(shown: &Value) -> Value {
    Kind::Subscription.definition_in(shown)
}

/// Applies.
///
/// # Errors
/// What the document has wrong, or the server says. What was done before stays done; applying again
/// goes on.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let wanted = Wanted::read(&args.file)?;
    let api = args.connection.open()?;
    let steps = plan::steps(&wanted, &present(&api).await?, args.prune);
    let json = args.connection.json;
    if !json {
        for step in &steps {
            output::print(&step.shown())?;
        }
    }
    let applied = !steps.is_empty() && !args.dry_run;
    if applied {
        confirm(&args, steps.len())?;
        for step in &steps {
            carry_out(&api, &wanted, step)
                .await
                .with_context(|| format!("{} {}", step.action(), step.subject()))?;
        }
    }
    if json {
        let shown = |step: &Step| json!({"action": step.action(), "subject": step.subject()});
        let changes: Vec<Value> = steps.iter().map(shown).collect();
        return Ok(output::print_json(&json!({"changes": changes, "applied": applied}))?);
    }
    let said = match steps.len() {
        0 => "nothing to change\n".to_owned(),
        n if applied => format!("{n} changes made\n"),
        n => format!("{n} changes to make; none were made\n"),
    };
    Ok(output::print(&said)?)
}

async fn present(api: &Api) -> Result<Present, Error> {
    let mut present = Present::default();
    for kind in Kind::ALL {
        for shown in api.all(&[kind.plural()]).await? {
            // What is built in cannot be wanted.
            if shown.get("revision").is_some() {
                present.definitions.insert((kind, text(&shown, "name").to_owned()), shown);
            }
        }
    }
    for plugin in api.all(&["plugins"]).await? {
        present.plugins.insert(text(&plugin, "name").to_owned(), plan::versions(&plugin));
    }
    Ok(present)
}

/// Asks on a terminal; without one, only `--yes` is an answer.
fn confirm(args: &Args, changes: usize) -> anyhow::Result<()> {
    if args.yes {
        return Ok(());
    }
    if args.connection.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let why = format!("{changes} changes to make, and nobody to ask; give --yes to make them");
        return Err(Error::Usage(why).into());
    }
    eprint!("Make these {changes} changes? [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => anyhow::bail!("nothing was changed"),
    }
}

/// Does one step, if nobody else has changed its subject since the changes were shown.
async fn carry_out(api: &Api, wanted: &Wanted, step: &Step) -> Result<(), Error> {
    let request = match step {
        Step::Upload { plugin, .. } => {
            let bytes = wanted.plugins.iter().find(|known| known.name == *plugin);
            let request = api.request(Method::POST, &["plugins", plugin, "versions"]);
            let wasm = bytes.map(|known| known.wasm.clone()).unwrap_or_default();
            request.header(header::CONTENT_TYPE, "application/wasm").body(wasm)
        }
        Step::Put { kind, name, before, after } => {
            let request = api.request(Method::PUT, &[kind.plural(), name]).json(&after.full);
            match before {
                Some(before) => request.header(header::IF_MATCH, tag(before)),
                None => request.header(header::IF_NONE_MATCH, "*"),
            }
        }
        Step::Delete { kind, name, before } => {
            api.request(Method::DELETE, &[kind.plural(), name]).header(header::IF_MATCH, tag(before))
        }
        Step::DeleteVersion { plugin, digest } => {
            api.request(Method::DELETE, &["plugins", plugin, "versions", digest])
        }
    };
    api.send(request).await.map(drop)
}

fn tag(before: &Before) -> String {
    format!("\"r{}\"", before.revision)
}
