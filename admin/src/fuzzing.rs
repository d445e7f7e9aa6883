//! What fuzz targets reach of the API: the bodies of messages. Built for them alone.

use axum::http::{HeaderMap, HeaderValue, header};
use brolly_core::NewMessage;
use bytes::Bytes;

use crate::publish;

/// What a body of this content type is read as.
///
/// # Errors
/// The detail of the problem that would be answered.
pub fn messages(media: &str, body: &[u8]) -> Result<Vec<NewMessage>, String> {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(media).map_err(|error| error.to_string())?;
    headers.insert(header::CONTENT_TYPE, value);
    publish::read(&headers, &Bytes::copy_from_slice(body)).map_err(|problem| format!("{problem:?}"))
}
