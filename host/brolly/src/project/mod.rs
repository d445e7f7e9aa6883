//! The commands for those who write handlers: a project from nothing to a plugin that runs. All but
//! `dev` work offline.
//!
//! One file per command. [`cargo`] knows the project and its build, [`sdk`] what the binary carries of
//! the SDK, [`sandbox`] runs plugins, [`samples`] says what must come of which message.

mod build;
mod cargo;
mod dev;
mod new;
mod samples;
mod sandbox;
mod sdk;
mod test;

/// What can be done with a project.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    New(new::Args),
    Build(build::Args),
    Test(test::Args),
    Dev(dev::Args),
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
    }
}
