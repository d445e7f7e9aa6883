//! The console's files: what they may not contain, and that all of them are served.

use std::{collections::BTreeSet, fs, path::Path};

use super::house::House;

/// Every file in the console's folder, by its path there.
fn files() -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 10, "the walk finds the files");
    found.sort();
    found
}

#[tokio::test]
async fn every_file_is_served_and_known_again() {
    let house = House::new().await;
    for file in files() {
        let path = if file == "index.html" { "/".to_owned() } else { format!("/{file}") };
        let answer = house.get(&path).await.expect(200);
        let media = match file.rsplit_once('.').unwrap().1 {
            "html" => "text/html; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("{other}"),
        };
        assert_eq!(answer.header("content-type"), media, "{path}");
        assert_eq!(answer.header("cache-control"), "no-cache", "{path}");
        let again = house.request("GET", &path).header("if-none-match", answer.header("etag"));
        house.send(again.body(axum::body::Body::empty()).unwrap()).await.expect(304);
        let other = house.request("GET", &path).header("if-none-match", "\"other\"");
        house.send(other.body(axum::body::Body::empty()).unwrap()).await.expect(200);
    }
    house.close().await;
}

#[tokio::test]
async fn answers_carry_security_headers_and_the_console_obeys_them() {
    let house = House::new().await;
    for path in ["/", "/main.js", "/console.css", "/icon.svg", "/nowhere", "/api/v1/topics", "/healthz"] {
        let answer = house.get(path).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{path}: {policy}");
        assert!(policy.contains("require-trusted-types-for 'script'"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert!(!answer.header("cache-control").is_empty(), "{path}");
    }
    house.close().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
    for file in files() {
        let text = fs::read_to_string(root.join(&file)).unwrap();
        let forbidden: &[&str] = if file == "icon.svg" {
            &["<script", "href"]
        } else {
            &[
                "<style",
                " style=\"",
                " onclick=",
                "javascript:",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "sessionStorage",
            ]
        };
        for word in forbidden {
            // Addresses that the host is to call, as examples for who fills in a form.
            if *word == "https://" && file == "pages/channels.js" {
                continue;
            }
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
    let page = fs::read_to_string(root.join("index.html")).unwrap();
    assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=\"/").count());
}

/// The keys of a catalogue of texts: what stands before the colon of each line.
fn keys(language: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("console/text/{language}.js"));
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("  \"")?.split_once("\": "));
    let keys: Vec<String> = lines.map(|(key, _)| key.to_owned()).collect();
    let set: BTreeSet<String> = keys.iter().cloned().collect();
    assert_eq!(set.len(), keys.len(), "{language} has a key twice");
    assert!(set.len() > 100, "{language}: {}", set.len());
    set
}

#[test]
fn both_languages_have_the_same_texts_and_every_text_that_is_used() {
    let (english, chinese) = (keys("en"), keys("zh"));
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
    assert_eq!(only(&english, &chinese), Vec::<String>::new(), "missing in Chinese");
    assert_eq!(only(&chinese, &english), Vec::<String>::new(), "missing in English");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
    let scripts: Vec<String> = files().into_iter().filter(|file| file.ends_with(".js")).collect();
    let mut used = String::new();
    for file in scripts.iter().filter(|file| !file.starts_with("text/")) {
        let text = fs::read_to_string(root.join(file)).unwrap();
        for (at, call) in text.match_indices("t(\"") {
            // Not the end of another name, such as `put`.
            if text[..at].ends_with(|before: char| before.is_alphanumeric()) {
                continue;
            }
            let key = text[at + call.len()..].split('"').next().unwrap();
            assert!(english.contains(key), "{file} uses {key}, which no catalogue has");
        }
        used.push_str(&text);
    }
    // Of a family such as `state.running` the code has the first word and computes the second.
    for key in &english {
        let family = key.rsplit_once('.').map_or(key.as_str(), |(family, _)| family);
        let is_used = used.contains(&format!("\"{key}\"")) || used.contains(&format!("`{family}.${{"));
        assert!(is_used, "nothing uses the text {key}");
    }
}
