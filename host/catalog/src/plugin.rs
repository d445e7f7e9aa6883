//! Plugins and their immutable versions: the definition here, the bytes in a file each.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use brolly_core::{Admission, Code, Digest, Name, Refusal, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Catalog, Error, Keys, Precondition, Put};

/// A plugin: a name under which versions were uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// The versions, oldest first.
    pub versions: Vec<Version>,
    /// Who may sign further ones.
    #[serde(default, skip_serializing_if = "is_unsigned")]
    pub keys: Keys,
}

fn is_unsigned(keys: &Keys) -> bool {
    !keys.are_asked_for()
}

/// One upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// What its bytes say of it.
    #[serde(flatten)]
    pub admission: Admission,
    /// When it came.
    pub uploaded_at: Timestamp,
    /// The team that signed it, where the plugin asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<Name>,
}

/// Sample messages that each version of a plugin must pass before it may be used, kept under the plugin's name.
/// There may be samples before there is any version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Samples {
    /// The document, in TOML.
    pub document: String,
}

impl Plugin {
    /// The most versions of one plugin; delete unused ones to make room.
    pub const MAX_VERSIONS: usize = 200;

    /// The version with this digest.
    #[must_use]
    pub fn version(&self, digest: &Digest) -> Option<&Version> {
        self.versions.iter().find(|version| version.admission.digest == *digest)
    }
}

impl Catalog {
    /// Where the bytes of a version lie.
    #[must_use]
    pub fn plugin_file(&self, digest: &Digest) -> PathBuf {
        self.plugins.join(format!("{}.wasm", digest.hex()))
    }

    /// Adds a version whose bytes were admitted. Uploading the same bytes again changes nothing but who has
    /// signed them.
    ///
    /// # Errors
    /// [`Code::InvalidSignature`]; [`Code::InvalidDefinition`] when the plugin has [`Plugin::MAX_VERSIONS`]; a failing disk.
    pub async fn add_version(
        &self,
        name: &Name,
        admission: Admission,
        (wasm, signature): (Vec<u8>, Option<&[u8]>),
        by: Option<&Name>,
    ) -> Result<Put<Plugin>, Error> {
        let wasm = Arc::new(wasm);
        if let Some(entry) = self.snapshot().plugins.get(name) {
            entry.value.keys.signer(&wasm, signature)?;
        }
        let path = self.plugin_file(&admission.digest);
        let written = tokio::task::spawn_blocking({
            let (path, wasm) = (path.clone(), wasm.clone());
            move || write_synced(&path, &wasm)
        });
        let failed = |source| Error::File { operation: "write", path, source };
        match written.await {
            Ok(result) => result.map_err(failed)?,
            Err(join) => return Err(failed(io::Error::other(join))),
        }
        let uploaded_at = self.clock.now();
        self.update(name, Precondition::None, by, |present: Option<&Plugin>| {
            let mut plugin = present.cloned().unwrap_or_default();
            // Once more: the keys may have changed since.
            let signed_by = plugin.keys.signer(&wasm, signature)?;
            let same = |version: &&mut Version| version.admission.digest == admission.digest;
            if let Some(known) = plugin.versions.iter_mut().find(same) {
                known.signed_by = signed_by.or(known.signed_by.take());
                return Ok(plugin);
            }
            if plugin.versions.len() >= Plugin::MAX_VERSIONS {
                return Err(Refusal::new(
                    Code::InvalidDefinition,
                    format!(
                        "the plugin {name} has {} versions, the limit; delete some",
                        Plugin::MAX_VERSIONS
                    ),
                ));
            }
            plugin.versions.push(Version { admission, uploaded_at, signed_by });
            Ok(plugin)
        })
        .await
    }

    /// Copies the bytes of every version into a folder, once `finish` is done; no definition changes from
    /// before it to the end. So whatever `finish` takes down of the catalog has its plugins.
    ///
    /// # Errors
    /// What `finish` fails with; a failing disk.
    pub async fn copy_plugins<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        to: PathBuf,
        finish: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let _writer = self.writer.lock().await;
        let snapshot = self.snapshot();
        let versions = snapshot.plugins.values().flat_map(|plugin| plugin.value.versions.iter());
        let files: Vec<PathBuf> =
            versions.map(|version| self.plugin_file(&version.admission.digest)).collect();
        let failed = {
            let to = to.clone();
            move |source| Error::File { operation: "copy the plugins to", path: to.clone(), source }
        };
        let copied = tokio::task::spawn_blocking(move || {
            let finished = finish()?;
            copy_files(&files, &to).map_err(|source| Error::File {
                operation: "copy the plugins to",
                path: to.clone(),
                source,
            })?;
            Ok(finished)
        });
        copied.await.unwrap_or_else(|join| Err(failed(io::Error::other(join)).into()))
    }

    /// Sets whose signatures further versions of a plugin need; it need not have any version yet.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] for a key that is none.
    pub async fn set_keys(
        &self,
        name: &Name,
        keys: Keys,
        only_if: Precondition,
        by: Option<&Name>,
    ) -> Result<Put<Plugin>, Error> {
        keys.check()?;
        let changed = |present: Option<&Plugin>| Ok(Plugin { keys, ..present.cloned().unwrap_or_default() });
        self.update(name, only_if, by, changed).await
    }

    /// Removes a version that no subscription uses; with the last one goes the plugin, unless it has keys.
    ///
    /// # Errors
    /// [`Code::NotFound`] or [`Code::InUse`].
    pub async fn remove_version(&self, name: &Name, digest: &Digest, by: Option<&Name>) -> Result<(), Error> {
        let snapshot = self.snapshot();
        let plugin = snapshot.plugins.get(name).ok_or_else(|| Refusal::not_found("plugin", name.as_str()))?;
        if plugin.value.version(digest).is_none() {
            return Err(
                Refusal::new(Code::NotFound, format!("the plugin {name} has no version {digest}")).into()
            );
        }
        if plugin.value.versions.len() == 1 && !plugin.value.keys.are_asked_for() {
            self.delete::<Plugin>(name, Precondition::Revision(plugin.revision), by).await?;
        } else {
            self.update(name, Precondition::Present, by, |present: Option<&Plugin>| {
                let mut plugin = present.cloned().unwrap_or_default();
                plugin.versions.retain(|version| version.admission.digest != *digest);
                Ok(plugin)
            })
            .await?;
        }
        let shared = self.snapshot().plugins.values().any(|plugin| plugin.value.version(digest).is_some());
        if !shared {
            let path = self.plugin_file(digest);
            if let Err(source) = fs::remove_file(&path)
                && source.kind() != io::ErrorKind::NotFound
            {
                return Err(Error::File { operation: "remove", path, source });
            }
        }
        Ok(())
    }
}

fn copy_files(files: &[PathBuf], to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for file in files {
        if let Some(name) = file.file_name() {
            let target = to.join(name);
            fs::copy(file, &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    File::open(to)?.sync_all()
}

/// Writes beside the target and renames, so that a crash leaves the whole file or none.
fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
