//! The host's own sandbox without a host: a plugin of a file, run within a subscription's limits over a
//! state in memory. Used by every command that runs a handler offline; knows no server.

use std::{
    collections::BTreeMap,
    fs,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use brolly_core::{
    Admission, Handler, Name, PluginError, Plugins, StateEntry, StateReader, StateUnavailable, Subscription,
};
use brolly_runtime::{Config, Runtime};
use bytes::Bytes;
use serde_json::{Value, json};

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

    /// A handler of a plugin under a subscription with these fields, such as `config` and `limits`;
    /// the definition comes with it.
    ///
    /// # Errors
    /// When a field is out of its range, or the plugin cannot start within the limits.
    pub fn handler(
        &self,
        built: &Built,
        name: &Name,
        fields: &Value,
    ) -> anyhow::Result<(Arc<dyn Handler>, Subscription)> {
        let version = built.admission.digest.to_string();
        let mut definition = json!({ "queue": name.as_str(), "plugin": name.as_str(), "version": version });
        if let (Some(definition), Some(fields)) = (definition.as_object_mut(), fields.as_object()) {
            definition.extend(fields.clone());
        }
        let subscription: Subscription = serde_json::from_value(definition)?;
        subscription.check().map_err(|refusal| anyhow!(refusal.detail))?;
        let handler = self.runtime.handler(name, &subscription, &built.admission.digest, &built.path);
        Ok((handler.map_err(|error| refused(&built.path, &error))?, subscription))
    }
}

fn refused(path: &Path, error: &PluginError) -> anyhow::Error {
    match error {
        PluginError::Refused(refusal) => anyhow!("{}: {}", path.display(), refusal.detail),
        PluginError::Host(why) => anyhow!("{}: {why}", path.display()),
    }
}

/// A subscription's state in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState(pub BTreeMap<String, Bytes>);

impl MemoryState {
    /// Does what an acknowledged attempt wrote; none deletes a key.
    pub fn write(&mut self, writes: &BTreeMap<String, Option<Bytes>>) {
        for (key, value) in writes {
            match value {
                Some(value) => drop(self.0.insert(key.clone(), value.clone())),
                None => drop(self.0.remove(key)),
            }
        }
    }
}

impl StateReader for MemoryState {
    fn get(&self, key: &str) -> Result<Option<Bytes>, StateUnavailable> {
        Ok(self.0.get(key).cloned())
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, StateUnavailable> {
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let entries = self.0.range::<str, _>((from, Bound::Unbounded));
        let entries = entries.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(entries.map(|(key, value)| StateEntry { key: key.clone(), value: value.clone() }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_begins_after_a_key_and_ends_with_the_prefix() {
        let entries = ["a", "b/1", "b/2", "b/3", "c"];
        let state = MemoryState(entries.iter().map(|key| ((*key).to_owned(), Bytes::new())).collect());
        let check = |after: Option<&str>, limit, expect: &[&str]| {
            let found = state.list("b/", after, limit).unwrap();
            let keys: Vec<&str> = found.iter().map(|entry| entry.key.as_str()).collect();
            assert_eq!(keys, expect, "after {after:?}");
        };
        check(None, 9, &["b/1", "b/2", "b/3"]);
        check(None, 2, &["b/1", "b/2"]);
        check(Some("b/1"), 9, &["b/2", "b/3"]);
        check(Some("b/15"), 9, &["b/2", "b/3"]);
        check(Some("a"), 9, &["b/1", "b/2", "b/3"]);
        check(Some("c"), 9, &[]);
    }
}
