//! What a broker definition of the kind `amqp` may say, checked all at once.
//!
//! Called by `check` and `open`. Connects nowhere and reads no file.

use std::{path::PathBuf, time::Duration};

use brolly_core::{BrokerDefinition, Code, Refusal};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::Value;
use url::{Host, Url};

/// Everything that a definition says.
#[derive(Clone)]
pub(crate) struct Settings {
    pub tls: bool,
    /// The servers of the cluster, in the order in which they are tried.
    pub nodes: Vec<Node>,
    pub vhost: String,
    pub user: String,
    pub password: String,
    pub heartbeat: Duration,
    pub connect_timeout: Duration,
    pub confirm_timeout: Duration,
    pub authority: Option<Authority>,
    pub management: Option<Management>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub host: String,
    pub port: u16,
}

/// Whose signature a server's certificate needs, beside those that this machine trusts.
#[derive(Clone)]
pub(crate) enum Authority {
    Pem(String),
    /// Read with every connection, so that it can be replaced.
    File(PathBuf),
}

/// Where the management API is.
#[derive(Clone)]
pub(crate) struct Management {
    /// Without credentials, path and query.
    pub url: Url,
    pub user: String,
    pub password: String,
}

/// The fields beside the URL.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fields {
    heartbeat_s: u64,
    connect_timeout_ms: u64,
    confirm_timeout_ms: u64,
    addresses: Vec<String>,
    ca_pem: Option<String>,
    ca_file: Option<PathBuf>,
    management: Option<String>,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            heartbeat_s: 5,
            connect_timeout_ms: 5_000,
            confirm_timeout_ms: 30_000,
            addresses: Vec::new(),
            ca_pem: None,
            ca_file: None,
            management: None,
        }
    }
}

/// Servers of one cluster.
const NODES: usize = 16;

impl Settings {
    /// Reads a definition.
    pub(crate) fn of(definition: &BrokerDefinition) -> Result<Self, Refusal> {
        let mut mistakes = Vec::new();
        let fields = match serde_json::from_value::<Fields>(Value::Object(definition.settings.clone())) {
            Ok(fields) => fields,
            Err(error) => {
                mistakes.push(error.to_string());
                Fields::default()
            }
        };
        fields.check(&mut mistakes);
        let url = match definition.url.url() {
            Ok(url) => check_url(&url, &mut mistakes).then_some(url),
            Err(refusal) => {
                mistakes.push(refusal.detail);
                None
            }
        };
        let settings = url.and_then(|url| fields.with(&url, &mut mistakes));
        match settings {
            Some(settings) if mistakes.is_empty() => Ok(settings),
            _ => Err(Refusal::new(Code::InvalidDefinition, mistakes.join("; "))),
        }
    }
}

impl Fields {
    fn check(&self, mistakes: &mut Vec<String>) {
        let ranges = [
            ("heartbeat_s", self.heartbeat_s, 2, 60),
            ("connect_timeout_ms", self.connect_timeout_ms, 100, 60_000),
            ("confirm_timeout_ms", self.confirm_timeout_ms, 1_000, 300_000),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                mistakes.push(format!("{field} is {value}, allowed are {low} to {high}"));
            }
        }
        if self.addresses.len() >= NODES {
            mistakes.push(format!(
                "addresses has {} entries, allowed are {}",
                self.addresses.len(),
                NODES - 1
            ));
        }
        if self.ca_pem.is_some() && self.ca_file.is_some() {
            mistakes.push("ca_pem and ca_file are given both; one of them is enough".to_owned());
        }
        if self.ca_pem.as_ref().is_some_and(|pem| !pem.contains("-----BEGIN CERTIFICATE-----")) {
            mistakes.push("ca_pem holds no certificate; it is the text of a PEM file".to_owned());
        }
    }

    fn with(self, url: &Url, mistakes: &mut Vec<String>) -> Option<Settings> {
        let tls = url.scheme() == "amqps";
        if !tls && (self.ca_pem.is_some() || self.ca_file.is_some()) {
            mistakes.push("ca_pem and ca_file are for amqps:// only".to_owned());
        }
        let mut decode = |field: &str, text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) => text.into_owned(),
            Err(_) => {
                mistakes.push(format!("the {field} in url is not UTF-8"));
                String::new()
            }
        };
        let user = decode("user", if url.username().is_empty() { "guest" } else { url.username() });
        let password = decode("password", url.password().unwrap_or("guest"));
        let vhost = match url.path().strip_prefix('/').unwrap_or_default() {
            "" => "/".to_owned(),
            path => decode("virtual host", path),
        };
        let mut nodes = vec![Node::of(url, tls)?];
        for address in &self.addresses {
            match Node::parse(address, tls) {
                Some(node) => nodes.push(node),
                None => mistakes.push(format!("addresses: {address:?} is not host:port")),
            }
        }
        let credentials = (user.clone(), password.clone());
        let management = self.management.and_then(|text| Management::parse(&text, credentials, mistakes));
        let authority = self.ca_pem.map(Authority::Pem).or(self.ca_file.map(Authority::File));
        Some(Settings {
            tls,
            nodes,
            vhost,
            user,
            password,
            heartbeat: Duration::from_secs(self.heartbeat_s),
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            confirm_timeout: Duration::from_millis(self.confirm_timeout_ms),
            authority,
            management,
        })
    }
}

