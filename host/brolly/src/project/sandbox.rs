//! The host's own sandbox without a host: a plugin of a file, run within a subscription's limits. Used by
//! every command that runs a handler offline; knows no server.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use brolly_core::{Admission, Handler, Name, PluginError, Plugins};
use brolly_runtime::{Config, Runtime};
use serde_json::Value;

/// Instances that may exist at once: the fewest that the runtime can be set to.
const INSTANCES: u32 = 16;

/// The sandbox.
pub struct Sandbox {
    runtime: Runtime,
}

/// A plugin in a file.
#[derive(Clone, Debug)]
pub struct Built {
    /// The file.
    pub path: PathBuf,
    /// What a host knows of it.
    pub admission: Admission,
}

/// The component in what a compiler left, as a host makes it of an upload.
///
/// # Errors
/// When it is no plugin, with what is wrong.
pub fn component(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    Ok(brolly_runtime::component(module).map_err(|refusal| anyhow!(refusal.detail))?.into_owned())
}

impl Sandbox {
    /// A sandbox that keeps compiled plugins in a folder. What lies there is run as machine code.
    ///
    /// # Errors
    /// When the folder or the address space cannot be had.
    pub fn in_folder(cache_dir: &Path) -> anyhow::Result<Self> {
        let config = Config { max_instances: INSTANCES, ..Config::new(cache_dir) };
        Ok(Self { runtime: Runtime::new(config)? })
    }

    /// Checks and compiles a plugin as an upload is.
    ///
    /// # Errors
    /// When the file cannot be read or no host would take it.
    pub fn admit(&self, path: PathBuf) -> anyhow::Result<Built> {
        let wasm = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let admission = self.runtime.admit(&wasm).map_err(|error| refused(&path, &error))?;
        Ok(Built { path, admission })
    }

    /// A handler of a plugin under a subscription of this name with these fields, such as `config` and `limits`.
    ///
    /// # Errors
    /// When a field is out of its range, or the plugin cannot start within the limits.
    pub fn handler(&self, built: &Built, name: &Name, fields: &Value) -> anyhow::Result<Arc<dyn Handler>> {
        let digest = &built.admission.digest;
        let subscription =
            brolly_samples::definition(name, digest, fields).map_err(|refusal| anyhow!(refusal.detail))?;
        let handler = self.runtime.handler(name, &subscription, digest, &built.path);
        handler.map_err(|error| refused(&built.path, &error))
    }
}

fn refused(path: &Path, error: &PluginError) -> anyhow::Error {
    match error {
        PluginError::Refused(refusal) => anyhow!("{}: {}", path.display(), refusal.detail),
        PluginError::Host(why) => anyhow!("{}: {why}", path.display()),
    }
}
