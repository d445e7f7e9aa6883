//! A handler team's first hour: from an empty folder to a handler that runs, and that is swapped while
//! it runs.

use std::{fs, path::Path, process::Stdio, time::Duration};

use brolly_tests::{
    project::{brolly, can_be_built, command, edit, ended},
    server::Server,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::Command,
};

/// Building a project the first time compiles what the SDK depends on.
const BUILD: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn from_an_empty_folder_to_a_handler_that_is_swapped_while_it_runs() {
    if !can_be_built("a project from an empty folder") {
        return;
    }
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path()).await;
    let project = made_and_tested(dir.path(), "first-hour");

    let (said, _) = brolly(&project, Some(&server), &["apply", "brolly.toml", "--yes"], 0);
    assert!(said.ends_with("6 changes made\n"), "{said}");
    publish(&project, &server, "o1", "0001", 2_933);
    server.idle(&["first-hour"]).await;
    let (story, _) = brolly(&project, Some(&server), &["trace", "o1"], 0);
    for line in
        ["first-hour: acked", "info  order number 1 of customer 0001", "-> welcome-o1 in first-hour.out"]
    {
        assert!(story.contains(line), "{line} in {story}");
    }
    swapped_while_it_runs(&project, &server).await;
    assert_eq!(server.terminate().await, Some(0));
}

/// A new project, tested natively and as a plugin.
fn made_and_tested(dir: &Path, name: &str) -> std::path::PathBuf {
    brolly(dir, None, &["new", name], 0);
    let (_, why) = brolly(dir, None, &["new", name], 2);
    assert!(why.contains("exists already"), "{why}");
    let project = dir.join(name);
    let mut native = command("cargo", &project, None);
    native.arg("test");
    let (told, _) = ended(native, 0);
    assert!(told.contains("2 passed; 0 failed"), "{told}");
    assert_eq!(locked(&project), locked_before_a_build(dir), "a build takes the versions that were tested");

    let (built, _) = brolly(&project, None, &["build"], 0);
    let version = built.lines().next().unwrap();
    assert!(version.starts_with("sha256:") && built.contains("imports: config"), "{built}");
    let (again, _) = brolly(&project, None, &["build"], 0);
    assert_eq!(again.lines().next(), Some(version), "equal sources give an equal version");
    let (tested, _) = brolly(&project, None, &["test"], 0);
    assert!(tested.ends_with("3 passed, 0 failed\n"), "{tested}");

    let samples = project.join("samples.toml");
    edit(&samples, "\"orders/0001\" = 2", "\"orders/0001\" = 3");
    let (differs, why) = brolly(&project, None, &["test"], 1);
    for line in [
        "FAIL  the second one is counted  (samples.toml:",
        "- state orders/0001: 3",
        "+ state orders/0001: 2",
        "log info: order number 2",
    ] {
        assert!(differs.contains(line), "{line} in {differs}");
    }
    assert!(why.contains("1 of 3 samples differ"), "{why}");
    edit(&samples, "expect.outcome = \"reject\"", "expect.outcme = 5\nexpect.published = 1");
    let (_, mistakes) = brolly(&project, None, &["test"], 2);
    let places = mistakes.lines().filter(|line| line.starts_with("samples.toml:")).count();
    assert_eq!(places, 3, "unknown field, missing outcome, no list: {mistakes}");
    edit(&samples, "expect.outcme = 5\nexpect.published = 1", "expect.outcome = \"reject\"");
    edit(&samples, "\"orders/0001\" = 3", "\"orders/0001\" = 2");
    project
}

/// Name and version of every package that the project's lock file has.
fn locked(project: &Path) -> Vec<String> {
    let text = fs::read_to_string(project.join("Cargo.lock")).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("name = ") || line.starts_with("version = "));
    lines.map(str::to_owned).collect()
}

fn locked_before_a_build(dir: &Path) -> Vec<String> {
    let other = dir.join("other");
    fs::create_dir(&other).unwrap();
    brolly(&other, None, &["new", "first-hour"], 0);
    locked(&other.join("first-hour"))
}

