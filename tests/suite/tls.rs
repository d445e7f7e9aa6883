//! HTTPS: the real binary with a certificate, and the commands that trust it.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use brolly_tests::{
    certificates,
    server::{PATIENCE, Server, binary},
};
use serde_json::json;
use tokio::process::Command;

/// Runs the binary to its end; answers with its code and what it wrote.
async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends");
    let Output { status, stdout, stderr } = ended.expect("it can be started");
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_trust_the_authority_they_are_given() {
    let dir = tempfile::tempdir().unwrap();
    certificates::write(dir.path());
    let document = dir.path().join("document.toml");
    std::fs::write(&document, "[topics]\nt = {}\n").unwrap();
    let data = dir.path().join("data");
    let server = Server::start_with_tls(&data, dir.path(), &["--apply", text(&document)]).await;
    assert!(server.url.starts_with("https://"), "{}", server.url);
    brolly_tests::eventually("the document is applied over TLS", PATIENCE, || async {
        let topics = server.get("/topics").await;
        (topics["items"][0]["name"] == "t").then_some(())
    })
    .await;

    let environment = [("BROLLY_URL", &*server.url), ("BROLLY_TOKEN", &*server.token)];
    let ca = dir.path().join("ca.pem");
    let (code, out) = run(&["publish", "t", "--ca", text(&ca), "--id", "m1", "{}"], &environment).await;
    assert_eq!(code, Some(0), "{out}");
    let by_environment = [environment[0], environment[1], ("BROLLY_CA", text(&ca))];
    let (code, out) = run(&["trace", "m1", "--json"], &by_environment).await;
    assert_eq!(code, Some(0), "{out}");
    let (code, out) = run(&["status"], &environment).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("certificate"), "{out}");
    let (code, out) = run(&["status", "--ca", text(&document)], &environment).await;
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("--ca"), "{out}");

    // Another authority than the one that vouches for the server.
    let others = tempfile::tempdir().unwrap();
    certificates::write(others.path());
    let (code, _) = run(&["status", "--ca", text(&others.path().join("ca.pem"))], &environment).await;
    assert_eq!(code, Some(1));

    let session = server.request(reqwest::Method::POST, "/session").json(&json!({"token": server.token}));
    let cookie = session.send().await.unwrap();
    let headers = cookie.headers();
    assert!(headers["set-cookie"].to_str().unwrap().ends_with("; Secure"), "{headers:?}");
    assert!(headers.contains_key("strict-transport-security"), "{headers:?}");
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_files_that_are_no_good_says_which() {
    let dir = tempfile::tempdir().unwrap();
    certificates::write(dir.path());
    let data = dir.path().join("data");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&data)];
    let (cert, key, ca) =
        (dir.path().join("server.pem"), dir.path().join("server.key"), dir.path().join("ca.pem"));
    let missing = dir.path().join("missing.pem");
    for (cert, key, code, expect) in [
        (text(&missing), text(&key), 1, "missing.pem"),
        (text(&ca), text(&key), 1, "it cannot be used with the certificate in"),
        (text(&key), text(&key), 1, "it holds no certificate in PEM"),
        (text(&cert), "", 2, "is missing: TLS needs a certificate and its key"),
    ] {
        let files = [("BROLLY_ADMIN__TLS__CERT", cert), ("BROLLY_ADMIN__TLS__KEY", key)];
        let (ended, out) = run(&serve, &files).await;
        assert_eq!(ended, Some(code), "{out}");
        assert!(out.contains(expect), "{expect:?} is not in {out}");
        assert!(!data.join("store").exists(), "nothing was begun: {out}");
    }
}
