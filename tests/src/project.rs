//! Projects of handler teams, made and built by the real binary with the real cargo.

use std::{
    env,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    root,
    server::{Server, binary},
    skip,
};

/// Whether plugins can be built by `brolly build` here: it uses the compiler that is there, and installs
/// nothing. Notes it where they cannot.
///
/// # Panics
/// When there is no compiler.
pub fn can_be_built(test: &str) -> bool {
    let mut asked = Command::new("rustc");
    asked.args(["--print", "target-libdir", "--target", "wasm32-unknown-unknown"]);
    let output = asked.output().expect("a compiler built this test");
    let folder = String::from_utf8(output.stdout).expect("a path");
    let there = Path::new(folder.trim()).is_dir();
    if !there {
        skip(test, "the compiler has no standard library for wasm32-unknown-unknown");
    }
    there
}

/// A command in a folder: `brolly` is the binary under test, which finds the server, if there is one,
/// through the environment. Nothing is fetched; what cargo builds is shared between tests.
///
/// # Panics
/// When the path of the binary has a colon.
#[must_use]
pub fn command(program: &str, folder: &Path, server: Option<&Server>) -> Command {
    let mut path = vec![binary().parent().expect("a folder").to_owned()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env("PATH", env::join_paths(path).expect("folders without a colon"))
        .env("CARGO_TARGET_DIR", root().join("target/handlers"))
        .env("CARGO_NET_OFFLINE", "true")
        .stdin(Stdio::null());
    // What cargo tells a test of its own package is not meant for others.
    for name in ["RUSTFLAGS", "CARGO_MANIFEST_DIR", "BROLLY_URL", "BROLLY_TOKEN", "BROLLY_DATA_DIR"] {
        command.env_remove(name);
    }
    if let Some(server) = server {
        command.env("BROLLY_URL", &server.url).env("BROLLY_TOKEN", &server.token);
    }
    command
}

/// Runs a command to its end: standard output and error.
///
/// # Panics
/// When it cannot be started or ends with another code.
pub fn ended(mut command: Command, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it can be started");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    let (out, err) = (text(stdout), text(stderr));
    assert_eq!(status.code(), Some(code), "{command:?}\n{out}\n{err}");
    (out, err)
}

/// Runs `brolly` with these arguments.
///
/// # Panics
/// As [`ended`].
pub fn brolly(folder: &Path, server: Option<&Server>, arguments: &[&str], code: i32) -> (String, String) {
    let mut command = command("brolly", folder, server);
    command.args(arguments);
    ended(command, code)
}

/// Replaces a part of a file, which must be there.
///
/// # Panics
/// When it is not.
pub fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).expect("a file");
    assert!(text.contains(from), "{from:?} is not in {}", file.display());
    std::fs::write(file, text.replace(from, to)).expect("it can be written");
}