/// Whether it can be used at all. Never says anything of what the URL holds: it may be the password.
fn check_url(url: &Url, mistakes: &mut Vec<String>) -> bool {
    let before = mistakes.len();
    if !matches!(url.scheme(), "amqp" | "amqps") {
        mistakes.push("url does not begin with amqp:// or amqps://".to_owned());
    }
    if url.host_str().is_none_or(str::is_empty) {
        mistakes.push("url names no host".to_owned());
    }
    if url.path().trim_start_matches('/').contains('/') {
        mistakes.push(
            "the path of url is the virtual host and has no slash; write the one named / as %2f, or nothing"
                .to_owned(),
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        mistakes.push(
            "url has a query; what it sets stands in fields of their own, such as heartbeat_s".to_owned(),
        );
    }
    mistakes.len() == before
}

impl Node {
    fn of(url: &Url, tls: bool) -> Option<Self> {
        let host = match url.host()? {
            Host::Domain(name) => percent_decode_str(name).decode_utf8_lossy().into_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        Some(Self { host, port: url.port().unwrap_or(if tls { 5671 } else { 5672 }) })
    }

    fn parse(address: &str, tls: bool) -> Option<Self> {
        let url = Url::parse(&format!("amqp://{address}")).ok()?;
        let bare = url.username().is_empty() && url.password().is_none() && matches!(url.path(), "" | "/");
        let bare = bare && url.query().is_none() && url.fragment().is_none();
        Self::of(&url, tls).filter(|node| bare && !node.host.is_empty())
    }
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Management {
    fn parse(text: &str, (user, password): (String, String), mistakes: &mut Vec<String>) -> Option<Self> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty())
        });
        let Some(mut url) = url else {
            mistakes.push("management is no URL of the management API, such as http://host:15672".to_owned());
            return None;
        };
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let own = (!url.username().is_empty())
            .then(|| (decode(url.username()), decode(url.password().unwrap_or_default())));
        let (user, password) = own.unwrap_or((user, password));
        // Credentials go into a header of their own, where no error message shows them.
        let _ = (url.set_username(""), url.set_password(None));
        Some(Self { url, user, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: Value) -> Result<Settings, String> {
        let definition: BrokerDefinition = serde_json::from_value(json).unwrap();
        Settings::of(&definition).map_err(|refusal| refusal.detail)
    }

    fn url(url: &str) -> Result<Settings, String> {
        read(serde_json::json!({"kind": "amqp", "url": url}))
    }

    #[test]
    fn a_url_says_where_and_who() {
        let settings = url("amqp://me:se%20cret@host:5673/orders%2fpaid").unwrap();
        assert_eq!(settings.nodes, [Node { host: "host".into(), port: 5673 }]);
        assert_eq!((settings.user.as_str(), settings.password.as_str()), ("me", "se cret"));
        assert_eq!(settings.vhost, "orders/paid");
        assert!(!settings.tls && settings.heartbeat == Duration::from_secs(5));
        let settings = url("amqps://[::1]").unwrap();
        assert_eq!(settings.nodes, [Node { host: "::1".into(), port: 5671 }]);
        assert_eq!((settings.user.as_str(), settings.vhost.as_str()), ("guest", "/"));
        assert_eq!(settings.nodes[0].to_string(), "[::1]:5671");
        for same in ["amqp://h", "amqp://h/", "amqp://h/%2f"] {
            assert_eq!(url(same).unwrap().vhost, "/", "{same}");
        }
    }

    #[test]
    fn all_mistakes_at_once_and_never_the_password() {
        let mistakes = read(serde_json::json!({
            "kind": "amqp", "url": "http://me:secret@host/a/b?heartbeat=3", "heartbeat_s": 1, "confirm_timeout_ms": 1,
        }))
        .err()
        .unwrap();
        for part in ["heartbeat_s is 1", "confirm_timeout_ms", "amqp://", "virtual host", "query"] {
            assert!(mistakes.contains(part), "{part}: {mistakes}");
        }
        assert!(!mistakes.contains("secret"), "{mistakes}");
        let unknown = read(serde_json::json!({"kind": "amqp", "url": "amqp://h", "heartbeat": 3}));
        assert!(unknown.err().unwrap().contains("heartbeat"));
        assert!(url("amqp://").is_err());
    }

    #[test]
    fn ranges_hold_at_both_ends() {
        let ranges = [
            ("heartbeat_s", 2, 60),
            ("connect_timeout_ms", 100, 60_000),
            ("confirm_timeout_ms", 1_000, 300_000),
        ];
        for (field, low, high) in ranges {
            let with =
                |value: u64| read(serde_json::json!({"kind": "amqp", "url": "amqp://h", field: value}));
            assert!(with(low).is_ok() && with(high).is_ok(), "{field}");
            assert!(with(low - 1).is_err() && with(high + 1).is_err(), "{field}");
        }
    }

    #[test]
    fn a_cluster_has_further_addresses() {
        let with = |addresses: &[&str]| {
            read(serde_json::json!({"kind": "amqp", "url": "amqps://a", "addresses": addresses}))
        };
        let settings = with(&["b", "c:5673", "[::1]:1"]).unwrap();
        let nodes: Vec<String> = settings.nodes.iter().map(ToString::to_string).collect();
        assert_eq!(nodes, ["a:5671", "b:5671", "c:5673", "[::1]:1"]);
        for bad in ["", "a/b", "u:p@h", "h:port"] {
            assert!(with(&[bad]).err().unwrap().contains("host:port"), "{bad}");
        }
        assert!(with(&["h"; 16]).is_err());
    }

    #[test]
    fn authorities_are_for_tls_and_one_at_a_time() {
        let with = |url: &str, pem: Option<&str>, file: Option<&str>| {
            read(serde_json::json!({"kind": "amqp", "url": url, "ca_pem": pem, "ca_file": file})).err()
        };
        let pem = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----";
        assert_eq!(with("amqps://h", Some(pem), None), None);
        assert_eq!(with("amqps://h", None, Some("/ca.pem")), None);
        assert!(with("amqp://h", Some(pem), None).unwrap().contains("amqps"));
        assert!(with("amqps://h", Some(pem), Some("/ca.pem")).unwrap().contains("both"));
        assert!(with("amqps://h", Some("MII"), None).unwrap().contains("PEM"));
    }

    #[test]
    fn the_management_api_takes_the_same_credentials_unless_given() {
        let with = |management: &str| {
            read(serde_json::json!({"kind": "amqp", "url": "amqp://me:mine@h", "management": management}))
        };
        let same = with("http://h:15672").unwrap().management.unwrap();
        assert_eq!((same.user.as_str(), same.password.as_str()), ("me", "mine"));
        let other = with("https://you:y%20s@h/").unwrap().management.unwrap();
        assert_eq!((other.user.as_str(), other.password.as_str()), ("you", "y s"));
        assert_eq!(other.url.as_str(), "https://h/");
        assert!(with("h:15672").is_err());
    }
}
