//! What an operator lets a handler do beyond computing, and which hosts a rule means. Pure: names are
//! compared here, and resolved elsewhere.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Host;

use crate::{Name, definition::Mistakes};

/// What a handler may do beyond computing: by default log, read its configuration, keep state and
/// publish to any topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// The only topics that it may publish to; none means any topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Vec<String>>))]
    pub publish: Option<Vec<Name>>,
    /// Read the time, in steps of a millisecond, and wait (`wasi:clocks`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub clock: bool,
    /// Random numbers (`wasi:random`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub random: bool,
    /// Send requests to the hosts that it lists (`wasi:http`); none means to nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpGrant>,
}

/// To whom a handler may send HTTP requests, and how many and how large. Going over a limit is a
/// fault that names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HttpGrant {
    /// 1 to 64 hosts: `api.example.com`, `*.example.com` for all names below one, or an address; with a
    /// port (`api.example.com:8443`) where it is not the usual one of HTTP (80) or HTTPS (443).
    pub hosts: Vec<String>,
    /// Whether they may lie on this machine or in its own network (loopback, private, link-local and
    /// similar addresses). Otherwise only addresses of the public internet are reached.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// Time for one request and its whole answer, in milliseconds: 10 to 600,000. `limits.time_ms`
    /// counts as well.
    pub time_ms: u64,
    /// Requests of one attempt: 1 to 100.
    pub requests: u32,
    /// Bytes of all requests of one attempt, with paths and headers: 0 to 16,777,216.
    pub request_bytes: u64,
    /// Bytes of all answers of one attempt, with headers: 0 to 16,777,216.
    pub response_bytes: u64,
}

impl Default for HttpGrant {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            private: false,
            time_ms: 5_000,
            requests: 10,
            request_bytes: 1 << 20,
            response_bytes: 1 << 20,
        }
    }
}

impl Grants {
    /// The field of the grants that an imported interface needs: `clock`, `random` or `http`; none if it
    /// needs none.
    #[must_use]
    pub fn needed_by(interface: &str) -> Option<&'static str> {
        let (package, name) = interface.split('@').next()?.split_once('/')?;
        match (package, name) {
            ("wasi:clocks", _) => Some("clock"),
            ("wasi:random", "random" | "insecure") => Some("random"),
            ("wasi:http", "outgoing-handler") => Some("http"),
            _ => None,
        }
    }

    /// Whether a call of an imported interface stops the handler under these grants.
    #[must_use]
    pub fn denies(&self, interface: &str) -> bool {
        match Self::needed_by(interface) {
            Some("clock") => !self.clock,
            Some("random") => !self.random,
            Some(_) => self.http.is_none(),
            None => Self::is_never_granted(interface),
        }
    }

    /// Whether an imported interface is one that no grant opens: files, sockets, and waiting for answers.
    #[must_use]
    pub fn is_never_granted(interface: &str) -> bool {
        let is = |package: &str| interface.strip_prefix(package).is_some_and(|rest| rest.starts_with('/'));
        // The list of folders that are open is empty, and may be asked for.
        let lists_folders = interface.starts_with("wasi:filesystem/preopens");
        let waits = interface.starts_with("wasi:messaging/request-reply");
        is("wasi:sockets") || is("wasi:filesystem") && !lists_folders || waits
    }

    /// What an imported interface lets a plugin do, in words; none for one without authority.
    #[must_use]
    pub fn ability(interface: &str) -> Option<&'static str> {
        let (package, name) = interface.split('@').next()?.split_once('/')?;
        Some(match (package, name) {
            ("brolly:plugin", "log") => "write into the log of a delivery",
            ("brolly:plugin", "state") => "keep state",
            ("brolly:plugin", "publish") => "publish messages",
            ("brolly:plugin", "config") => "read its configuration",
            ("wasi:clocks", _) => "read the clock and wait",
            ("wasi:random", "random" | "insecure") => "draw random numbers",
            ("wasi:http", "outgoing-handler") => "send requests over HTTP",
            ("wasi:filesystem", "types") => "use files",
            ("wasi:sockets", _) => "use sockets",
            ("wasi:messaging", "producer") => "publish messages",
            ("wasi:messaging", "request-reply") => "wait for answers to messages",
            _ => return None,
        })
    }

    /// What becomes of a call of an imported interface under these grants, in words; none for one
    /// without authority.
    #[must_use]
    pub fn says(&self, interface: &str) -> Option<String> {
        let ability = Self::ability(interface)?;
        Some(match Self::needed_by(interface) {
            _ if Self::is_never_granted(interface) => {
                format!("{ability}: no grant allows it; a call ends the attempt with a fault")
            }
            Some(grant) if self.denies(interface) => {
                format!("{ability}: not granted (grants.{grant}); a call ends the attempt with a fault")
            }
            Some(grant) => format!("{ability}: granted (grants.{grant})"),
            None => ability.to_owned(),
        })
    }

    pub(crate) fn check(&self, mistakes: &mut Mistakes) {
        let Some(http) = &self.http else { return };
        mistakes.range("grants.http.hosts (how many)", http.hosts.len() as u64, 1..=64);
        for host in &http.hosts {
            mistakes
                .0
                .extend(HostRule::parse(host).err().map(|why| format!("grants.http.hosts: {host:?} {why}")));
        }
        mistakes.range("grants.http.time_ms", http.time_ms, 10..=600_000);
        mistakes.range("grants.http.requests", http.requests.into(), 1..=100);
        mistakes.range("grants.http.request_bytes", http.request_bytes, 0..=16 << 20);
        mistakes.range("grants.http.response_bytes", http.response_bytes, 0..=16 << 20);
    }
}

