//! Uploads of plugin versions: what a version asks for, beside what its subscriptions grant and run.

use brolly_catalog::{Entry, Keys, Plugin, Precondition};
use brolly_core::{Admission, Digest, Grants, Name, Subscription};

use crate::{Error, Handle, handle::blocking};

/// The answer to an upload.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// What the bytes say of the version.
    pub admission: Admission,
    /// The team that signed it, where the plugin asks for that.
    pub signed_by: Option<Name>,
    /// Whether the plugin did not have it before.
    pub created: bool,
    /// For each subscription of the plugin: the version it runs, and imports that the upload has
    /// and that version has not.
    pub compared: Vec<(Name, Digest, Vec<String>)>,
    /// Interfaces that the upload imports and that no subscription of the plugin grants.
    pub denied: Vec<Denied>,
    /// For each subscription of the plugin that runs another version: what the upload asks for that this
    /// version does not, in words.
    pub needs: Vec<(Name, Vec<String>)>,
    /// How many samples of the plugin it has passed; none where it has no samples.
    pub samples: Option<usize>,
}

/// An interface that a plugin imports in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The interface.
    pub interface: String,
    /// The field of a subscription's grants that would allow it; none if nothing does.
    pub grant: Option<&'static str>,
    /// What that means, in words.
    pub meaning: String,
}

/// What no subscription grants. A plugin without subscriptions has no grants yet.
fn denied<'a>(imports: &[String], grants: impl Iterator<Item = &'a Grants> + Clone) -> Vec<Denied> {
    let nothing = Grants::default();
    let denied = imports.iter().filter(|import| {
        let mut grants = grants.clone().peekable();
        if grants.peek().is_none() { nothing.denies(import) } else { grants.all(|own| own.denies(import)) }
    });
    denied
        .map(|import| Denied {
            interface: import.clone(),
            grant: Grants::needed_by(import),
            meaning: nothing.says(import).unwrap_or_default(),
        })
        .collect()
}

/// What new imports let a plugin do under a subscription's grants; each thing once.
fn in_words(new: &[String], grants: &Grants) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for said in new.iter().filter_map(|import| grants.says(import)) {
        if !words.contains(&said) {
            words.push(said);
        }
    }
    words
}

impl Handle {
    /// Checks and compiles a plugin version, holds it to the plugin's samples, and keeps it. Uploading the same bytes
    /// again changes nothing.
    ///
    /// # Errors
    /// [`brolly_core::Code::InvalidSignature`], [`brolly_core::Code::InvalidPlugin`],
    /// [`brolly_core::Code::SamplesFailed`] and what the catalog refuses.
    pub async fn upload(
        &self,
        plugin: &Name,
        wasm: Vec<u8>,
        signature: Option<&[u8]>,
    ) -> Result<Uploaded, Error> {
        // Whoever may not upload is not compiled for.
        if let Ok(entry) = self.get::<Plugin>(plugin) {
            entry.value.keys.signer(&wasm, signature)?;
        }
        let plugins = self.parts().plugins.clone();
        let (admission, wasm) =
            blocking("checking a plugin", move || plugins.admit(&wasm).map(|admission| (admission, wasm)))
                .await??;
        let samples = self.vet(plugin, admission.digest).await?;
        let known =
            self.get::<Plugin>(plugin).is_ok_and(|entry| entry.value.version(&admission.digest).is_some());
        let put =
            self.catalog().add_version(plugin, admission.clone(), (wasm, signature), self.author()).await?;
        let snapshot = self.catalog().snapshot();
        let users = snapshot.subscriptions.iter().filter(|(_, entry)| entry.value.uses(plugin));
        let users: Vec<(&Name, &Subscription)> = users.map(|(name, entry)| (name, &*entry.value)).collect();
        let (mut compared, mut needs) = (Vec::new(), Vec::new());
        for (name, subscription) in &users {
            let running = subscription.version.and_then(|version| put.entry.value.version(&version));
            let Some(running) = running else { continue };
            let is_new = |import: &&String| !running.admission.imports.contains(*import);
            let new: Vec<String> = admission.imports.iter().filter(is_new).cloned().collect();
            let words = in_words(&new, &subscription.grants);
            compared.push(((*name).clone(), running.admission.digest, new));
            if !words.is_empty() {
                needs.push(((*name).clone(), words));
            }
        }
        let denied = denied(&admission.imports, users.iter().map(|(_, subscription)| &subscription.grants));
        let signed_by =
            put.entry.value.version(&admission.digest).and_then(|version| version.signed_by.clone());
        Ok(Uploaded { compared, denied, needs, samples, admission, signed_by, created: !known })
    }

    /// Sets whose signatures further versions of a plugin need.
    ///
    /// # Errors
    /// What the catalog refuses.
    pub async fn set_keys(
        &self,
        plugin: &Name,
        keys: Keys,
        only_if: Precondition,
    ) -> Result<Entry<Plugin>, Error> {
        Ok(self.catalog().set_keys(plugin, keys, only_if, self.author()).await?.entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_grants_is_denied_and_said() {
        let imports: Vec<String> =
            ["wasi:clocks/wall-clock@0.2.0", "wasi:filesystem/types@0.2.0", "brolly:plugin/log@0.1.0"]
                .map(str::to_owned)
                .into();
        let check = |grants: &[Grants], expect: &[(&str, Option<&str>)]| {
            let found = denied(&imports, grants.iter());
            let found: Vec<_> = found.iter().map(|one| (one.interface.as_str(), one.grant)).collect();
            assert_eq!(found, expect);
        };
        let (clock, files) =
            (("wasi:clocks/wall-clock@0.2.0", Some("clock")), ("wasi:filesystem/types@0.2.0", None));
        let with_clock = Grants { clock: true, ..Grants::default() };
        check(&[], &[clock, files]);
        check(&[Grants::default()], &[clock, files]);
        check(&[Grants::default(), with_clock], &[files]);
        assert!(denied(&imports, [].iter())[0].meaning.contains("not granted (grants.clock)"));
    }

    #[test]
    fn what_is_new_is_said_once() {
        let new = ["wasi:clocks/wall-clock@0.2.0", "wasi:clocks/monotonic-clock@0.2.0", "wasi:io/poll@0.2.0"];
        let words = in_words(&new.map(str::to_owned), &Grants::default());
        assert_eq!(words.len(), 1, "{words:?}");
    }
}
