//! `brolly store`: what can be done with the store of a data directory while no server runs on it.
//! Called by the command line; knows nothing of what is in the store.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use brolly_store::{Copied, Engine, Progress};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use crate::{
    cli::{FAILURE, USAGE},
    client,
    config::{Config, Flags, Log, LogFormat},
    serve::telemetry,
};

/// How often the spinner turns when there is nothing to count.
const TICK: Duration = Duration::from_millis(200);

/// What can be done.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Copy(Args),
}

/// Copy the store to another engine, in the same data directory.
///
/// Refused while a server runs on it. After an unclean stop the store is recovered first, as a start
/// would do. All rows are copied, read again and compared; then the copy takes the place of the old
/// database, in one step, and that is removed. Whatever interrupts it before leaves the store as it was.
/// It needs as much free disk space as the store has.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The engine that is to keep the store from now on: sled or redb.
    #[arg(long, value_name = "ENGINE")]
    to: Engine,
    /// The data directory [default: as for `brolly serve`].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The TOML file with the server's settings.
    #[arg(long, value_name = "FILE", env = "BROLLY_CONFIG")]
    config: Option<PathBuf>,
}

/// Does what was asked; answers with the exit code.
pub fn run(command: Command) -> ExitCode {
    let Command::Copy(args) = command;
    let flags = Flags { config: args.config, data_dir: args.data_dir, listen: None };
    let config = match Config::of_this_process(&flags) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("brolly: {mistakes}");
            return ExitCode::from(USAGE);
        }
    };
    match copy(&config, args.to) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brolly: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

fn copy(config: &Config, to: Engine) -> anyhow::Result<()> {
    telemetry::init(&Log { format: LogFormat::Text, filter: "warn".to_owned() })?;
    let store = brolly_store::Config { engine: to, ..config.store.clone() };
    let bar = ProgressBar::new_spinner().with_message("opening the store");
    bar.enable_steady_tick(TICK);
    let copied = brolly_store::copy(&store, |progress| show(&bar, progress));
    bar.finish_and_clear();
    let mut told = match copied? {
        Some(copied) => summary(&copied, to),
        None => format!("{to} keeps the store already; nothing was copied\n"),
    };
    if config.store.engine != to {
        told.push_str(&format!("set store.engine = \"{to}\" before the next start, or it is refused\n"));
    }
    client::print(&told).context("writing to standard output")
}

fn summary(copied: &Copied, to: Engine) -> String {
    let Copied { from, rows, bytes, sha256 } = copied;
    let (rows, bytes) = (HumanCount(*rows), HumanBytes(*bytes));
    format!("copied {rows} rows ({bytes}) from {from} to {to}, and read them again: SHA-256 {sha256}\n")
}

fn show(bar: &ProgressBar, progress: Progress) {
    match progress {
        Progress::Copying { rows, bytes } => {
            bar.set_message(format!("copied {} rows, {}", HumanCount(rows), HumanBytes(bytes)));
        }
        Progress::Verifying { rows, of } => {
            if bar.length() != Some(of) {
                let template = "{bar:30} {percent:>3} %  {msg}  {elapsed} gone, {eta} to go";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.set_length(of);
                bar.set_message("reading the copy");
            }
            bar.set_position(rows);
        }
        Progress::Switching => bar.set_message("putting the copy in its place"),
        Progress::Removing => bar.set_message("removing the old database"),
    }
}
