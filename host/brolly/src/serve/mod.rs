//! `brolly serve`: broker, host, admin and console in one process.
//!
//! Reads the configuration, then builds, runs and drains the [`app`]. Called by the command line;
//! the order of these steps is all that it knows.

mod app;
mod first_token;
mod folder;
mod metering;
mod signals;
pub mod telemetry;

use std::{io::Write, path::PathBuf, process::ExitCode};

use crate::{
    cli::{FAILURE, USAGE},
    config::{Config, Flags, HELP},
};

/// Threads for work that may block: every worker of every subscription has one while it handles a
/// delivery (at most 256 for each subscription), and what the admin reads from the disk needs some.
/// Beyond this many, work waits for a thread. A thread that is not needed costs nothing.
const BLOCKING_THREADS: usize = 4_096;

/// A guest's stack (512 KiB at most) lies on the thread that runs it, over the host's own frames.
const THREAD_STACK_BYTES: usize = 2 * 1024 * 1024;

/// Run broker, host, admin and console in one process.
///
/// Settings come from the defaults, the file, the environment and the flags, each going over the one
/// before. SIGTERM or SIGINT drains: what runs is finished, nothing new is begun; a second one stops
/// at once.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Args {
    /// The directory that holds everything durable [default: ./brolly-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The address that HTTP is served on; port 0 takes a free one [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE", env = "BROLLY_CONFIG")]
    config: Option<PathBuf>,
    /// A document to apply at the start, as `brolly apply --yes FILE` does: brokers, topics, queues,
    /// routes, plugins and subscriptions.
    #[arg(long, value_name = "FILE")]
    apply: Option<PathBuf>,
}

/// Runs until the process is told to stop; answers with the exit code.
pub fn run(args: Args) -> ExitCode {
    let flags = Flags { config: args.config, data_dir: args.data_dir, listen: args.listen };
    let config = match Config::of_this_process(&flags) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("brolly: {mistakes}");
            return ExitCode::from(USAGE);
        }
    };
    if let Err(error) = telemetry::init(&config.log) {
        eprintln!("brolly: {error:#}");
        return ExitCode::from(FAILURE);
    }
    match start(config, args.apply) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "brolly cannot be served");
            ExitCode::from(FAILURE)
        }
    }
}

fn start(config: Config, document: Option<PathBuf>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from))
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(THREAD_STACK_BYTES)
        .thread_name("brolly")
        .enable_all()
        .build()?;
    let code = runtime.block_on(async {
        let data_dir = config.data_dir.clone();
        let (app, announcement) = app::App::build(config).await?;
        announce(&announcement)?;
        let url = app.url();
        let applied = async {
            if let Some(file) = document
                && let Err(error) = crate::client::apply_at_start(file, url, data_dir).await
            {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the document was not applied; what it had done before stays"
                );
            }
            std::future::pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            code = app.run() => anyhow::Ok(code),
            never = applied => match never {},
        }
    });
    // Everything that must be finished is; a thread that is still busy must not hold the process.
    runtime.shutdown_background();
    code
}

/// What a person or a script that started the process waits for.
fn announce(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
