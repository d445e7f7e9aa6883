//! A disk that loses power, with a file system of the kernel on it: what was not synced is lost, torn and reordered.
//!
//! ```text
//! ext4 or xfs, mounted on FOLDER/data      what a test gives to the process under test
//! a loop device
//! FOLDER/disk/image                        a file in user space (`fuse`), which holds writes in memory until a sync
//! FOLDER/image                             what is on the disk (`platter`)
//! ```
//!
//! It needs root, `/dev/fuse` and loop devices; [`Disk::available`] tells what is missing.

mod fuse;
mod platter;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tempfile::TempDir;

pub use self::platter::Cut;
use self::platter::Platter;
use crate::{eventually, process::find_program, within};

/// Room for what a test writes and for the free disk that a host asks for: 2 GiB, of which the image takes what is
/// written.
const BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// How long the kernel may take to let go of a mount.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a power cut waits for writes to be in the middle of.
const SOON: Duration = Duration::from_millis(300);

/// Where programs for file systems lie that is not in everybody's `PATH`.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The capability that mounting needs, `CAP_SYS_ADMIN`, as a bit of `CapEff` in `/proc/self/status`.
const MAY_MOUNT: u64 = 1 << 21;

/// A file system of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 as Debian makes it.
    Ext4,
    /// XFS as Debian makes it.
    Xfs,
}

impl FileSystem {
    /// Its name, as `mount` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The command that makes one, without the file.
    fn make(self) -> (&'static str, &'static [&'static str]) {
        match self {
            // Nothing that the kernel would go on writing in the background.
            Self::Ext4 => {
                ("mkfs.ext4", &["-q", "-F", "-N", "8192", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            }
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
        }
    }
}

/// A disk with a file system that is mounted.
pub struct Disk {
    kind: FileSystem,
    platter: Arc<Mutex<Platter>>,
    // Dropped in this order.
    session: Option<fuser::BackgroundSession>,
    keeper: Keeper,
    folder: TempDir,
}

impl Disk {
    /// Whether there can be one with this file system here, and if not, why.
    ///
    /// # Errors
    /// What is missing.
    pub fn available(kind: FileSystem) -> Result<(), String> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let rights = rights.and_then(|rights| u64::from_str_radix(rights.trim(), 16).ok()).unwrap_or(0);
        if rights & MAY_MOUNT == 0 {
            return Err("to mount a file system takes root".to_owned());
        }
        for device in ["/dev/fuse", "/dev/loop-control"] {
            let opened = OpenOptions::new().read(true).write(true).open(device);
            opened.map_err(|error| format!("{device} cannot be used: {error}"))?;
        }
        for program in [kind.make().0, "mount", "umount", "losetup"] {
            find_program(program, &FOLDERS).ok_or_else(|| format!("{program} is not installed"))?;
        }
        Ok(())
    }

    /// Makes a disk with an empty file system, and mounts it.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn start(kind: FileSystem) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("image");
        let image = File::create_new(&path).expect("an image");
        image.set_len(BYTES).expect("a sparse image");
        let (program, arguments) = kind.make();
        run(program, |make| make.args(arguments).arg(&path)).expect("a file system");
        let image = OpenOptions::new().read(true).write(true).open(&path).expect("the image");
        let platter = Arc::new(Mutex::new(Platter::new(image).expect("the image")));
        for mount in ["disk", "data"] {
            fs::create_dir(folder.path().join(mount)).expect("a folder");
        }
        let keeper = Keeper::of(folder.path());
        let mut disk = Self { kind, platter, session: None, keeper, folder };
        disk.mount().expect("it can be mounted");
        disk
    }

    /// Where the file system is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Ends the power in the middle of what is written, in the write after so many others, or soon when nobody writes: of
    /// each sector that was not synced, with this chance one of the states that it had since the last sync is on the
    /// disk. Whatever is asked of the disk from then on fails.
    ///
    /// # Panics
    /// When the image cannot be written.
    pub async fn cut(&self, writes: u32, chance: f64) -> Cut {
        self.platter.lock().arm(writes, chance);
        let cut = within(SOON, || async { self.platter.lock().was_cut() }).await;
        let mut platter = self.platter.lock();
        let cut = cut.or_else(|| platter.was_cut());
        cut.unwrap_or_else(|| platter.cut(chance).expect("the image can be written"))
    }

    /// Has the power on again, and mounts what is on the disk. Nobody may use the file system any more.
    ///
    /// # Panics
    /// When it cannot be unmounted or mounted.
    pub async fn power_on(&mut self) {
        self.unmount().await;
        self.platter.lock().power_on();
        self.mount().expect("the journal can be played back");
    }

    fn mount(&mut self) -> io::Result<()> {
        let disk = self.folder.path().join("disk");
        let image = fuse::Image(Arc::clone(&self.platter));
        self.session = Some(fuser::spawn_mount(image, &disk, &fuser::Config::default())?);
        // The loop device goes with the mount.
        run("mount", |mount| {
            mount.args(["-t", self.kind.name(), "-o", "loop"]).arg(disk.join(fuse::IMAGE)).arg(self.path())
        })
    }

    async fn unmount(&mut self) {
        let path = self.path();
        // A process that was killed may hold it for a moment.
        eventually("the file system is unmounted", PATIENCE, || async {
            run("umount", |umount| umount.arg(&path)).ok()
        })
        .await;
        let session = self.session.take().expect("it is mounted");
        // The loop device holds the image until it is gone.
        let unmounted = tokio::task::spawn_blocking(|| session.umount_and_join());
        unmounted.await.expect("it ends").expect("the image is let go of");
    }
}

impl Drop for Disk {
    /// Whoever still uses the file system gets errors, and it goes when they are gone.
    fn drop(&mut self) {
        let _ = self.platter.lock().cut(0.0);
        self.keeper.end();
    }
}

fn run(program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) -> io::Result<()> {
    let found = find_program(program, &FOLDERS).ok_or_else(|| io::Error::other(format!("no {program}")))?;
    let output = arguments(&mut Command::new(found)).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr))))
}

