//! What the server says of itself: which version it is, what it is set up for, and what an operator
//! should know of it because messages depend on it. Called after each connect and every few seconds.

use redis::{InfoDict, Pipeline, Value, from_redis_value};

use crate::{connect::Link, error::Error};

/// The first version with LMOVE, BLMOVE and XAUTOCLAIM.
const OLDEST: (u32, u32) = (6, 2);

/// What is known of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// What it says it is, such as `Redis 7.0.15`.
    pub server: String,
    /// What messages are exposed to because of how it is set up.
    pub warnings: Vec<String>,
    /// Why it takes no messages now, if so.
    pub full: Option<String>,
}

/// What HELLO says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hello {
    server: String,
    version: String,
    mode: String,
    role: String,
}

/// How the server keeps what it has, as far as it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Keeping {
    policy: Option<String>,
    max_memory: Option<u64>,
    used_memory: Option<u64>,
    append_only: Option<bool>,
    fsync: Option<String>,
    save: Option<String>,
}

/// Asks the server. What it does not let the user see is left out.
pub(crate) async fn ask(link: &Link) -> Result<About, Error> {
    let hello = Hello::read(&link.ask(&redis::cmd("HELLO")).await?)?;
    hello.check()?;
    let mut keeping = Keeping::default();
    match link.ask::<InfoDict>(&redis::cmd("INFO")).await {
        Ok(info) => keeping.read_info(&info),
        Err(Error::Permission(_)) => {}
        Err(error) => return Err(error),
    }
    let mut config = Pipeline::new();
    for pattern in ["maxmemory*", "append*", "save"] {
        config.cmd("CONFIG").arg("GET").arg(pattern);
    }
    // Managed servers have no CONFIG at all.
    for answer in link.ask_all(&mut config).await?.into_iter().flatten() {
        keeping.read_config(&from_redis_value::<Vec<String>>(answer).unwrap_or_default());
    }
    Ok(About { server: hello.name(), warnings: keeping.warnings(), full: keeping.full() })
}

impl Hello {
    fn read(value: &Value) -> Result<Self, Error> {
        let mut hello = Self::default();
        let pairs = value.as_map_iter().ok_or(Error::Answer("HELLO"))?;
        for (name, value) in pairs {
            let text = || from_redis_value::<String>(value.clone()).unwrap_or_default();
            match from_redis_value::<String>(name.clone()).unwrap_or_default().as_str() {
                "server" => hello.server = text(),
                "version" => hello.version = text(),
                "mode" => hello.mode = text(),
                "role" => hello.role = text(),
                _ => {}
            }
        }
        Ok(hello)
    }

    fn name(&self) -> String {
        let mut server = self.server.clone();
        if let Some(first) = server.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        format!("{server} {}", self.version)
    }

    fn check(&self) -> Result<(), Error> {
        let mut numbers = self.version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
        let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        if version < OLDEST {
            let (major, minor) = OLDEST;
            return Err(Error::Unfit(format!(
                "{}, which is too old; it must be {major}.{minor} or later (LMOVE, XAUTOCLAIM)",
                self.name()
            )));
        }
        match self.mode.as_str() {
            "cluster" => {
                return Err(Error::Unfit(
                    "part of a Redis Cluster, which is not supported: a message moves between keys in one step"
                        .to_owned(),
                ));
            }
            "sentinel" => {
                return Err(Error::Unfit(
                    "a Sentinel, which keeps no messages; name the server itself".to_owned(),
                ));
            }
            _ => {}
        }
        if matches!(self.role.as_str(), "replica" | "slave") {
            return Err(Error::Unfit("a replica, which takes no writes; name its master".to_owned()));
        }
        Ok(())
    }
}

impl Keeping {
    fn read_info(&mut self, info: &InfoDict) {
        self.policy = info.get("maxmemory_policy");
        self.max_memory = info.get("maxmemory");
        self.used_memory = info.get("used_memory");
        self.append_only = info.get::<u8>("aof_enabled").map(|enabled| enabled == 1);
    }

