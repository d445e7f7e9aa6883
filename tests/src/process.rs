//! Servers of others as child processes: free ports for them, their end in every case, their output.
//!
//! Each runs in a process group of its own. A keeper ends them even when the test's process is
//! killed, or ends without dropping what is static.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::eventually;

/// Where ports are looked for: below those that the kernel gives to outgoing connections, so that
/// nothing takes a server's port while it is stopped.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port that nobody listens on, and that this process has not been given before.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..1_000)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| free(port) && given.insert(*port))
        .expect("a free port")
}

/// The first of these that is an executable file: in `folders`, then in the folders of `PATH`.
#[must_use]
pub fn find_program(name: &str, folders: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folders.iter().map(PathBuf::from).chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// A server that runs.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command in a process group of its own; what it prints goes to the file `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let output = File::create(log).expect("the log can be written");
        let errors = output.try_clone().expect("a file can be opened twice");
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// Waits until the log holds `text`; says what went wrong if the process ends before.
    pub(crate) async fn prints(&mut self, text: &str, limit: Duration) -> Result<(), String> {
        let what = format!("{text:?} in {}", self.log.display());
        eventually(&what, limit, || {
            // Ended first, then read: what it printed last must not be missed.
            let ended = self.ended();
            let printed = self.printed();
            let answer = match (printed.contains(text), ended) {
                (true, _) => Some(Ok(())),
                (false, true) => Some(Err(printed)),
                (false, false) => None,
            };
            std::future::ready(answer)
        })
        .await
    }

    /// Waits until the process accepts connections on a port of its own.
    pub(crate) async fn listens(&mut self, port: u16, limit: Duration) -> Result<(), String> {
        eventually(&format!("something listens on {port}"), limit, || {
            let answer = match (self.ended(), TcpStream::connect((Ipv4Addr::LOCALHOST, port))) {
                (true, _) => Some(Err(self.printed())),
                (false, Ok(_)) => Some(Ok(())),
                (false, Err(_)) => None,
            };
            std::future::ready(answer)
        })
        .await
    }

    fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Its process, which leads its group.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has an id")
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn terminate(mut self, limit: Duration) {
        if !self.ended() {
            // What was not waited for keeps its id, so this reaches no other; the same below.
            let _ = kill_process(self.pid(), Signal::TERM);
        }
        let what = format!("process {} ends", self.id());
        eventually(&what, limit, || std::future::ready(self.ended().then_some(()))).await;
    }
}

impl Drop for Process {
    /// Kills its group at once, and waits until the process is gone.
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Ends process groups, and removes a folder, when the process of the test is gone, however it went.
pub(crate) struct Keeper {
    shell: Child,
    groups: Option<ChildStdin>,
}

/// Each line that comes names all groups that run now; at the end, whoever stands on the last one is
/// killed. A process that dies may still write, so that a folder is not empty at once.
const KEEP: &str = r#"
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group"; done
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"#;

impl Keeper {
    /// Begins to watch over nothing but a folder.
    pub(crate) fn of(folder: &Path) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args([OsStr::new("-c"), OsStr::new(KEEP), OsStr::new("keeper"), folder.as_os_str()]);
        // A group of its own, and no output: it must outlive us, and nobody must wait for it to close.
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut shell = shell.spawn().expect("a shell can be started");
        let groups = shell.stdin.take();
        Self { shell, groups }
    }

    /// Watches over these processes and their groups, and no others any more.
    pub(crate) fn watch<'a>(&mut self, processes: impl IntoIterator<Item = &'a Process>) {
        let ids: Vec<String> = processes.into_iter().map(|process| process.id().to_string()).collect();
        let groups = self.groups.as_mut().expect("it is open until the end");
        writeln!(groups, "{}", ids.join(" ")).expect("the keeper reads");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Whoever drops a keeper has ended its processes; their ids may mean others by now.
        self.watch([]);
        self.groups.take();
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// What happens when the process of a test is killed: the pipe to the keeper closes.
    #[test]
    fn the_keeper_ends_what_nobody_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut sleeper = Process::start(Command::new("sleep").arg("1000"), &log);
        let mut keeper = Keeper::of(folder.path());
        keeper.watch([&sleeper]);
        drop(keeper.groups.take());
        assert!(keeper.shell.wait().unwrap().success());
        std::mem::forget(keeper);
        assert_eq!(sleeper.child.wait().unwrap().signal(), Some(9));
        assert!(!folder.path().exists());
    }

    #[test]
    fn a_keeper_that_is_dropped_kills_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let mut sleeper = Process::start(Command::new("sleep").arg("1000"), &folder.path().join("log"));
        let mut keeper = Keeper::of(folder.path());
        keeper.watch([&sleeper]);
        drop(keeper);
        assert!(!sleeper.ended());
    }
}
