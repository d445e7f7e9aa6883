//! The admin token that the first start makes, and the file that it lies in.
//!
//! The file is durable before the catalog learns the token's hash: a crash in between leaves a file
//! that the next start takes up, never an installation that nobody can enter.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::Context;
use brolly_catalog::{Catalog, Grant, Role, Token};
use brolly_core::Name;

const NAME: &str = "admin";

/// Makes the token if there is none at all; answers with it if so.
///
/// # Errors
/// When the file cannot be written, or the store fails.
pub async fn ensure(catalog: &Catalog, file: &Path) -> anyhow::Result<Option<String>> {
    if !catalog.snapshot().tokens.is_empty() {
        return Ok(None);
    }
    let secret = match left_behind(file)? {
        Some(secret) => secret,
        None => {
            let secret = Token::new_secret()?;
            write_synced(file, &secret).with_context(|| format!("writing {}", file.display()))?;
            secret
        }
    };
    catalog.adopt_token(&Name::new(NAME)?, Grant::of(Role::Admin), &secret, None).await?;
    Ok(Some(secret))
}

/// The token that an interrupted first start has written.
fn left_behind(file: &Path) -> anyhow::Result<Option<String>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let secret = text.trim();
    Ok(Token::is_secret(secret).then(|| secret.to_owned()))
}

/// Writes beside the target, with mode 0600 from the start, and renames: a crash leaves the whole
/// file or none.
fn write_synced(path: &Path, secret: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    use brolly_core::SystemClock;
    use brolly_store::{Config, Store};

    use super::*;

    fn open(dir: &Path) -> (Store, Catalog) {
        let store = Store::open(&Config::new(dir.join("store"))).unwrap();
        let catalog = Catalog::open(store.clone(), dir.join("plugins"), Arc::new(SystemClock)).unwrap();
        (store, catalog)
    }

    #[tokio::test]
    async fn made_once_and_taken_up_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admin.token");
        // As a crash between the file and the catalog leaves it.
        let interrupted = Token::new_secret().unwrap();
        write_synced(&file, &interrupted).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        let (store, catalog) = open(dir.path());
        assert_eq!(ensure(&catalog, &file).await.unwrap(), Some(interrupted.clone()));
        assert_eq!(ensure(&catalog, &file).await.unwrap(), None);
        store.close();
        drop((store, catalog));

        let (_store, catalog) = open(dir.path());
        assert_eq!(ensure(&catalog, &file).await.unwrap(), None);
        assert_eq!(catalog.authenticate(&interrupted).map(|(_, rights)| rights.role), Some(Role::Admin));
    }

    #[tokio::test]
    async fn a_file_that_holds_no_token_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admin.token");
        fs::write(&file, "brolly_12").unwrap();
        let (_store, catalog) = open(dir.path());
        let secret = ensure(&catalog, &file).await.unwrap().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap().trim(), secret);
        assert!(catalog.authenticate(&secret).is_some());
    }
}
