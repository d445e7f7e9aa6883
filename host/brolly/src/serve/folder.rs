//! The data directory: made so that nobody but its owner can look into it.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, bail};

/// Makes the data directory, and the folders in it, with mode 0700.
///
/// # Errors
/// When it cannot be made, or when others may write into a directory that holds something already:
/// compiled plugins in it are run as machine code.
pub fn prepare(dir: &Path, inner: &[&Path]) -> anyhow::Result<()> {
    let shown = dir.display();
    if dir.exists() {
        let mode = fs::metadata(dir).with_context(|| format!("looking at {shown}"))?.permissions().mode();
        let empty = fs::read_dir(dir).with_context(|| format!("reading {shown}"))?.next().is_none();
        if mode & 0o077 != 0 && empty {
            fs::set_permissions(dir, Permissions::from_mode(0o700))
                .with_context(|| format!("setting the mode of {shown}"))?;
        } else if mode & 0o022 != 0 {
            bail!("other users may write into {shown}, and would run code as this one; chmod go-rwx {shown}");
        } else if mode & 0o055 != 0 {
            tracing::warn!(dir = %shown, "other users may read the data directory; chmod go-rwx mends it");
        }
    } else {
        make(dir)?;
        // So that a power cut right after the first start does not take the directory away.
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|parent| parent.sync_all())
            .with_context(|| format!("making {shown} durable"))?;
    }
    inner.iter().try_for_each(|folder| make(folder))
}

fn make(dir: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("making the folder {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(dir: &Path) -> u32 {
        fs::metadata(dir).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn new_and_empty_directories_become_private_and_open_ones_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let new = root.path().join("a/b");
        prepare(&new, &[&new.join("cache")]).unwrap();
        assert_eq!((mode(&new), mode(&new.join("cache"))), (0o700, 0o700));

        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        fs::set_permissions(&empty, Permissions::from_mode(0o777)).unwrap();
        prepare(&empty, &[]).unwrap();
        assert_eq!(mode(&empty), 0o700);

        fs::write(empty.join("file"), "").unwrap();
        fs::set_permissions(&empty, Permissions::from_mode(0o755)).unwrap();
        prepare(&empty, &[]).unwrap();
        fs::set_permissions(&empty, Permissions::from_mode(0o775)).unwrap();
        assert!(prepare(&empty, &[]).unwrap_err().to_string().contains("chmod"));
        assert_eq!(mode(&empty), 0o775);
    }
}
