//! A copy of the whole data directory while the host runs: rows, payloads and plugins as of one moment.
//! Called by the admin. To restore it is to start a host on it.

use std::{fs, path::PathBuf, time::Instant};

use brolly_catalog::Action;
use brolly_core::{Code, Name, Refusal, whole_ms};
use brolly_ledger::BackedUp;
use serde_json::json;

use crate::{Error, Handle, handle::blocking};

/// What the name of a copy that is not whole ends with.
const UNFINISHED: &str = "unfinished";

/// A copy that was made.
#[derive(Clone, Debug)]
pub struct BackupMade {
    /// Its name.
    pub name: Name,
    /// Where it lies: a data directory.
    pub dir: PathBuf,
    /// How much was copied.
    pub copied: BackedUp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl Handle {
    /// Copies the data directory, consistent as of one moment, while everything goes on.
    ///
    /// # Errors
    /// [`Code::Unsupported`] where no folder for backups is set; [`Code::Unavailable`] while another one is
    /// made, or there is too little free space; a failing disk.
    pub async fn back_up(&self) -> Result<BackupMade, Error> {
        let began = Instant::now();
        let Some(backups) = self.config().backups.clone() else {
            return Err(Refusal::new(Code::Unsupported, "this host has no folder for backups").into());
        };
        // In the order of time, and readable as a file.
        let name = Name::new(&format!("backup-{}", self.now().0))?;
        self.catalog().record(self.author(), Action::Backup, "backup", &name, json!({})).await?;
        let dir = backups.join(name.as_str());
        let unfinished = dir.with_extension(UNFINISHED);
        let copied = self.copy_to(unfinished.clone()).await;
        if copied.is_err() {
            let left = unfinished.clone();
            let removed = blocking("removing what is left of a backup", move || fs::remove_dir_all(left));
            if let Err(error) = removed.await? {
                tracing::warn!(dir = %unfinished.display(), %error, "a backup that is not whole could not be removed");
            }
        }
        let copied = copied?;
        let (from, to) = (unfinished, dir.clone());
        blocking("naming a backup", move || fs::rename(from, to)).await?.map_err(|source| {
            brolly_catalog::Error::File { operation: "name the backup", path: dir.clone(), source }
        })?;
        let took_ms = whole_ms(began.elapsed());
        tracing::info!(backup = %dir.display(), rows = copied.rows, took_ms, "a backup was made");
        Ok(BackupMade { name, dir, copied, took_ms })
    }

    async fn copy_to(&self, dir: PathBuf) -> Result<BackedUp, Error> {
        let (ledger, store) = (self.parts().ledger.clone(), dir.join("store"));
        let backup = blocking("copying the store", move || ledger.back_up(store)).await??;
        let finish = move || backup.finish().map_err(|error| Error::from(brolly_ledger::Error::from(error)));
        self.catalog().copy_plugins(dir.join("plugins"), finish).await
    }
}