/// Where a request goes. However a host is spelt, this is the same: names are in lower case and ASCII,
/// and an address is an address (`0x7f.1` and `2130706433` are 127.0.0.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    https: bool,
    host: Host,
    port: u16,
}

impl HttpTarget {
    /// Reads the authority of a URL.
    ///
    /// # Errors
    /// When it is none, or has a user name or password; the text says what is wrong.
    pub fn parse(https: bool, authority: &str) -> Result<Self, String> {
        let (host, port) = host_and_port(authority)?;
        let port = port.unwrap_or(if https { 443 } else { 80 });
        Ok(Self { https, host, port })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn usual_port(&self) -> u16 {
        if self.https { 443 } else { 80 }
    }

    /// What goes into `grants.http.hosts` for it.
    #[must_use]
    pub fn rule(&self) -> String {
        if self.port == self.usual_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.rule())
    }
}

/// One entry of [`HttpGrant::hosts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    host: Hosts,
    /// None means the usual port of the scheme.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    One(Host),
    /// The names that end with this, which begins with a dot.
    Below(String),
}

impl HostRule {
    /// Reads a rule.
    ///
    /// # Errors
    /// When it is none; the text goes on after the rule.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (is_below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (host, port) = host_and_port(rest)?;
        let host = match host {
            Host::Domain(name) if is_below => Hosts::Below(format!(".{name}")),
            _ if is_below => return Err("has a * before an address; there is nothing below one".to_owned()),
            host => Hosts::One(host),
        };
        Ok(Self { host, port })
    }

    /// Whether requests may go there.
    #[must_use]
    pub fn allows(&self, target: &HttpTarget) -> bool {
        let is_host = match (&self.host, &target.host) {
            (Hosts::One(host), other) => host == other,
            (Hosts::Below(end), Host::Domain(name)) => name.len() > end.len() && name.ends_with(end),
            (Hosts::Below(_), Host::Ipv4(_) | Host::Ipv6(_)) => false,
        };
        is_host && target.port == self.port.unwrap_or_else(|| target.usual_port())
    }
}

