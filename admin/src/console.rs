//! The console's files: pages that call only the API, embedded in the binary.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::Admin;

struct File {
    path: &'static str,
    content: &'static str,
}

/// Embeds files of the console's folder, each under its own path.
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(File { path: concat!("/", $path), content: include_str!(concat!("../console/", $path)) }),*]
    };
}

const PAGE: File = File { path: "/", content: include_str!("../console/index.html") };

const FILES: &[File] = files![
    "api.js",
    "catalog.js",
    "chart.js",
    "console.css",
    "difference.js",
    "dom.js",
    "form.js",
    "format.js",
    "icon.svg",
    "live.js",
    "main.js",
    "pages/alerts.js",
    "pages/attention.js",
    "pages/audit.js",
    "pages/channels.js",
    "pages/dead_letters.js",
    "pages/letter.js",
    "pages/messages.js",
    "pages/overview.js",
    "pages/plugins.js",
    "pages/queues.js",
    "pages/reach.js",
    "pages/rollout.js",
    "pages/rules.js",
    "pages/settings.js",
    "pages/subscriptions.js",
    "pages/tester.js",
    "pages/topics.js",
    "pages/versions.js",
    "picture.js",
    "text/en.js",
    "text/text.js",
    "text/zh.js",
];

/// The console's files; anybody may have them.
pub(crate) fn routes() -> Router<Admin> {
    let files = FILES.iter().chain([&PAGE]);
    files.fold(Router::new(), |routes, file| {
        let tag = tag(file.content);
        routes.route(file.path, get(async move |headers: HeaderMap| answer(file, &tag, &headers)))
    })
}

/// A browser asks each time whether what it has is still good, and over a slow link gets a short answer.
fn answer(file: &File, tag: &str, headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let about = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache")];
    if known == Some(tag) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, [(header::CONTENT_TYPE, media_type(file.path))], file.content).into_response()
}

/// The tag of a content. It need be the same only for as long as the binary is.
fn tag(content: &str) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}
