//! The port [`Plugins`]: admits uploads and makes handlers. Built by the binary, called by the
//! catalog and the supervisor, from threads that may block.

use std::{borrow::Cow, fs, path::Path, sync::Arc};

use brolly_core::{Admission, Digest, Handler, Name, PluginError, Plugins, Subscription};
use sha2::{Digest as _, Sha256};

use crate::{
    Config, Error, about,
    artefact::Artefacts,
    engine,
    handler::{Host, WasmHandler},
    library::Library,
};

/// Checks, compiles, caches and runs plugins.
///
/// It may be dropped before the handlers it made; what they share ends with the last of them.
pub struct Runtime {
    host: Arc<Host>,
    library: Library,
}

impl Runtime {
    /// Sets up the engine, its pool of instances and the folder of compiled plugins.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting out of range, [`Error::Engine`] when the system does not grant
    /// the address space for even a small pool, [`Error::Thread`], and [`Error::Cache`] when the
    /// folder cannot be made or read.
    pub fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        let engine = engine::build(config.max_instances)?;
        let artefacts = Artefacts::open(&config.cache_dir, &engine)?;
        let library = Library::new(&engine, artefacts)?;
        Ok(Self { host: Host::start(engine)?, library })
    }

    #[cfg(test)]
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }
}

impl Plugins for Runtime {
    fn admit(&self, wasm: &[u8]) -> Result<Admission, PluginError> {
        let digest = digest_of(wasm);
        let (loaded, compile_ms) = self.library.load(&digest, || Ok(Cow::Borrowed(wasm)))?;
        Ok(Admission {
            digest,
            size_bytes: wasm.len() as u64,
            world: loaded.pre.world().name().to_owned(),
            imports: loaded.imports.clone(),
            compile_ms,
            about: about::about(wasm),
        })
    }

    fn handler(
        &self,
        name: &Name,
        subscription: &Subscription,
        version: &Digest,
        wasm: &Path,
    ) -> Result<Arc<dyn Handler>, PluginError> {
        let (loaded, _) = self.library.load(version, || read(wasm, version).map(Cow::Owned))?;
        let handler = WasmHandler::new(Arc::clone(&self.host), loaded, name, subscription);
        handler.try_out(subscription)?;
        Ok(Arc::new(handler))
    }
}

fn digest_of(wasm: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(wasm).into())
}

/// The bytes of a version, if the file holds what its digest says.
fn read(path: &Path, version: &Digest) -> Result<Vec<u8>, PluginError> {
    let wasm = fs::read(path).map_err(|error| {
        PluginError::Host(format!("reading the plugin version {version} from {}: {error}", path.display()))
    })?;
    let found = digest_of(&wasm);
    if found != *version {
        return Err(PluginError::Host(format!(
            "{} is damaged: it should hold the plugin version {version}, but its digest is {found}; \
             upload the version again",
            path.display()
        )));
    }
    Ok(wasm)
}