fn host_and_port(authority: &str) -> Result<(Host, Option<u16>), String> {
    if let Some(bad) = authority.chars().find(|c| c.is_control() || " @/\\?#*".contains(*c)) {
        return Err(format!("has {bad:?} in it; it is a host, and a port if that is not the usual one"));
    }
    // The colons of an IPv6 address stand in brackets.
    let after = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match authority.get(after..).and_then(|rest| rest.find(':')) {
        Some(colon) => authority.split_at(after + colon),
        None => (authority, ""),
    };
    let port = match port.strip_prefix(':') {
        None => None,
        Some(digits) => match digits.parse::<u16>() {
            Ok(port) if port > 0 && digits.bytes().all(|digit| digit.is_ascii_digit()) => Some(port),
            _ => return Err(format!("has the port {digits:?}; a port is 1 to 65535")),
        },
    };
    let host = Host::parse(host).map_err(|error| format!("has no host that can be read: {error}"))?;
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_allows_what_it_says_however_it_is_spelt_and_nothing_else() {
        let check = |rule: &str, https: bool, authority: &str, expect: bool| {
            let target = HttpTarget::parse(https, authority).unwrap();
            assert_eq!(HostRule::parse(rule).unwrap().allows(&target), expect, "{rule} and {target}");
        };
        check("api.example.com", true, "api.example.com", true);
        check("API.example.com", true, "api.EXAMPLE.com:443", true);
        check("api.example.com", false, "api.example.com", true);
        check("api.example.com", true, "api.example.com:8443", false);
        check("api.example.com:8443", true, "api.example.com:8443", true);
        check("api.example.com:8443", true, "api.example.com", false);
        check("api.example.com", true, "api.example.com.", false);
        check("example.com", true, "api.example.com", false);
        check("*.example.com", true, "api.example.com", true);
        check("*.example.com", true, "a.b.example.com", true);
        check("*.example.com", true, "example.com", false);
        check("*.example.com", true, "evilexample.com", false);
        check("*.example.com", true, "example.com.evil.org", false);
        check("*.0.0.1.example", true, "127.0.0.1", false);
        check("127.0.0.1:80", false, "0x7f.1", true);
        check("127.0.0.1", false, "2130706433", true);
        check("127.0.0.1", false, "017700000001", true);
        check("[::1]:81", false, "[0:0:0:0:0:0:0:1]:81", true);
        check("localhost", false, "127.0.0.1", false);
        check("127.0.0.1", false, "[::ffff:127.0.0.1]", false);
        check("bücher.example", true, "xn--bcher-kva.example", true);
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "",
            "user@example.com",
            "a:b@example.com",
            "example.com/x",
            "example.com\\x",
            "example.com?x",
            "example.com#x",
            "a b",
            "a\r\nb",
            "example.com:0",
            "example.com:65536",
            "example.com:+80",
            "example.com:80:81",
            "[::1",
            "::1",
            "a*b.example.com",
            "*",
        ] {
            assert!(HttpTarget::parse(true, bad).is_err(), "{bad:?}");
            assert!(HostRule::parse(bad).is_err(), "{bad:?}");
        }
        assert!(HostRule::parse("*.127.0.0.1").is_err());
        assert!(HostRule::parse("*.").is_err());
    }

    #[test]
    fn what_an_interface_comes_to_is_said_in_words() {
        let none = Grants::default();
        let check = |grants: &Grants, interface: &str, expect: &str| {
            let says = grants.says(interface).unwrap_or_default();
            assert!(says.contains(expect) && says.is_empty() == expect.is_empty(), "{interface}: {says}");
        };
        check(&none, "wasi:clocks/wall-clock@0.2.0", "read the clock and wait: not granted (grants.clock)");
        let granted = Grants { clock: true, ..Grants::default() };
        check(&granted, "wasi:clocks/wall-clock@0.2.0", "read the clock and wait: granted (grants.clock)");
        check(&granted, "wasi:filesystem/types@0.2.0", "use files: no grant allows it");
        check(&none, "brolly:plugin/state@0.1.0", "keep state");
        check(&none, "wasi:io/poll@0.2.0", "");
    }

    #[test]
    fn an_interface_needs_one_grant_or_can_have_none() {
        let check = |interface: &str, needs: Option<&str>, never: bool| {
            assert_eq!(Grants::needed_by(interface), needs, "{interface}");
            assert_eq!(Grants::is_never_granted(interface), never, "{interface}");
            let all = Grants { clock: true, random: true, http: Some(HttpGrant::default()), publish: None };
            assert_eq!(all.denies(interface), never, "{interface}");
            assert_eq!(Grants::default().denies(interface), never || needs.is_some(), "{interface}");
        };
        check("wasi:clocks/wall-clock@0.2.3", Some("clock"), false);
        check("wasi:clocks/monotonic-clock@0.2.0", Some("clock"), false);
        check("wasi:random/random@0.2.0", Some("random"), false);
        check("wasi:random/insecure-seed@0.2.0", None, false);
        check("wasi:http/outgoing-handler@0.2.0", Some("http"), false);
        check("wasi:http/types@0.2.0", None, false);
        check("wasi:filesystem/types@0.2.0", None, true);
        check("wasi:filesystem/preopens@0.2.0", None, false);
        check("wasi:sockets/tcp@0.2.0", None, true);
        check("wasi:cli/environment@0.2.0", None, false);
        check("wasi:messaging/producer@0.2.0-draft", None, false);
        check("wasi:messaging/request-reply@0.2.0-draft", None, true);
        check("brolly:plugin/log@0.1.0", None, false);
    }
}
