//! The client commands: each calls the HTTP API of a server that runs, and nothing else.
//!
//! One file per command. [`api`] knows addresses, tokens and problem documents; [`output`] how
//! things are written for people; [`records`] how files become messages.

pub(crate) mod api;
mod apply;
mod backup;
mod capture;
mod error;
pub(crate) mod output;
mod plugin;
mod publish;
mod records;
mod shipping;
mod status;
mod tail;
mod trace;

pub use apply::{at_start as apply_at_start, definition_of_subscription, without_asking as apply};
pub use error::Error;
pub(crate) use error::{read, read_text};
pub use output::print;
pub use tail::Window;

/// What a client can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Publish(publish::Args),
    Tail(tail::Args),
    Trace(trace::Args),
    Status(status::Args),
    /// Upload and list plugins.
    #[command(subcommand)]
    Plugin(plugin::Command),
    Apply(apply::Args),
    Capture(capture::Args),
    Rollback(shipping::Rollback),
    Rollout(shipping::Rollout),
    Backup(backup::Args),
}

/// Does what a client was asked.
///
/// # Errors
/// Whatever kept it from it, for people to read.
pub fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match command {
            Command::Publish(args) => publish::run(args).await,
            Command::Tail(args) => tail::run(args).await,
            Command::Trace(args) => trace::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Plugin(command) => plugin::run(command).await,
            Command::Apply(args) => apply::run(args).await,
            Command::Capture(args) => capture::run(args).await,
            Command::Rollback(args) => shipping::roll_back(args).await,
            Command::Rollout(args) => shipping::roll_out(args).await,
            Command::Backup(args) => backup::run(args).await,
        }
    });
    // A thread that still waits for standard input must not hold the process.
    runtime.shutdown_background();
    done
}
