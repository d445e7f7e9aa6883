//! The definition of a subscription: who handles the messages of a queue, within which limits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Code, Digest, Grants, Guard, Name, Refusal, RetryPolicy, Rollout,
    definition::{Mistakes, defaults},
};

/// In which order deliveries of one queue are handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As they come; several workers may handle messages of one key at once.
    #[default]
    None,
    /// Messages of one key strictly one after the other, in the order of publishing; a retry holds
    /// back the messages of its key, and only those. Messages without a key are not ordered.
    Key,
}

/// Whether a handler instance serves one delivery or many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    /// A new instance for every delivery: nothing is left of the one before.
    #[default]
    Fresh,
    /// One instance for up to 10,000 deliveries, replaced at once after a fault. Several times
    /// faster; what the handler keeps in its own memory outlives a delivery, even a failed one.
    Reuse,
}

/// What one delivery may use. Going over a limit is a fault that names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Linear memory of the instance in bytes: 65,536 to 268,435,456 (256 MiB).
    pub memory_bytes: u64,
    /// Wall time in milliseconds: 10 to 600,000. Precise to about 5 ms.
    pub time_ms: u64,
    /// CPU time in milliseconds: 10 to 600,000; none means as much as `time_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Elements of one table: 1 to 100,000.
    pub table_elements: u64,
    /// Core instances, memories and tables that the component may be made of: 1 to 50 each.
    pub instances: u32,
    /// Bytes of log lines kept: 0 to 65,536. What is beyond is dropped and counted, not a fault.
    pub log_bytes: u64,
    /// Messages published: 0 to 200.
    pub publish_messages: u32,
    /// Bytes of payloads, keys, ids and headers published: 0 to 16,777,216.
    pub publish_bytes: u64,
    /// Keys of state written: 0 to 200.
    pub state_writes: u32,
    /// Bytes of state keys and values written: 0 to 4,194,304. One value has at most 65,536 bytes.
    pub state_bytes: u64,
}

impl Limits {
    /// The largest state value, in bytes.
    pub const STATE_VALUE_BYTES: usize = 65_536;
    /// The largest state key, in bytes.
    pub const STATE_KEY_BYTES: usize = 512;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            time_ms: 10_000,
            cpu_ms: None,
            table_elements: 20_000,
            instances: 20,
            log_bytes: 16_384,
            publish_messages: 100,
            publish_bytes: 1 << 20,
            state_writes: 100,
            state_bytes: 1 << 20,
        }
    }
}

/// How fast deliveries are handled at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Attempts that begin in a second: 1 to 1,000,000.
    pub per_second: u32,
    /// Attempts that may begin at once after a rest: 1 to 1,000,000; none means a tenth of `per_second`,
    /// at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Subscriptions that say the same name here share one rate; if they do not agree on it, the
    /// slowest holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub shared: Option<Name>,
}

impl Rate {
    /// Attempts that may begin at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or((self.per_second / 10).max(1))
    }
}

/// Where the messages of a queue are moved, with their ids, keys and headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The topic.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub topic: Name,
}

impl Forward {
    /// The fewest messages that are on their way at the same time.
    pub const WORKERS: u32 = 32;
}

/// What becomes of the deliveries of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandledBy<'a> {
    /// A plugin handles them.
    Plugin {
        /// Its name.
        plugin: &'a Name,
        /// Its version.
        version: Digest,
    },
    /// They are moved.
    Forward(&'a Forward),
}

/// The part of a subscription that a handler could notice: what changes hands when a version takes over,
/// and comes back when it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of Subscription")]
pub struct Terms {
    pub plugin: Name,
    pub version: Digest,
    pub config: BTreeMap<String, String>,
    pub limits: Limits,
    pub grants: Grants,
    pub instances: Reuse,
}

/// Who handles the messages of a queue, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// The queue; it has at most one subscription.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub queue: Name,
    /// The plugin; with `version`, or else there is `forward`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub plugin: Option<Name>,
    /// The version of the plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub version: Option<Digest>,
    /// The messages are not handled but moved to another topic, on whichever broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// Deliveries handled at the same time: 1 to 256. A forward, whose workers only wait for
    /// confirmations, has at least [`Forward::WORKERS`], within `max_in_flight`.
    #[serde(default = "defaults::workers")]
    pub workers: u32,
    /// Deliveries taken and not yet settled: `workers` to 10,000. More than `workers` lets
    /// outcomes become durable in groups while the next deliveries are handled.
    #[serde(default = "defaults::max_in_flight")]
    pub max_in_flight: u32,
    /// In which order.
    #[serde(default)]
    pub order: Order,
    /// Whether an instance serves one delivery or many.
    #[serde(default)]
    pub instances: Reuse,
    /// What the plugin may read by name. At most 64 KiB in all.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// What one delivery may use.
    #[serde(default)]
    pub limits: Limits,
    /// When a failed delivery is tried again.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// What the handler may do.
    #[serde(default)]
    pub grants: Grants,
    /// How fast deliveries are handled at most; none means as fast as they can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Watches over a version that takes over; null means that nobody does.
    #[serde(default = "defaults::guard")]
    pub guard: Option<Guard>,
    /// A candidate that is held against the version before it takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Paused: no delivery is taken. Left out in a PUT, the present state stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// For people.
    #[serde(default)]
    pub description: String,
}