/// Unmounts when the process of the test is gone, however it went.
struct Keeper {
    shell: Child,
    open: Option<ChildStdin>,
}

/// Removes no folder that holds anything: a mount may still be there.
const KEEP: &str = r#"
cat > /dev/null
umount -l "$1/data"
umount -l "$1/disk"
rm -f "$1/image"
rmdir "$1/data" "$1/disk" "$1"
"#;

impl Keeper {
    fn of(folder: &Path) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", KEEP, "keeper"]).arg(folder);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut shell = shell.spawn().expect("a shell can be started");
        let open = shell.stdin.take();
        Self { shell, open }
    }

    fn end(&mut self) {
        self.open.take();
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::skip;

    /// The disk is honest: what a program synced is there, and what it did not is lost, or there in part.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_synced_is_lost_in_a_power_cut() {
        for kind in [FileSystem::Ext4, FileSystem::Xfs] {
            if let Err(why) = Disk::available(kind) {
                skip(&format!("a disk with {} that loses power", kind.name()), &why);
                continue;
            }
            let mut disk = Disk::start(kind);
            let path = disk.path();
            let write = |name: &str| {
                let mut file = File::create(path.join(name)).unwrap();
                file.write_all(&[7; 100_000]).unwrap();
                file
            };
            write("synced").sync_all().unwrap();
            File::open(&path).unwrap().sync_all().unwrap();
            // Overwritten in place, half of it synced.
            let place = OpenOptions::new().write(true).open(path.join("synced")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&place, &[8; 4_096], 0).unwrap();
            place.sync_data().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&place, &[9; 4_096], 4_096).unwrap();
            drop(place);
            drop(write("lost"));
            assert_eq!(fs::read(path.join("lost")).unwrap(), [7; 100_000], "until then it is there");
            // Nobody writes any more, so nothing is written back meanwhile.
            assert!(disk.cut(1_000, 0.0).await.kept == 0);
            assert!(File::create(path.join("late")).and_then(|file| file.sync_all()).is_err(), "no power");
            disk.power_on().await;
            let kept = fs::read(path.join("synced")).unwrap();
            assert_eq!((kept.len(), kept[0], kept[4_096], kept[99_999]), (100_000, 8, 7, 7), "{kind:?}");
            assert!(!path.join("lost").exists(), "{kind:?}");
        }
    }
}
