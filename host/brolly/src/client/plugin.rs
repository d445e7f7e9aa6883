//! `brolly plugin`: upload versions, say what samples they must pass, and list what there is.

use std::path::PathBuf;

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Method, header};
use serde_json::{Value, json};

use super::{
    api::Connection,
    error,
    output::{self, moment, number, text},
};

/// What can be done with plugins.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Upload a version of a plugin; answers with its digest, which is the version.
    Upload {
        /// The plugin.
        name: String,
        /// The wasm component, or core module with component metadata.
        file: PathBuf,
        /// The Ed25519 signature over the file, 64 bytes, for a plugin that asks for one
        /// (openssl pkeyutl -sign -rawin -inkey KEY.pem -in FILE -out FILE.sig).
        #[arg(long, value_name = "FILE")]
        signature: Option<PathBuf>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show the samples that versions of a plugin must pass before they may be used, or set them.
    ///
    /// The document is that of `brolly test`; what it names with `file` has to stand in it.
    Samples {
        /// The plugin.
        name: String,
        /// Set them: a document in TOML.
        file: Option<PathBuf>,
        /// Ask none any more.
        #[arg(long, conflicts_with = "file")]
        remove: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// List plugins with their versions and who uses them.
    List {
        #[command(flatten)]
        connection: Connection,
    },
}

/// Uploads or lists.
///
/// # Errors
/// What the server says.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Upload { name, file, signature, connection } => {
            let api = connection.open()?;
            let request = api
                .request(Method::POST, &["plugins", &name, "versions"])
                .header(header::CONTENT_TYPE, "application/wasm")
                .body(error::read(&file)?);
            let signed = signature.map(|file| error::read(&file)).transpose()?;
            let request = match signed {
                Some(bytes) => request.header("brolly-signature", BASE64_STANDARD.encode(bytes)),
                None => request,
            };
            let answer = api.send(request).await?;
            if connection.json {
                return Ok(output::print_json(&answer)?);
            }
            Ok(output::print(&uploaded(&answer))?)
        }
        Command::Samples { name, file, remove, connection } => {
            let api = connection.open()?;
            let path = ["plugins", name.as_str(), "samples"];
            let answer = match file {
                Some(file) => {
                    let document = json!({ "document": error::read_text(&file)? });
                    api.send(api.request(Method::PUT, &path).json(&document)).await?
                }
                None if remove => {
                    api.send(api.request(Method::DELETE, &path)).await?;
                    return Ok(());
                }
                None => api.get(&path, &[]).await?,
            };
            if connection.json {
                return Ok(output::print_json(&answer)?);
            }
            Ok(output::print(text(&answer, "document"))?)
        }
        Command::List { connection } => {
            let plugins = connection.open()?.all(&["plugins"]).await?;
            if connection.json {
                return Ok(output::print_json(&Value::Array(plugins))?);
            }
            Ok(output::print(&listed(&plugins))?)
        }
    }
}

/// The answer to an upload; the digest stands alone in the first line, for scripts.
fn uploaded(answer: &Value) -> String {
    let mut out = format!("{}\n", text(answer, "digest"));
    let known = answer.get("created").and_then(Value::as_bool) == Some(false);
    out.push_str(&match known {
        true => "the plugin has this version already\n".to_owned(),
        false => format!(
            "{} bytes, compiled in {} ms, imports: {}\n",
            number(answer, "size_bytes"),
            number(answer, "compile_ms"),
            listed_names(answer, "imports")
        ),
    });
    if let Some(passed) = answer.get("samples").and_then(Value::as_u64) {
        out.push_str(&format!("passed {passed} samples\n"));
    }
    for compared in items(answer, "compared") {
        let new = listed_names(compared, "new_imports");
        if new != "none" {
            let subscription = text(compared, "subscription");
            out.push_str(&format!("beyond what {subscription} runs, it imports: {new}\n"));
        }
    }
    for needs in items(answer, "needs") {
        for word in items(needs, "words").filter_map(Value::as_str) {
            out.push_str(&format!("for {} it wants to {word}\n", text(needs, "subscription")));
        }
    }
    for denied in items(answer, "denied") {
        out.push_str(&format!("denied: {}: {}\n", text(denied, "interface"), text(denied, "meaning")));
    }
    out
}

fn listed(plugins: &[Value]) -> String {
    let mut rows = Vec::new();
    for plugin in plugins {
        for version in items(plugin, "versions") {
            let uploaded = version.get("uploaded_at_ms").and_then(Value::as_u64).unwrap_or(0);
            rows.push(vec![
                text(plugin, "name").to_owned(),
                text(version, "digest").to_owned(),
                number(version, "size_bytes"),
                moment(uploaded),
                listed_names(version, "used_by"),
            ]);
        }
    }
    if rows.is_empty() {
        return "no plugins; `brolly plugin upload NAME FILE` brings one\n".to_owned();
    }
    output::table(&["PLUGIN", "VERSION", ">BYTES", "UPLOADED", "USED BY"], &rows)
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn listed_names(value: &Value, key: &str) -> String {
    let names: Vec<&str> = items(value, key).filter_map(Value::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_says_its_version_first_and_what_is_new() {
        let answer = json!({"digest": "sha256:1", "created": true, "size_bytes": 7, "compile_ms": 3,
            "imports": ["a", "b"], "compared": [{"subscription": "s", "new_imports": ["b"]}]});
        let expect =
            "sha256:1\n7 bytes, compiled in 3 ms, imports: a, b\nbeyond what s runs, it imports: b\n";
        assert_eq!(uploaded(&answer), expect);
        let mut asks = answer.clone();
        asks["samples"] = json!(3);
        asks["needs"] = json!([{"subscription": "s", "words": ["read the clock: granted (grants.clock)"]}]);
        asks["denied"] = json!([{"interface": "wasi:sockets/tcp@0.2.0", "meaning": "use sockets: no"}]);
        let expect = expect.replace("beyond", "passed 3 samples\nbeyond");
        let more = "for s it wants to read the clock: granted (grants.clock)\n\
                    denied: wasi:sockets/tcp@0.2.0: use sockets: no\n";
        assert_eq!(uploaded(&asks), format!("{expect}{more}"));
        let again = json!({"digest": "sha256:1", "created": false});
        assert_eq!(uploaded(&again), "sha256:1\nthe plugin has this version already\n");
    }

    #[test]
    fn every_version_has_a_row() {
        let plugins = [json!({"name": "p", "versions": [
            {"digest": "sha256:1", "size_bytes": 7, "uploaded_at_ms": 0, "used_by": ["s", "t"]},
            {"digest": "sha256:2", "size_bytes": 8, "uploaded_at_ms": 0, "used_by": []}]})];
        let shown = listed(&plugins);
        assert!(shown.contains("sha256:1") && shown.contains("s, t"), "{shown}");
        assert!(shown.lines().nth(2).unwrap().ends_with("none"), "{shown}");
    }
}