fn publish(project: &Path, server: &Server, id: &str, customer: &str, cents: i64) {
    let order = format!("{{\"order_id\":\"{id}\",\"customer_id\":\"{customer}\",\"amount_cents\":{cents}}}");
    brolly(project, Some(server), &["publish", "first-hour.in", "--id", id, &order], 0);
}

/// `brolly dev` with an edit that works, one whose samples fail, and one that is no Rust.
async fn swapped_while_it_runs(project: &Path, server: &Server) {
    let mut dev = Command::from(command("brolly", project, Some(server)));
    dev.arg("dev").stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut dev = dev.spawn().unwrap();
    let mut out = BufReader::new(dev.stdout.take().unwrap()).lines();
    let mut err = BufReader::new(dev.stderr.take().unwrap()).lines();
    let first = line(&mut out, "first-hour runs sha256:").await;
    line(&mut out, "watching").await;

    let source = project.join("src/lib.rs");
    edit(&source, "order number {orders}", "purchase number {orders}");
    let second = line(&mut out, "first-hour runs sha256:").await;
    let version = |line: &str| line.split_whitespace().nth(2).unwrap()[..19].to_owned();
    assert_ne!(version(&first), version(&second));
    publish(project, server, "o2", "0001", 100);
    let handled = line(&mut out, "  o2  #1 ack  ").await;
    assert!(handled.ends_with(&version(&second)), "{handled} by {second}");
    line(&mut out, "info  purchase number 2 of customer 0001").await;

    edit(&source, "*orders += 1,", "*orders += 2,");
    line(&mut out, "+ state orders/0001: 4").await;
    line(&mut err, "brolly: not swapped in: 2 of 3 samples differ").await;
    edit(&source, "*orders += 2,", "*orders += ,");
    line(&mut err, "brolly: not swapped in: the plugin first-hour cannot be built").await;
    publish(project, server, "o3", "0001", 0);
    let handled = line(&mut out, "  o3  #1 reject  ").await;
    assert!(handled.ends_with(&version(&second)), "{handled} by {second}");
    line(&mut out, "the amount is not positive").await;
    line(&mut out, "it is a dead letter now").await;
    dev.kill().await.unwrap();
}

/// The next line that contains this.
async fn line(lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>, part: &str) -> String {
    let found = async {
        loop {
            let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("it ended before {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    };
    tokio::time::timeout(BUILD, found).await.unwrap_or_else(|_| panic!("{part:?} does not come"))
}

#[test]
fn what_is_missing_is_named_with_the_command_that_brings_it() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let (_, why) = brolly(dir.path(), None, &["build"], 2);
    assert!(why.contains("`brolly new NAME`"), "{why}");
    brolly(dir.path(), None, &["new", "untargeted"], 0);
    let project = dir.path().join("untargeted");
    // A compiler without the library for WebAssembly.
    let rustc = dir.path().join("rustc");
    let script = "#!/bin/sh\ncase \"$*\" in *target-libdir*) echo /nowhere;; *) exec rustc \"$@\";; esac\n";
    fs::write(&rustc, script).unwrap();
    fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
    let mut build = command("brolly", &project, None);
    build.arg("build").env("RUSTC", &rustc);
    let (_, why) = ended(build, 1);
    assert!(why.contains("rustup target add wasm32-unknown-unknown"), "{why}");
    assert!(!project.join("target").exists(), "nothing was built");

    edit(&project.join("Cargo.toml"), "\"cdylib\", ", "");
    let (_, why) = brolly(&project, None, &["build"], 2);
    assert!(why.contains("crate-type"), "{why}");
    let mut nothing = command(brolly_tests::server::binary().to_str().unwrap(), &project, None);
    nothing.arg("build").env("PATH", "/nowhere");
    let (_, why) = ended(nothing, 1);
    assert!(why.contains("https://rustup.rs"), "{why}");
}
