//! The console's files: a page that calls only the API, with a token that the person types in.

use axum::{
    Router,
    http::{HeaderName, header},
    routing::get,
};

use crate::Admin;

type File = ([(HeaderName, &'static str); 2], &'static str);

const fn file(media: &'static str, content: &'static str) -> File {
    ([(header::CONTENT_TYPE, media), (header::CACHE_CONTROL, "no-cache")], content)
}

/// The console's files; anybody may have them.
pub(crate) fn routes() -> Router<Admin> {
    const PAGE: File = file("text/html; charset=utf-8", include_str!("../console/index.html"));
    const SCRIPT: File = file("text/javascript; charset=utf-8", include_str!("../console/console.js"));
    const STYLE: File = file("text/css; charset=utf-8", include_str!("../console/console.css"));
    const ICON: File = file("image/svg+xml", include_str!("../console/icon.svg"));
    Router::new()
        .route("/", get(|| async { PAGE }))
        .route("/console.js", get(|| async { SCRIPT }))
        .route("/console.css", get(|| async { STYLE }))
        .route("/icon.svg", get(|| async { ICON }))
}
