//! Plugins and their immutable versions: the definition here, the bytes in a file each.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use brolly_core::{Admission, Code, Digest, Name, Refusal, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Catalog, Error, Precondition, Put};

/// A plugin: a name under which versions were uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// The versions, oldest first.
    pub versions: Vec<Version>,
}

/// One upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// What its bytes say of it.
    #[serde(flatten)]
    pub admission: Admission,
    /// When it came.
    pub uploaded_at: Timestamp,
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

    /// Adds a version whose bytes were admitted. Uploading the same bytes again changes nothing.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] when the plugin has [`Plugin::MAX_VERSIONS`]; a failing disk.
    pub async fn add_version(
        &self,
        name: &Name,
        admission: Admission,
        wasm: Vec<u8>,
        by: Option<&Name>,
    ) -> Result<Put<Plugin>, Error> {
        let path = self.plugin_file(&admission.digest);
        let written = tokio::task::spawn_blocking({
            let path = path.clone();
            move || write_synced(&path, &wasm)
        });
        let failed = |source| Error::File { operation: "write", path, source };
        match written.await {
            Ok(result) => result.map_err(failed)?,
            Err(join) => return Err(failed(io::Error::other(join))),
        }
        let version = Version { admission, uploaded_at: self.clock.now() };
        self.update(name, Precondition::None, by, |present: Option<&Plugin>| {
            let mut plugin = present.cloned().unwrap_or(Plugin { versions: Vec::new() });
            if plugin.version(&version.admission.digest).is_some() {
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
            plugin.versions.push(version);
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

    /// Removes a version that no subscription uses; with the last one goes the plugin.
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
        if plugin.value.versions.len() == 1 {
            self.delete::<Plugin>(name, Precondition::Revision(plugin.revision), by).await?;
        } else {
            self.update(name, Precondition::Present, by, |present: Option<&Plugin>| {
                let mut plugin = present.cloned().unwrap_or(Plugin { versions: Vec::new() });
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