    fn read_config(&mut self, pairs: &[String]) {
        for pair in pairs.chunks_exact(2) {
            let [name, value] = pair else { continue };
            match name.as_str() {
                "maxmemory-policy" => self.policy = Some(value.clone()),
                "maxmemory" => self.max_memory = value.parse().ok(),
                "appendonly" => self.append_only = Some(value == "yes"),
                "appendfsync" => self.fsync = Some(value.clone()),
                "save" => self.save = Some(value.clone()),
                _ => {}
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(policy) = self.policy.as_deref().filter(|policy| *policy != "noeviction") {
            warnings.push(format!(
                "maxmemory-policy is {policy}: a full server may throw messages away; set it to noeviction"
            ));
        }
        match (self.append_only, self.save.as_deref()) {
            (Some(false), Some("")) => warnings.push(
                "persistence is off (appendonly no, no save points): what Redis holds is lost when it restarts"
                    .to_owned(),
            ),
            (Some(false), _) => warnings.push(
                "appendonly is no: what came since the last snapshot is lost when Redis crashes; set it to yes"
                    .to_owned(),
            ),
            (Some(true), _) if self.fsync.as_deref() == Some("no") => warnings.push(
                "appendfsync is no: a power cut loses what the system has not written yet; set it to everysec or \
                 always"
                    .to_owned(),
            ),
            (Some(true) | None, _) => {}
        }
        warnings
    }

    /// A server that evicts nothing refuses what needs memory.
    fn full(&self) -> Option<String> {
        let (max, used) = (self.max_memory.filter(|max| *max > 0)?, self.used_memory?);
        let evicts = self.policy.as_deref().is_some_and(|policy| policy != "noeviction");
        (used >= max && !evicts)
            .then(|| format!("the server is full: {used} of {max} bytes of memory are in use"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version: &str, mode: &str, role: &str) -> Hello {
        Hello { server: "redis".into(), version: version.into(), mode: mode.into(), role: role.into() }
    }

    #[test]
    fn servers_that_cannot_be_used_say_why() {
        assert_eq!(hello("7.0.15", "standalone", "master").name(), "Redis 7.0.15");
        for good in ["6.2.0", "7.0.15", "8.2.1", "10.0"] {
            assert!(hello(good, "standalone", "master").check().is_ok(), "{good}");
        }
        for (version, mode, role, part) in [
            ("6.0.16", "standalone", "master", "6.2 or later"),
            ("5.0.3", "standalone", "master", "too old"),
            ("7.0.0", "cluster", "master", "Cluster"),
            ("7.0.0", "sentinel", "master", "Sentinel"),
            ("7.0.0", "standalone", "replica", "replica"),
            ("7.0.0", "standalone", "slave", "replica"),
        ] {
            let refused = hello(version, mode, role).check().unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn what_messages_are_exposed_to_is_said() {
        let check = |policy: &str, append_only: bool, fsync: &str, save: &str, expect: &[&str]| {
            let pairs = [
                "maxmemory-policy",
                policy,
                "appendonly",
                if append_only { "yes" } else { "no" },
                "appendfsync",
                fsync,
                "save",
                save,
            ];
            let mut keeping = Keeping::default();
            keeping.read_config(&pairs.map(str::to_owned));
            let warnings = keeping.warnings();
            assert_eq!(warnings.len(), expect.len(), "{warnings:?}");
            warnings
                .iter()
                .zip(expect)
                .for_each(|(warning, part)| assert!(warning.contains(part), "{warning}"));
        };
        check("noeviction", true, "everysec", "", &[]);
        check("noeviction", true, "always", "3600 1", &[]);
        check("allkeys-lru", true, "everysec", "", &["allkeys-lru"]);
        check("noeviction", false, "everysec", "", &["persistence is off"]);
        check("volatile-ttl", false, "everysec", "3600 1", &["volatile-ttl", "last snapshot"]);
        check("noeviction", true, "no", "", &["appendfsync is no"]);
        assert_eq!(Keeping::default().warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_full_server_is_told_from_one_that_evicts() {
        let keeping = |used, max, policy: &str| Keeping {
            used_memory: Some(used),
            max_memory: Some(max),
            policy: Some(policy.into()),
            ..Keeping::default()
        };
        assert!(keeping(10, 10, "noeviction").full().is_some());
        for keeping in
            [keeping(9, 10, "noeviction"), keeping(10, 0, "noeviction"), keeping(10, 10, "allkeys-lru")]
        {
            assert_eq!(keeping.full(), None);
        }
    }
}
