//! Documents of `brolly apply`: read, or refused with every mistake by its place; what was read is, written with all
//! its defaults and read again, the same.
//!
//! The first line is `toml` or `yaml`, the rest the document. The command line is a program and no library, so its
//! two files are taken in by their path.
#![no_main]
#![allow(dead_code, reason = "of these files, the program uses more")]

#[path = "../../../host/brolly/src/client"]
mod client {
    #[path = "apply/document.rs"]
    pub mod document;
    pub mod error;

    pub use error::Error;
}

use std::{fs, path::PathBuf, sync::OnceLock};

use client::document::Wanted;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

fuzz_target!(|text: &str| {
    let Some((form, document)) = text.split_once('\n') else { return };
    // A document may name files, and some of a system are without an end.
    if !matches!(form, "toml" | "yaml") || document.contains("file") {
        return;
    }
    match read(form, document) {
        Err(why) => assert!(why.len() > form.len() + 2),
        Ok(wanted) => {
            let mut full: Map<String, Value> = Map::new();
            for ((kind, name), definition) in &wanted.definitions {
                let of_kind = full.entry(kind.plural()).or_insert_with(|| json!({}));
                of_kind[name] = definition.full.clone();
            }
            let again = read("json", &Value::from(full).to_string()).expect("what was written is read");
            let values = |wanted: &Wanted| -> Vec<Value> {
                wanted.definitions.values().map(|definition| definition.full.clone()).collect()
            };
            assert_eq!(values(&again), values(&wanted));
        }
    }
});

fn read(form: &str, document: &str) -> Result<Wanted, String> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder").keep());
    let path = folder.join("document").with_extension(form);
    fs::write(&path, document).expect("the folder takes a file");
    Wanted::read(&path).map_err(|error| error.to_string())
}
