//! What the channels that use HTTP have in common: one client, and how its answers are judged.

use std::time::Duration;

use brolly_core::{Address, Code, Refusal};
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;
use url::Url;

use crate::Failure;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read.
const ANSWER: usize = 16 * 1024;

/// The client of all channels. It follows no redirect: what is signed is meant for one place.
///
/// # Errors
/// When this machine has no TLS for it.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .user_agent(concat!("brolly/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The URL of a channel.
pub(super) fn url(address: &Address) -> Result<Url, Refusal> {
    let url = address.url()?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        other => Err(Refusal::new(
            Code::InvalidDefinition,
            format!("url begins with {other}:, and must begin with https:// or http:// and a host"),
        )),
    }
}

/// Sends a request; the answer to one that was taken, as far as it is JSON.
pub(super) async fn post(request: reqwest::RequestBuilder) -> Result<Value, Failure> {
    // The URL may have a secret in it.
    let mut response = request.send().await.map_err(|error| Failure::new(chain(&error.without_url())))?;
    let status = response.status();
    let mut answer = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = ANSWER.saturating_sub(answer.len());
        answer.extend(chunk.iter().take(room));
        if chunk.len() > room {
            break;
        }
    }
    if !status.is_success() {
        let said = String::from_utf8_lossy(&answer);
        return Err(Failure::new(format!("the other side answered {status}: {}", said.trim())));
    }
    Ok(serde_json::from_slice(&answer).unwrap_or(Value::Null))
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The HMAC-SHA256 of a text.
pub(super) fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    // A key may have any length, so there is always one.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}
