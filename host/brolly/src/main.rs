//! The binary: see [`cli`] for what it can do.

mod cli;
mod client;
mod config;
mod serve;

fn main() -> std::process::ExitCode {
    cli::run()
}
