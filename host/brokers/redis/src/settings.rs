//! The settings of a Redis broker: read once from its definition, all mistakes together. Called when a
//! definition is checked and when the broker is opened. Connects nowhere.

use std::{fmt, ops::RangeInclusive, time::Duration};

use brolly_core::{BrokerDefinition, Code, Refusal};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::Url;

/// The port of a URL that names none.
const PORT: u16 = 6379;

/// Where the server is and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The name or address of the machine.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Who logs in; the default user if none is named.
    pub username: Option<String>,
    /// With what.
    pub password: Option<String>,
    /// Which database.
    pub database: i64,
    /// The authorities that the server's certificate may come from; those of the machine if none.
    pub authorities: Authorities,
    /// Until a connection stands and is logged in: `connect_timeout_ms`, 100 to 60,000, default 5,000.
    pub connect: Duration,
    /// Until an answer has come: `response_timeout_ms`, 100 to 60,000, default 4,000.
    pub response: Duration,
    /// How long a command waits on the server for something to come, and how often a connection on
    /// which nothing flows is asked whether it lives: `block_ms`, 10 to 30,000, default 1,000. A
    /// connection that says nothing is given up after this and the response time-out.
    pub block: Duration,
    /// After which silence a worker is taken for dead and what it holds is handed out anew:
    /// `worker_timeout_ms`, 1,000 to 600,000, default 10,000.
    pub worker_timeout: Duration,
}

/// Where trust in a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Authorities {
    /// From the machine's own store.
    Machine,
    /// From this PEM text (`ca_pem`).
    Pem(String),
    /// From this PEM file (`ca_file`), read at each connection.
    File(String),
}

impl Settings {
    /// Reads a definition.
    pub(crate) fn read(definition: &BrokerDefinition) -> Result<Self, Refusal> {
        let mut mistakes = Vec::new();
        let url = match definition.url.url() {
            Ok(url) => Some(url),
            Err(refusal) => {
                mistakes.push(refusal.detail);
                None
            }
        };
        let mut settings = Self {
            host: String::new(),
            port: PORT,
            tls: false,
            username: None,
            password: None,
            database: 0,
            authorities: Authorities::Machine,
            connect: Duration::from_secs(5),
            response: Duration::from_secs(4),
            block: Duration::from_secs(1),
            worker_timeout: Duration::from_secs(10),
        };
        if let Some(url) = &url {
            settings.read_url(url, &mut mistakes);
        }
        for (field, value) in &definition.settings {
            if let Err(mistake) = settings.read_field(field, value) {
                mistakes.push(mistake);
            }
        }
        if settings.authorities != Authorities::Machine && url.is_some() && !settings.tls {
            mistakes.push("ca_file and ca_pem are for rediss:// alone".to_owned());
        }
        if mistakes.is_empty() {
            return Ok(settings);
        }
        Err(Refusal::new(Code::InvalidDefinition, mistakes.join("; ")))
    }

    fn read_url(&mut self, url: &Url, mistakes: &mut Vec<String>) {
        match url.scheme() {
            "redis" => {}
            "rediss" => self.tls = true,
            other => {
                mistakes.push(format!("url begins with {other}://, a Redis server has redis:// or rediss://"))
            }
        }
        match url.host_str() {
            Some(host) if !host.is_empty() => {
                // An IPv6 address stands in brackets in a URL and nowhere else.
                self.host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            }
            _ => mistakes.push("url names no host".to_owned()),
        }
        self.port = url.port().unwrap_or(PORT);
        let mut decoded = |text: &str, what: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) => Some(text.into_owned()),
            Err(_) => {
                mistakes.push(format!("the {what} in the url is not UTF-8"));
                None
            }
        };
        self.username = decoded(url.username(), "user").filter(|user| !user.is_empty());
        self.password = url.password().and_then(|password| decoded(password, "password"));
        if self.username.is_some() && self.password.is_none() {
            mistakes.push("url names a user and no password; write redis://user:password@host".to_owned());
        }
        match url.path().trim_matches('/') {
            "" => {}
            path => match path.parse::<u32>() {
                Ok(database) => self.database = i64::from(database),
                Err(_) => mistakes
                    .push(format!("url has the path /{path}; it is the number of a database, such as /0")),
            },
        }
        if url.query().is_some() || url.fragment().is_some() {
            mistakes
                .push("url has something behind the database; settings are fields of their own".to_owned());
        }
    }

    fn read_field(&mut self, field: &str, value: &Value) -> Result<(), String> {
        let text = || value.as_str().map(str::to_owned).ok_or_else(|| format!("{field} is not a text"));
        match field {
            "connect_timeout_ms" => self.connect = duration(field, value, 100..=60_000)?,
            "response_timeout_ms" => self.response = duration(field, value, 100..=60_000)?,
            "block_ms" => self.block = duration(field, value, 10..=30_000)?,
            "worker_timeout_ms" => self.worker_timeout = duration(field, value, 1_000..=600_000)?,
            "ca_file" | "ca_pem" if self.authorities != Authorities::Machine => {
                return Err("there are both ca_file and ca_pem; one is enough".to_owned());
            }
            "ca_file" => self.authorities = Authorities::File(text()?),
            "ca_pem" => self.authorities = Authorities::Pem(text()?),
            unknown => {
                return Err(format!(
                    "{unknown} is no setting of a Redis broker; it has connect_timeout_ms, response_timeout_ms, \
                     block_ms, worker_timeout_ms, ca_file and ca_pem"
                ));
            }
        }
        Ok(())
    }

    /// Host and port, for people.
    pub(crate) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// How often a worker gives a sign of life: several times before it would be taken for dead.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.block.min(self.worker_timeout / 3)
    }

    /// The longest pause between two attempts to connect, with what jitter may add: so short that a
    /// worker is back before another one takes it for dead.
    pub(crate) fn longest_pause(&self) -> Duration {
        (self.worker_timeout / 4).min(Duration::from_secs(5))
    }
}

