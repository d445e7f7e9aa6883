//! The command line: which commands there are, and with which code the process ends.

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    client::{self, Command},
    project, serve, store,
};

/// Something failed; the reason is on standard error.
pub const FAILURE: u8 = 1;
/// The command line, the configuration or an input document is to be mended. Also clap's own code.
pub const USAGE: u8 = 2;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    the command line, the configuration or an input is to be mended
  70   serve: the store failed, nothing more could become durable
  130  serve: stopped by a second signal before everything was finished";

/// A message router whose handlers are WebAssembly plugins.
#[derive(Debug, Parser)]
#[command(name = "brolly", version, about, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Top,
}

#[derive(Debug, Subcommand)]
enum Top {
    Serve(serve::Args),
    /// Work on the store of a data directory, while no server runs on it.
    #[command(subcommand)]
    Store(store::Command),
    #[command(flatten)]
    Project(project::Command),
    #[command(flatten)]
    Client(Box<Command>),
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Top::Serve(args) => serve::run(args),
        Top::Store(command) => store::run(command),
        Top::Project(command) => ended(project::run(command)),
        Top::Client(command) => ended(client::run(*command)),
    }
}

/// Says what went wrong, if anything did.
fn ended(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has enough of it, as `brolly tail | head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brolly: {error:#}");
            let usage = error.downcast_ref::<client::Error>().is_some_and(client::Error::is_usage);
            ExitCode::from(if usage { USAGE } else { FAILURE })
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(pipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
