//! Compiled plugins on disk, so that a restart does not compile again. Used by `library`.
//!
//! `{cache_dir}/{engine}/{digest}.cwasm`, where `engine` names everything that compiled code depends
//! on (wasmtime's version, its settings, the processor). A file is the SHA-256 of the rest, then the
//! rest: what wasmtime serialized. The digest guards against damage, not against an attacker, who
//! would compute it: whoever can write here can run machine code in the host.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use brolly_core::Digest;
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::Error;

const HASH_BYTES: usize = 32;
const PARTIAL: &str = "partial";

/// The folder for one engine.
pub(crate) struct Artefacts {
    dir: PathBuf,
    /// Makes the names of files that are being written unique within the process.
    writes: AtomicU64,
}

impl Artefacts {
    /// Opens the folder, and clears it of files whose writing was interrupted.
    pub(crate) fn open(cache_dir: &Path, engine: &Engine) -> Result<Self, Error> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let dir = cache_dir.join(format!("{:016x}", hasher.finish()));
        let failed = |operation| {
            let path = dir.clone();
            move |source| Error::Cache { operation, path, source }
        };
        fs::create_dir_all(&dir).map_err(failed("creating the folder"))?;
        for entry in fs::read_dir(&dir).map_err(failed("reading the folder"))? {
            let path = entry.map_err(failed("reading the folder"))?.path();
            if path.extension().is_some_and(|extension| extension == PARTIAL) {
                // It is only waste; a later start tries again.
                let _ = fs::remove_file(path);
            }
        }
        Ok(Self { dir, writes: AtomicU64::new(0) })
    }

    /// The compiled code of a version, if it is there and sound.
    pub(crate) fn read(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let damage = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
            Ok(bytes) => match verified(&bytes).map(|code| load(engine, code)) {
                Some(Ok(component)) => return Some(component),
                Some(Err(error)) => format!("{error:#}"),
                None => "its contents do not match their SHA-256".to_owned(),
            },
        };
        tracing::warn!(path = %path.display(), damage, "a compiled plugin is damaged; compiling it again");
        None
    }

    /// Keeps the compiled code of a version.
    pub(crate) fn write(&self, digest: &Digest, component: &Component) -> Result<(), Error> {
        let path = self.path(digest);
        let code = component.serialize().map_err(|error| Error::Engine { detail: format!("{error:#}") })?;
        let mut bytes = Sha256::digest(&code).to_vec();
        bytes.extend_from_slice(&code);
        let n = self.writes.fetch_add(1, Ordering::Relaxed);
        let partial = path.with_extension(format!("{}-{n}.{PARTIAL}", std::process::id()));
        // No sync: a file that a power cut tears is found out by its digest.
        fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, &path)).map_err(|source| Error::Cache {
            operation: "writing the compiled plugin",
            path,
            source,
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.cwasm", digest.hex()))
    }
}

/// The code in a file, if it is what was written.
fn verified(bytes: &[u8]) -> Option<&[u8]> {
    let (hash, code) = bytes.split_at_checked(HASH_BYTES)?;
    (Sha256::digest(code).as_slice() == hash).then_some(code)
}

#[allow(unsafe_code, reason = "wasmtime cannot check compiled code; see SAFETY")]
fn load(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` must come from `Component::serialize`. It was read from a folder that only the
    // host's own user may write to (`Config::cache_dir`) and matches the SHA-256 that `write` put in
    // front of it, so it is what `write` wrote. Wasmtime itself checks version and settings.
    unsafe { Component::deserialize(engine, code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_verified() {
        let file = |code: &[u8]| [Sha256::digest(code).as_slice(), code].concat();
        assert_eq!(verified(&file(b"code")), Some(&b"code"[..]));
        assert_eq!(verified(&file(b"")), Some(&b""[..]));
        assert_eq!(verified(b""), None);
        assert_eq!(verified(&file(b"code")[..35]), None);
        let mut flipped = file(b"code");
        flipped[33] ^= 1;
        assert_eq!(verified(&flipped), None);
    }
}