fn duration(field: &str, value: &Value, range: RangeInclusive<u64>) -> Result<Duration, String> {
    match value.as_u64() {
        Some(ms) if range.contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{field} is {value}, allowed are {} to {}", range.start(), range.end())),
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("address", &self.address())
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: Value) -> Result<Settings, String> {
        let definition: BrokerDefinition = serde_json::from_value(json).unwrap();
        Settings::read(&definition).map_err(|refusal| {
            assert_eq!(refusal.code, Code::InvalidDefinition);
            refusal.detail
        })
    }

    #[test]
    fn a_url_says_everything_needed() {
        let settings = read(json!({"kind": "redis", "url": "rediss://me:se%20cret@[::1]:7000/3"})).unwrap();
        assert_eq!((settings.host.as_str(), settings.port, settings.tls), ("::1", 7000, true));
        assert_eq!(settings.username.as_deref(), Some("me"));
        assert_eq!(settings.password.as_deref(), Some("se cret"));
        assert_eq!(settings.database, 3);
        assert_eq!(settings.address(), "[::1]:7000");
        assert!(!format!("{settings:?}").contains("cret"));
        let plain = read(json!({"kind": "redis", "url": "redis://:pw@cache"})).unwrap();
        assert_eq!((plain.port, plain.username, plain.database), (6379, None, 0));
    }

    #[test]
    fn every_range_from_both_sides() {
        for (field, low, high) in [
            ("connect_timeout_ms", 100, 60_000),
            ("response_timeout_ms", 100, 60_000),
            ("block_ms", 10, 30_000),
            ("worker_timeout_ms", 1_000, 600_000),
        ] {
            let with = |ms: i64| read(json!({"kind": "redis", "url": "redis://h", field: ms}));
            assert!(with(low).is_ok() && with(high).is_ok(), "{field}");
            assert!(with(low - 1).unwrap_err().contains(field) && with(high + 1).is_err(), "{field}");
        }
    }

    #[test]
    fn all_mistakes_at_once_and_no_password_in_them() {
        let mistakes = read(json!({
            "kind": "redis", "url": "http://me:hidden@h/x?a=b", "block_ms": "soon", "ca_pem": 1, "blok_ms": 1,
            "worker_timeout_ms": 5,
        }))
        .unwrap_err();
        for part in [
            "http://",
            "block_ms is",
            "ca_pem is not a text",
            "blok_ms is no setting",
            "worker_timeout_ms is 5",
        ] {
            assert!(mistakes.contains(part), "{part}: {mistakes}");
        }
        assert!(!mistakes.contains("hidden"), "{mistakes}");
        let mistakes =
            read(json!({"kind": "redis", "url": "redis://u@h/x?a=b", "ca_pem": "c", "ca_file": "f"}));
        let mistakes = mistakes.unwrap_err();
        for part in
            ["no password", "path /x", "behind the database", "rediss:// alone", "both ca_file and ca_pem"]
        {
            assert!(mistakes.contains(part), "{part}: {mistakes}");
        }
        assert!(
            read(json!({"kind": "redis", "url": {"env": "BROLLY_NO_SUCH"}}))
                .unwrap_err()
                .contains("BROLLY_NO_SUCH")
        );
    }
}
