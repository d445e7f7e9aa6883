//! `brolly replay`: a captured attempt once more, offline, and what is different about it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use brolly_capture::{Capture, Happened, Recorded};
use brolly_core::Call;
use brolly_samples::{difference, told};
use serde_json::{Value, json};

use super::{
    cargo::Project,
    sandbox::{Built, Sandbox},
};
use crate::client::{
    self, Error,
    output::{moment, shown, text},
    print,
};

/// Make a captured attempt again, offline, with another plugin or the same, and compare what comes of it.
///
/// The plugin is given what the attempt was given: message, configuration, limits, the state that it
/// read, and what clock, randomness and servers told it; nothing is sent. Ends with 0 if the same comes
/// of it, bit for bit, and with 1 if something differs, which is shown: - is what happened then, + what
/// happens now.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The capture, as `brolly capture` wrote it.
    capture: PathBuf,
    /// The plugin [default: the one that is built of the project in this folder].
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Take state that the captured attempt did not read for not being there, clocks for going on only
    /// while it waits, and servers for not answering. Without this, a plugin that reads it is stopped:
    /// nobody knows what was there.
    #[arg(long)]
    assume_absent: bool,
}

/// Replays.
///
/// # Errors
/// When the capture or the plugin cannot be used; when something differs.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let bytes = client::read(&args.capture)?;
    let unfit = |why: String| Error::Usage(format!("{}: {why}", args.capture.display()));
    let capture = Capture::from_json(&bytes).map_err(unfit)?;
    let cache = tempfile::tempdir().context("making a folder for the compiled plugin")?;
    let (sandbox, built) = match &args.plugin {
        Some(wasm) => {
            let sandbox = Sandbox::in_folder(cache.path())?;
            let built = sandbox.admit(wasm.clone())?;
            (sandbox, built)
        }
        None => Project::find(Path::new("."))?.built()?,
    };
    print(&heading(&capture, &built))?;
    let state = Recorded::new(&capture, args.assume_absent);
    let now = again(&capture, &sandbox, &built, &state)?;
    if let Some(what) = state.unknown().filter(|_| args.assume_absent) {
        print(&format!("taken for not being there: {what}\n"))?;
    }
    if now == capture.happened {
        return Ok(print(&format!("{}the same, bit for bit\n", told(&now)))?);
    }
    let mut differs = difference(&told(&capture.happened), &told(&now));
    if differs.is_empty() {
        differs.push_str("bytes that are shown alike differ, such as the order of keys in JSON\n");
    }
    print(&differs)?;
    if let Some(what) = state.unknown().filter(|_| !args.assume_absent) {
        bail!(
            "the plugin reads {what}, which the capture does not have; --assume-absent takes it for not being there"
        );
    }
    bail!("what comes of it differs from what came of it: - then, + now");
}

/// The attempt, made once more.
fn again(capture: &Capture, sandbox: &Sandbox, built: &Built, state: &Recorded) -> anyhow::Result<Happened> {
    let term = |name: &&str| Some(((*name).to_owned(), capture.terms.get(*name)?.clone()));
    let fields: Value =
        ["config", "limits", "grants"].iter().filter_map(term).collect::<serde_json::Map<_, _>>().into();
    let handler =
        sandbox.handler(built, &capture.subscription, &fields).context("the captured subscription")?;
    let handled = handler.handle(&Call {
        message: &capture.message(),
        subscription: &capture.subscription,
        attempt: capture.attempt,
        last_attempt: capture.last_attempt,
        idempotency_key: &capture.idempotency_key,
        state,
        outside: state,
    });
    Ok(Happened::from(&handled))
}

/// What is replayed with what.
fn heading(capture: &Capture, built: &Built) -> String {
    let version = built.admission.digest.to_string();
    let was = text(&capture.terms, "version");
    let with =
        if was == version { "the same version".to_owned() } else { format!("then {was}, now {version}") };
    let reused = match capture.terms.get("instances") {
        Some(instances) if *instances == json!("reuse") => {
            "its instances were reused: what one kept in its own memory from deliveries before is not in the capture\n"
        }
        _ => "",
    };
    format!(
        "attempt {} of {} in {} at {}, ended {}\n{with}\n{reused}",
        capture.attempt,
        shown(&capture.message.id),
        capture.message.topic,
        capture.subscription,
        moment(capture.at_ms)
    )
}
