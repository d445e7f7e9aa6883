//! Keeps captures in files, so that yesterday's failure is there after tonight's restart. Called by the
//! supervisor; knows nothing of attempts.
//!
//! ```text
//! SUBSCRIPTION/NUMBER.json    one capture; the higher the number, the later
//! ```
//!
//! What recorders keep is written now and then, never beside an attempt: what failed in the last seconds
//! before a crash is lost, and so are files that it cut off.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use brolly_core::Name;

use crate::{Capture, Recorders};

const ENDING: &str = ".json";
/// A capture that is being written.
const UNFINISHED: &str = "unfinished";

/// A folder of captures.
pub struct Archive {
    dir: PathBuf,
    /// The numbers of the captures that have a file.
    written: BTreeMap<Name, BTreeSet<u64>>,
}

impl Archive {
    /// Opens a folder, created with mode 0700 if it is missing, and gives what it holds of subscriptions that
    /// are known to their recorders. Captures that are damaged, or nobody's, are removed; other files are left
    /// alone. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be read or changed.
    pub fn open(dir: PathBuf, recorders: &Recorders, is_known: impl Fn(&Name) -> bool) -> io::Result<Self> {
        create(&dir)?;
        let mut written: BTreeMap<Name, BTreeSet<u64>> = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| Name::new(name.to_str()?).ok());
            let Some(name) = name.filter(|_| path.is_dir()) else { continue };
            if !is_known(&name) {
                clear(&path)?;
                continue;
            }
            let recorder = recorders.of(&name);
            let mut numbers = BTreeSet::new();
            for (number, file) in files(&path)? {
                match Capture::from_json(&fs::read(&file)?) {
                    Ok(capture) => {
                        recorder.restore(number, capture);
                        numbers.insert(number);
                    }
                    // Cut off, or of a version to come.
                    Err(_) => remove(&file)?,
                }
            }
            written.insert(name, numbers);
        }
        Ok(Self { dir, written })
    }

    /// Writes what recorders keep and has no file, and removes the files of what they keep no more. Blocks.
    ///
    /// # Errors
    /// When a file cannot be written or removed; the next call tries again.
    pub fn save(&mut self, recorders: &Recorders) -> io::Result<()> {
        let kept: BTreeMap<Name, _> = recorders.kept().into_iter().collect();
        for name in self.written.keys().filter(|name| !kept.contains_key(*name)).cloned().collect::<Vec<_>>()
        {
            clear(&self.dir.join(name.as_str()))?;
            self.written.remove(&name);
        }
        for (name, captures) in kept {
            let folder = self.dir.join(name.as_str());
            let written = self.written.entry(name).or_default();
            let gone = |number: &u64| !captures.iter().any(|(kept, _)| kept == number);
            for number in written.iter().copied().filter(gone).collect::<Vec<_>>() {
                remove(&file(&folder, number))?;
                written.remove(&number);
            }
            for (number, capture) in captures {
                if written.contains(&number) {
                    continue;
                }
                create(&folder)?;
                // Under another name first: a file that is cut off is never taken for a capture.
                let (unfinished, finished) = (folder.join(UNFINISHED), file(&folder, number));
                fs::write(&unfinished, serde_json::to_vec(&*capture)?)?;
                fs::rename(unfinished, finished)?;
                written.insert(number);
            }
        }
        Ok(())
    }
}

fn file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}{ENDING}"))
}

/// The captures of a folder, the oldest first.
fn files(folder: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(ENDING)).and_then(|number| number.parse().ok());
        if let Some(number) = number.filter(|number| path == file(folder, *number)) {
            found.insert(number, path);
        }
    }
    Ok(found)
}

/// Removes the captures of a folder, and the folder if nothing else lies in it.
fn clear(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for path in files(folder)?.values() {
        remove(path)?;
    }
    remove(&folder.join(UNFINISHED))?;
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::{
        MAX_CAPTURES,
        tests::{Rig, fail},
    };

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn opened(dir: &Path, known: &[&str]) -> (Recorders, Archive) {
        let recorders = Recorders::default();
        let is_known = |name: &Name| known.contains(&name.as_str());
        let archive = Archive::open(dir.join("captures"), &recorders, is_known).unwrap();
        (recorders, archive)
    }

    fn count(dir: &Path, subscription: &str) -> usize {
        fs::read_dir(dir.join("captures").join(subscription)).map_or(0, Iterator::count)
    }

    #[test]
    fn captures_outlive_their_recorders_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (recorders, mut archive) = opened(dir, &[]);
        let rig = Rig::new(&recorders, "s");
        for number in 0..=MAX_CAPTURES {
            fail(&rig, &number.to_string());
            if number % 40 == 0 {
                archive.save(&recorders).unwrap();
            }
        }
        archive.save(&recorders).unwrap();
        assert_eq!(count(dir, "s"), MAX_CAPTURES);
        let before = rig.recorder.captures(true, 1_000).captures;

        let (recorders, mut archive) = opened(dir, &["s"]);
        let rig = Rig::new(&recorders, "s");
        assert_eq!(rig.recorder.captures(true, 1_000).captures, before);
        // What comes is the newest, and makes the oldest go.
        fail(&rig, "after");
        archive.save(&recorders).unwrap();
        assert_eq!(count(dir, "s"), MAX_CAPTURES);
        let (recorders, _) = opened(dir, &["s"]);
        let ids = Rig::new(&recorders, "s").ids(true, 1_000);
        assert_eq!((ids[0].as_str(), ids[1].as_str(), ids[MAX_CAPTURES - 1].as_str()), ("after", "100", "2"));
    }

    #[test]
    fn what_is_damaged_or_nobodys_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (recorders, mut archive) = opened(dir, &[]);
        let (kept, gone) = (Rig::new(&recorders, "kept"), Rig::new(&recorders, "gone"));
        fail(&kept, "whole");
        fail(&kept, "cut-off");
        fail(&gone, "m");
        archive.save(&recorders).unwrap();
        recorders.forget(&name("gone"));
        archive.save(&recorders).unwrap();
        assert!(!dir.join("captures/gone").exists());

        let path = file(&dir.join("captures/kept"), 1);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        fs::create_dir(dir.join("captures/unknown")).unwrap();
        fs::copy(file(&dir.join("captures/kept"), 0), file(&dir.join("captures/unknown"), 0)).unwrap();
        fs::write(dir.join("captures/mine.json"), "{}").unwrap();
        let (recorders, _) = opened(dir, &["kept"]);
        assert_eq!(Rig::new(&recorders, "kept").ids(true, 9), ["whole"]);
        assert_eq!((count(dir, "kept"), dir.join("captures/unknown").exists()), (1, false));
        assert!(dir.join("captures/mine.json").exists(), "what somebody else has put there is left alone");
    }
}
