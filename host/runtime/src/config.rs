//! What an operator may set of the runtime. Read once, by the binary.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The runtime's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where compiled plugins are kept. What lies there is run as machine code: nobody but the
    /// host's own user may be able to write to it. It may be deleted while the host is stopped.
    pub cache_dir: PathBuf,
    /// Plugin instances that may exist at the same time, idle ones included: 16 to 16,384. Address
    /// space is reserved for each, 5 GiB or so, but no memory. A call that finds no room is
    /// tried again later, without counting an attempt.
    #[serde(default = "max_instances")]
    pub max_instances: u32,
}

fn max_instances() -> u32 {
    1_024
}

impl Config {
    /// The defaults, with compiled plugins in `cache_dir`.
    #[must_use]
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self { cache_dir: cache_dir.into(), max_instances: max_instances() }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting and its range.
    pub fn check(&self) -> Result<(), Error> {
        match self.max_instances {
            16..=16_384 => Ok(()),
            n => Err(Error::Config { detail: format!("max_instances is {n}, allowed are 16 to 16384") }),
        }
    }
}
