//! The binary: see [`cli`] for what it can do.

mod cli;
mod client;
mod config;
mod project;
mod registry;
mod serve;
mod store;

/// The store's thread allocates and frees rows by the million; with the system's allocator it
/// spends a third of its time on that (docs/adr/0005-allocator.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
