//! Notices that something changed in a project. Knows folders; knows nothing of builds.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// How long it must be quiet before a change is told: an editor or `git checkout` writes many files.
const QUIET: Duration = Duration::from_millis(150);
/// How long it is waited for quiet at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// Folders of a project that are made, not written.
const MADE: [&str; 2] = ["target", "brolly-data"];

/// The changes of a project.
pub struct Changes {
    told: mpsc::Receiver<notify::Result<()>>,
    /// Watches until it is dropped.
    _watcher: RecommendedWatcher,
}

impl Changes {
    /// Watches a project's folder.
    ///
    /// # Errors
    /// When the system cannot watch it.
    pub fn of(dir: &Path) -> anyhow::Result<Self> {
        // One change that waits stands for all that came before it is looked at.
        let (tell, told) = mpsc::channel(1);
        let root = dir.to_owned();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let change = match event {
                Ok(event)
                    if is_change(&event.kind) && event.paths.iter().any(|path| is_source(&root, path)) =>
                {
                    Ok(())
                }
                Ok(_) => return,
                Err(error) => Err(error),
            };
            // A channel that is full has told already, and after one that is closed nobody asks.
            let _ = tell.try_send(change);
        })
        .context("watching files")?;
        for (folder, depth) in folders(dir)? {
            watcher.watch(&folder, depth).with_context(|| format!("watching {}", folder.display()))?;
        }
        Ok(Self { told, _watcher: watcher })
    }

    /// Waits for the next change, and until it is quiet after it.
    ///
    /// # Errors
    /// When the system watches no more.
    pub async fn next(&mut self) -> anyhow::Result<()> {
        let Some(change) = self.told.recv().await else { bail!("the sources are not watched any more") };
        change.context("watching the sources")?;
        let settled = async {
            while tokio::time::timeout(QUIET, self.told.recv()).await.is_ok_and(|more| more.is_some()) {}
        };
        // Whoever writes on and on is not waited for.
        let _ = tokio::time::timeout(PATIENCE, settled).await;
        Ok(())
    }
}

/// The project's folder and what is below it, without what is made there: a build writes thousands of
/// files.
fn folders(dir: &Path) -> anyhow::Result<Vec<(PathBuf, RecursiveMode)>> {
    let mut folders = vec![(dir.to_owned(), RecursiveMode::NonRecursive)];
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && is_source(dir, &path) {
            folders.push((path, RecursiveMode::Recursive));
        }
    }
    Ok(folders)
}

fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Any => true,
        EventKind::Access(_) | EventKind::Other => false,
    }
}

/// Whether a path is something that somebody writes: not made by a build, not hidden.
fn is_source(root: &Path, path: &Path) -> bool {
    let Ok(inner) = path.strip_prefix(root) else { return false };
    let mut parts = inner.iter().map(|part| part.to_string_lossy());
    let first = parts.clone().next();
    first.is_some_and(|first| !MADE.contains(&&*first)) && parts.all(|part| !part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_or_hidden_is_no_source() {
        let check = |path: &str, expect| {
            assert_eq!(is_source(Path::new("/p"), Path::new(path)), expect, "{path}");
        };
        check("/p/src/lib.rs", true);
        check("/p/Cargo.toml", true);
        check("/p/samples.toml", true);
        check("/p/brolly-plugin/src/target/x.rs", true);
        check("/p/target/debug/x.rs", false);
        check("/p/brolly-data/db", false);
        check("/p/.git/index", false);
        check("/p/src/.lib.rs.swp", false);
        check("/p", false);
        check("/elsewhere/src/lib.rs", false);
    }

    #[tokio::test]
    async fn many_changes_at_once_are_told_once_and_builds_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["src/inner", "target"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let mut changes = Changes::of(&root).unwrap();
        for number in 0..20 {
            fs::write(root.join(format!("src/inner/{number}.rs")), "x").unwrap();
        }
        tokio::time::timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
        fs::write(root.join("target/made.rs"), "x").unwrap();
        fs::write(root.join("src/.hidden"), "x").unwrap();
        let more = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
        assert!(more.is_err(), "a change was told that is none");
        fs::write(root.join("samples.toml"), "x").unwrap();
        tokio::time::timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
    }
}
