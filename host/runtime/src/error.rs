//! What can fail in the runtime itself. What a plugin gets wrong is a refusal or a fault instead.

use std::path::PathBuf;

/// The runtime cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is out of its range.
    #[error("runtime settings: {detail}")]
    Config {
        /// The setting, its value and its range.
        detail: String,
    },
    /// The WebAssembly engine cannot be set up, as when there is too little address space.
    #[error("setting up the WebAssembly engine: {detail}")]
    Engine {
        /// The engine's own words.
        detail: String,
    },
    /// A thread cannot be started.
    #[error("starting the thread {name}: {source}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder of compiled plugins cannot be used.
    #[error("{operation} {}: {source}", path.display())]
    Cache {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
