//! The HTTP API as the client commands call it. Knows addresses, tokens and problem documents; the
//! commands know what the answers mean.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Method, RequestBuilder, Url};
use serde_json::Value;

use super::Error;
use crate::config;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take; uploading and compiling a plugin of some MiB is the slowest.
const ANSWER: Duration = Duration::from_secs(120);
/// Items asked for in one page of a listing.
const PAGE: &str = "500";

/// Where the server is, and how to talk to it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The server.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "BROLLY_URL",
        default_value = "http://127.0.0.1:7070"
    )]
    url: String,
    /// An access token. Without one, the admin token in the data directory of a server on this
    /// machine is used.
    #[arg(long, global = true, value_name = "TOKEN", env = "BROLLY_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The data directory to look for the admin token in [default: ./brolly-data, if the server is on
    /// this machine].
    #[arg(long, global = true, value_name = "DIR", env = "BROLLY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// A file with the certificates, in PEM, that the server's own must be vouched for by; without it
    /// those that the system trusts.
    #[arg(long, global = true, value_name = "FILE", env = "BROLLY_CA")]
    ca: Option<PathBuf>,
    /// The server is this very process.
    #[arg(skip)]
    own: bool,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

impl Connection {
    /// The way to the server of this very process, with the token in its data directory.
    #[must_use]
    pub fn own(url: String, data_dir: PathBuf) -> Self {
        Self { url, token: None, data_dir: Some(data_dir), ca: None, own: true, json: false }
    }

    /// Gets ready to talk to the server; nothing is sent yet.
    ///
    /// # Errors
    /// When the address or the token file is no good.
    pub fn open(&self) -> Result<Api, Error> {
        let usage =
            |reason: &dyn std::fmt::Display| Error::Usage(format!("the URL {:?}: {reason}", self.url));
        let base = Url::parse(&self.url).map_err(|error| usage(&error))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(usage(&"it is written http://HOST:PORT"));
        }
        let local = is_local(&base);
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).timeout(ANSWER);
        if local {
            builder = builder.no_proxy();
        }
        if let Some(file) = &self.ca {
            builder = builder.tls_certs_only(certificates(file)?);
        }
        if self.own {
            // The listener is ours, so nobody else can answer; whom its certificate names is for others.
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let http = builder.build().map_err(|error| usage(&error))?;
        let token = match (&self.token, &self.data_dir) {
            (Some(token), _) => Some(token.trim().to_owned()),
            (None, Some(dir)) => Some(read_token(dir)?),
            // A token that was found is not sent to just anybody.
            (None, None) if local => read_token(Path::new("./brolly-data")).ok(),
            (None, None) => None,
        };
        Ok(Api { http, base, token })
    }
}

fn certificates(file: &Path) -> Result<Vec<reqwest::Certificate>, Error> {
    let bytes = super::error::read(file)?;
    let bad = |why: &dyn std::fmt::Display| Error::Usage(format!("{} (--ca): {why}", file.display()));
    let certificates = reqwest::Certificate::from_pem_bundle(&bytes).map_err(|error| bad(&error))?;
    if certificates.is_empty() {
        return Err(bad(&"it holds no certificate in PEM (BEGIN CERTIFICATE)"));
    }
    Ok(certificates)
}

fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn read_token(data_dir: &Path) -> Result<String, Error> {
    let bytes = super::error::read(&config::token_file(data_dir))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

impl Api {
    /// A request to a path under `/api/v1`; segments are escaped here.
    pub fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        // An http URL always has segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; answers with the body, null if there is none.
    ///
    /// # Errors
    /// [`Error::Refused`] with what the server said; [`Error::Unreachable`]; [`Error::Answer`].
    pub async fn send(&self, request: RequestBuilder) -> Result<Value, Error> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let (status, url) = (response.status(), response.url().to_string());
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            if bytes.is_empty() {
                return Ok(Value::Null);
            }
            let body = serde_json::from_slice(&bytes);
            return body.map_err(|error| Error::Answer { url, reason: error.to_string() });
        }
        let problem: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let field = |name: &str| problem.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut detail = field("detail").unwrap_or_else(|| format!("the server answered {status}"));
        if status == reqwest::StatusCode::UNAUTHORIZED && self.token.is_none() {
            detail
                .push_str("; no token was given: set BROLLY_TOKEN, or --data-dir to where admin.token lies");
        }
        let code = field("code").unwrap_or_else(|| status.as_u16().to_string());
        Err(Error::Refused { status: status.as_u16(), code, detail })
    }

    /// GET.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Error> {
        self.send(self.request(Method::GET, path).query(query)).await
    }

    /// All items of a listing, page by page.
    ///
    /// # Errors
    /// As [`Api::send`].
    pub async fn all(&self, path: &[&str]) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = vec![("limit", PAGE)];
            query.extend(after.as_deref().map(|after| ("after", after)));
            let mut page = self.get(path, &query).await?;
            let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) else {
                return Err(Error::Answer {
                    url: path.join("/"),
                    reason: "a listing without items".to_owned(),
                });
            };
            items.extend(found);
            match page.get("next").and_then(Value::as_str) {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok(items),
            }
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        // The outer message only repeats the URL; the innermost cause says what happened.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Error::Unreachable { url: self.base.to_string(), reason: cause.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(url: &str, data_dir: Option<&Path>) -> Connection {
        let data_dir = data_dir.map(Path::to_owned);
        Connection { url: url.into(), token: None, data_dir, ca: None, own: false, json: false }
    }

    #[test]
    fn segments_are_escaped_and_a_path_prefix_is_kept() {
        let api = connection("http://127.0.0.1:1/behind/", None).open().unwrap();
        let request = api.request(Method::GET, &["messages", "a/b c?"]).build().unwrap();
        assert_eq!(request.url().as_str(), "http://127.0.0.1:1/behind/api/v1/messages/a%2Fb%20c%3F");
    }

    #[test]
    fn tokens_come_from_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("admin.token"), "brolly_1\n").unwrap();
        let api = connection("http://example.com", Some(dir.path())).open().unwrap();
        assert_eq!(api.token.as_deref(), Some("brolly_1"));
        assert!(connection("http://example.com", Some(Path::new("/nowhere"))).open().is_err());
    }

    #[test]
    fn a_file_without_a_certificate_is_no_ca() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let ca = |ca: &Path| Connection { ca: Some(ca.to_owned()), ..connection("https://h", None) }.open();
        assert!(ca(&file).unwrap_err().to_string().contains("ca.pem cannot be read"));
        for text in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&file, text).unwrap();
            let error = ca(&file).unwrap_err();
            assert!(error.is_usage(), "{text:?}: {error}");
        }
    }

    #[test]
    fn urls_are_checked_and_local_ones_known() {
        for bad in ["", "localhost:7070", "file:///etc", "ftp://host"] {
            assert!(connection(bad, None).open().unwrap_err().is_usage(), "{bad}");
        }
        for (url, local) in [
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://127.9.9.9", true),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_local(&Url::parse(url).unwrap()), local, "{url}");
        }
    }
}