impl Subscription {
    /// The most workers of one subscription.
    pub const MAX_WORKERS: u32 = 256;
    /// Bytes of all configuration names and values.
    pub const CONFIG_BYTES: usize = 64 * 1024;

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.unwrap_or(false)
    }

    /// What becomes of its deliveries.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] when that is neither or both of the two; [`Subscription::check`]
    /// finds it, too.
    pub fn handled_by(&self) -> Result<HandledBy<'_>, Refusal> {
        let detail = match (&self.plugin, self.version, &self.forward) {
            (Some(plugin), Some(version), None) => return Ok(HandledBy::Plugin { plugin, version }),
            (None, None, Some(forward)) => return Ok(HandledBy::Forward(forward)),
            (Some(_), None, None) => "there is plugin and no version; give the digest of the version",
            (None, Some(_), None) => "there is version and no plugin",
            (None, None, None) => "there is neither plugin with version nor forward; give one of them",
            (_, _, Some(_)) => "there is both plugin or version and forward; give one of them",
        };
        Err(Refusal::new(Code::InvalidDefinition, detail))
    }

    fn check_rollout(&self, rollout: &Rollout, mistakes: &mut Mistakes) {
        rollout.check(mistakes);
        let config =
            rollout.config.iter().flatten().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        mistakes.range("rollout.config (bytes)", config as u64, 0..=Self::CONFIG_BYTES as u64);
        if self.forward.is_some() {
            mistakes.0.push("there is both forward and rollout; a forward has no versions".to_owned());
        }
        if self.runs(rollout) {
            mistakes.0.push("rollout.version is the version that runs; name the candidate".to_owned());
        }
    }

    /// What a handler could notice of it; none for a forward.
    #[must_use]
    pub fn terms(&self) -> Option<Terms> {
        Some(Terms {
            plugin: self.plugin.clone()?,
            version: self.version?,
            config: self.config.clone(),
            limits: self.limits.clone(),
            grants: self.grants.clone(),
            instances: self.instances,
        })
    }

    /// The same subscription on other terms, with the version that they name alone.
    #[must_use]
    pub fn on(&self, terms: Terms) -> Self {
        let Terms { plugin, version, config, limits, grants, instances } = terms;
        let (plugin, version) = (Some(plugin), Some(version));
        let (forward, rollout) = (None, None);
        Self { plugin, version, config, limits, grants, instances, forward, rollout, ..self.clone() }
    }

    /// The subscription as the candidate of its rollout handles it; none without a rollout.
    #[must_use]
    pub fn candidate(&self) -> Option<Self> {
        let rollout = self.rollout.clone()?;
        let config = rollout.config.unwrap_or_else(|| self.config.clone());
        Some(Self { version: Some(rollout.version), config, rollout: None, ..self.clone() })
    }

    /// Whether the candidate of this rollout handles its deliveries, with effect and alone.
    #[must_use]
    pub fn runs(&self, rollout: &Rollout) -> bool {
        self.version == Some(rollout.version)
            && rollout.config.as_ref().is_none_or(|config| *config == self.config)
    }

    /// Whether this plugin handles its deliveries.
    #[must_use]
    pub fn uses(&self, plugin: &Name) -> bool {
        self.plugin.as_ref() == Some(plugin)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] with all mistakes.
    pub fn check(&self) -> Result<(), Refusal> {
        let mut mistakes = Mistakes::default();
        mistakes.0.extend(self.handled_by().err().map(|refusal| refusal.detail));
        let (limits, retry) = (&self.limits, &self.retry);
        mistakes.range("workers", self.workers.into(), 1..=Self::MAX_WORKERS.into());
        mistakes.range("max_in_flight", self.max_in_flight.into(), self.workers.into()..=10_000);
        mistakes.range("limits.memory_bytes", limits.memory_bytes, 65_536..=256 << 20);
        mistakes.range("limits.time_ms", limits.time_ms, 10..=600_000);
        mistakes.range("limits.cpu_ms", limits.cpu_ms.unwrap_or(10), 10..=600_000);
        mistakes.range("limits.table_elements", limits.table_elements, 1..=100_000);
        mistakes.range("limits.instances", limits.instances.into(), 1..=50);
        mistakes.range("limits.log_bytes", limits.log_bytes, 0..=65_536);
        mistakes.range("limits.publish_messages", limits.publish_messages.into(), 0..=200);
        mistakes.range("limits.publish_bytes", limits.publish_bytes, 0..=16 << 20);
        mistakes.range("limits.state_writes", limits.state_writes.into(), 0..=200);
        mistakes.range("limits.state_bytes", limits.state_bytes, 0..=4 << 20);
        mistakes.range("retry.max_attempts", retry.max_attempts.into(), 1..=RetryPolicy::MAX_ATTEMPTS.into());
        mistakes.range("retry.initial_delay_ms", retry.initial_delay_ms, 0..=RetryPolicy::MAX_DELAY_MS);
        mistakes.range(
            "retry.max_delay_ms",
            retry.max_delay_ms,
            retry.initial_delay_ms.min(RetryPolicy::MAX_DELAY_MS)..=RetryPolicy::MAX_DELAY_MS,
        );
        self.grants.check(&mut mistakes);
        let config: usize = self.config.iter().map(|(name, value)| name.len() + value.len()).sum();
        mistakes.range("config (bytes)", config as u64, 0..=Self::CONFIG_BYTES as u64);
        if let Some(rate) = &self.rate {
            mistakes.range("rate.per_second", rate.per_second.into(), 1..=1_000_000);
            mistakes.range("rate.burst", rate.burst().into(), 1..=1_000_000);
        }
        if let Some(guard) = &self.guard {
            guard.check(&mut mistakes);
        }
        if let Some(rollout) = &self.rollout {
            self.check_rollout(rollout, &mut mistakes);
        }
        mistakes.into_result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(json: serde_json::Value) -> Result<(), String> {
        let mut base = serde_json::json!({
            "queue": "settlement", "plugin": "settlement", "version": format!("sha256:{}", "ab".repeat(32)),
        });
        let fields = base.as_object_mut().unwrap();
        fields.extend(json.as_object().unwrap().clone());
        let subscription: Subscription = serde_json::from_value(base).map_err(|error| error.to_string())?;
        subscription.check().map_err(|refusal| refusal.detail)
    }

    #[test]
    fn subscriptions_accept_both_ends_of_every_range_and_nothing_beyond() {
        let ranges = [
            ("/workers", 1_u64, 256_u64),
            ("/max_in_flight", 1, 10_000),
            ("limits/memory_bytes", 65_536, 268_435_456),
            ("limits/time_ms", 10, 600_000),
            ("limits/cpu_ms", 10, 600_000),
            ("limits/table_elements", 1, 100_000),
            ("limits/instances", 1, 50),
            ("limits/log_bytes", 0, 65_536),
            ("limits/publish_messages", 0, 200),
            ("limits/publish_bytes", 0, 16_777_216),
            ("limits/state_writes", 0, 200),
            ("limits/state_bytes", 0, 4_194_304),
            ("grants.http/time_ms", 10, 600_000),
            ("grants.http/requests", 1, 100),
            ("grants.http/request_bytes", 0, 16_777_216),
            ("grants.http/response_bytes", 0, 16_777_216),
            ("retry/max_attempts", 1, 100),
            ("retry/max_delay_ms", 200, 86_400_000),
            ("guard/faults", 1, 1_000),
            ("guard/for_ms", 1_000, 86_400_000),
        ];
        for (path, low, high) in ranges {
            let (group, field) = path.split_once('/').unwrap();
            let with = |value: u64| {
                let mut json = serde_json::json!({"max_in_flight": 10_000});
                match group {
                    "" => json = serde_json::json!({field: value}),
                    "grants.http" => {
                        json["grants"] = serde_json::json!({"http": {"hosts": ["h.example"], field: value}});
                    }
                    group => json[group] = serde_json::json!({field: value}),
                }
                if field == "workers" {
                    json["max_in_flight"] = 10_000.into();
                }
                subscription(json)
            };
            assert_eq!((with(low), with(high)), (Ok(()), Ok(())), "{path}");
            assert!(with(high + 1).unwrap_err().contains(field), "{path}");
            if low > 0 {
                assert!(with(low - 1).unwrap_err().contains(field), "{path}");
            }
        }
    }

    #[test]
    fn rates_and_rollouts_have_limits_too() {
        let rate = |json: serde_json::Value| subscription(serde_json::json!({"rate": json}));
        assert_eq!(
            rate(serde_json::json!({"per_second": 1, "burst": 1_000_000, "shared": "insurer"})),
            Ok(())
        );
        for (wrong, says) in [
            (serde_json::json!({"per_second": 0}), "rate.per_second"),
            (serde_json::json!({"per_second": 1_000_001}), "rate.per_second"),
            (serde_json::json!({"per_second": 1, "burst": 0}), "rate.burst"),
            (serde_json::json!({"per_second": 1, "burst": 1_000_001}), "rate.burst"),
        ] {
            assert!(rate(wrong).unwrap_err().contains(says), "{says}");
        }
        let other = format!("sha256:{}", "cd".repeat(32));
        let rollout = |rules: serde_json::Value, percent: u32| {
            let rollout =
                serde_json::json!({"version": other, "mode": "shadow", "percent": percent, "rules": rules});
            subscription(serde_json::json!({"rollout": rollout}))
        };
        assert_eq!(rollout(serde_json::json!({}), 1), Ok(()));
        assert_eq!(rollout(serde_json::json!({"after": 1_000_000, "worse_percent": 100.0}), 100), Ok(()));
        assert_eq!(rollout(serde_json::json!({"after": 5, "promote_after": 5}), 1), Ok(()));
        for (rules, percent, says) in [
            (serde_json::json!({}), 0, "rollout.percent"),
            (serde_json::json!({}), 101, "rollout.percent"),
            (serde_json::json!({"after": 0}), 1, "rollout.rules.after"),
            (serde_json::json!({"after": 1_000_001}), 1, "rollout.rules.after"),
            (serde_json::json!({"worse_percent": -0.1}), 1, "worse_percent"),
            (serde_json::json!({"differing_percent": 100.1}), 1, "differing_percent"),
            (serde_json::json!({"slower_percent": 100_000.1}), 1, "slower_percent"),
            (serde_json::json!({"after": 5, "promote_after": 4}), 1, "promote_after"),
        ] {
            assert!(rollout(rules, percent).unwrap_err().contains(says), "{says}");
        }
        let same = format!("sha256:{}", "ab".repeat(32));
        let rollout = serde_json::json!({"version": same, "mode": "canary", "percent": 5});
        let mistake = subscription(serde_json::json!({"rollout": rollout})).unwrap_err();
        assert!(mistake.contains("the version that runs"), "{mistake}");
    }

    #[test]
    fn all_mistakes_at_once_and_unknown_fields_by_name() {
        let mistakes = subscription(serde_json::json!({"workers": 0, "limits": {"time_ms": 1}})).unwrap_err();
        assert!(mistakes.contains("workers") && mistakes.contains("limits.time_ms"), "{mistakes}");
        assert!(subscription(serde_json::json!({"wokers": 1})).unwrap_err().contains("wokers"));
        assert!(subscription(serde_json::json!({"queue": "no/slash"})).unwrap_err().contains("no/slash"));
    }

    #[test]
    fn hosts_are_named_one_by_one_and_not_too_many() {
        let with =
            |hosts: Vec<String>| subscription(serde_json::json!({"grants": {"http": {"hosts": hosts}}}));
        let many = |n: usize| (0..n).map(|n| format!("h{n}.example")).collect();
        assert_eq!((with(many(1)), with(many(64))), (Ok(()), Ok(())));
        assert!(with(many(0)).unwrap_err().contains("grants.http.hosts (how many)"));
        assert!(with(many(65)).unwrap_err().contains("grants.http.hosts (how many)"));
        let wrong = with(vec!["https://a.example".into(), "b.example".into(), "*".into()]).unwrap_err();
        assert!(wrong.contains("https://a.example") && wrong.contains("\"*\""), "{wrong}");
        assert!(!wrong.contains("b.example"), "{wrong}");
    }

    #[test]
    fn a_subscription_has_a_plugin_or_forwards() {
        let none = serde_json::Value::Null;
        let forward = serde_json::json!({"topic": "t"});
        let forwards = serde_json::json!({"plugin": none, "version": none, "forward": forward});
        assert_eq!(subscription(forwards), Ok(()));
        for (wrong, says) in [
            (serde_json::json!({"forward": forward}), "both"),
            (serde_json::json!({"plugin": none, "version": none}), "neither"),
            (serde_json::json!({"version": none}), "no version"),
            (serde_json::json!({"plugin": none}), "no plugin"),
        ] {
            let mistake = subscription(wrong).unwrap_err();
            assert!(mistake.contains(says), "{mistake}");
        }
    }
}
