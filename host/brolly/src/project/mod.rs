//! The commands for those who write handlers: a project from nothing to a plugin that runs. All but
//! `dev` work offline.
//!
//! One file per command. [`cargo`] knows the project and its build, [`sdk`] what the binary carries of
//! the SDK, [`sandbox`] runs plugins.

mod build;
mod cargo;
mod dev;
mod new;
mod replay;
mod sandbox;
mod sdk;
mod test;

use std::path::{Path, PathBuf};

/// What can be done with a project.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    New(new::Args),
    Build(build::Args),
    Test(test::Args),
    Dev(dev::Args),
    Replay(replay::Args),
}

/// Does it.
///
/// # Errors
/// Whatever kept it from it, for people to read.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::New(args) => new::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Dev(args) => dev::run(args),
        Command::Replay(args) => replay::run(&args),
    }
}

/// A path in a folder, without the `./` of the present one.
fn inside(folder: &Path, path: &str) -> PathBuf {
    if folder == Path::new(".") { PathBuf::from(path) } else { folder.join(path) }
}
