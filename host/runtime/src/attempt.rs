//! One attempt as the store's data: what it may use, what it used, what it asked for. Written by
//! `imports` and the clock while the guest runs, read by `handler` afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use brolly_core::{Effects, Fault, Limits, LogLevel, LogLine, Name, Outgoing, Subscription};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    fault::{Stop, cut},
    lent::Lent,
    meter::Meter,
    overlay::Overlay,
};

/// Log lines kept of one attempt, whatever their length: an empty line takes memory too.
pub const MAX_LOG_LINES: usize = 1_000;

/// What a subscription allows and tells its handler. Shared by all its instances.
pub(crate) struct Terms {
    pub(crate) subscription: Name,
    pub(crate) limits: Limits,
    /// The CPU limit in milliseconds, if it can be reached before the one on wall time.
    cpu_ms: Option<u64>,
    /// The topics that it may publish to; none means any.
    pub(crate) publish: Option<BTreeSet<Name>>,
    pub(crate) config: BTreeMap<String, String>,
}

impl Terms {
    pub(crate) fn new(name: &Name, subscription: &Subscription) -> Self {
        let limits = subscription.limits.clone();
        Self {
            subscription: name.clone(),
            cpu_ms: limits.cpu_ms.filter(|&cpu_ms| cpu_ms < limits.time_ms),
            limits,
            publish: subscription.grants.publish.as_ref().map(|topics| topics.iter().cloned().collect()),
            config: subscription.config.clone(),
        }
    }
}

/// The data of a store: one instance and the attempt that it is working on.
pub(crate) struct Guest {
    pub(crate) terms: Arc<Terms>,
    pub(crate) meter: Meter,
    pub(crate) lent: Lent,
    pub(crate) attempt: Attempt,
}

impl Guest {
    pub(crate) fn new(terms: Arc<Terms>, started: Instant) -> Self {
        let meter = Meter::new(&terms.limits);
        Self { terms, meter, lent: Lent::default(), attempt: Attempt::new(started) }
    }

    /// Begins another attempt with the same instance.
    pub(crate) fn begin(&mut self, started: Instant) {
        self.meter.begin();
        self.attempt = Attempt::new(started);
    }

    /// Looks at the clocks, once per tick.
    pub(crate) fn check_time(&mut self) -> Result<(), Stop> {
        let limit_ms = self.terms.limits.time_ms;
        if self.attempt.started.elapsed() >= Duration::from_millis(limit_ms) {
            return Err(Fault::TimeOut { limit_ms }.into());
        }
        let Some(limit_ms) = self.terms.cpu_ms else { return Ok(()) };
        let now = thread_cpu_time();
        // The clock is first read here, not when the attempt begins: most attempts end before
        // their first tick and never pay for it.
        let since = *self.attempt.cpu_started.get_or_insert(now);
        if now.saturating_sub(since) >= Duration::from_millis(limit_ms) {
            return Err(Fault::CpuTime { limit_ms }.into());
        }
        Ok(())
    }
}

fn thread_cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What one attempt used and asked for.
pub(crate) struct Attempt {
    pub(crate) started: Instant,
    /// CPU time of the thread at the first tick.
    cpu_started: Option<Duration>,
    pub(crate) overlay: Overlay,
    pub(crate) publish: Vec<Outgoing>,
    /// Bytes published so far.
    pub(crate) published_bytes: u64,
    /// Messages published without an id so far.
    pub(crate) derived_ids: u32,
    logs: Vec<LogLine>,
    log_bytes: u64,
    logs_dropped: u64,
}

impl Attempt {
    fn new(started: Instant) -> Self {
        Self {
            started,
            cpu_started: None,
            overlay: Overlay::default(),
            publish: Vec::new(),
            published_bytes: 0,
            derived_ids: 0,
            logs: Vec::new(),
            log_bytes: 0,
            logs_dropped: 0,
        }
    }

    /// Keeps a log line as far as `limit` allows. What is kept is a prefix of what was logged: the
    /// line that crosses the limit is cut, and it and all lines after it are counted. So a count of
    /// zero means a complete log.
    pub(crate) fn log(&mut self, level: LogLevel, mut text: String, limit: u64) {
        if self.logs_dropped > 0 || self.logs.len() >= MAX_LOG_LINES {
            self.logs_dropped += 1;
            return;
        }
        let room = usize::try_from(limit.saturating_sub(self.log_bytes)).unwrap_or(usize::MAX);
        if text.len() > room {
            self.logs_dropped += 1;
            text = cut(text, room);
            if text.is_empty() {
                return;
            }
        }
        self.log_bytes += text.len() as u64;
        self.logs.push(LogLine { level, text });
    }

    /// Takes the log: the lines kept, and how many were cut or dropped.
    pub(crate) fn take_logs(&mut self) -> (Vec<LogLine>, u64) {
        (std::mem::take(&mut self.logs), std::mem::take(&mut self.logs_dropped))
    }

    /// Takes what the attempt asked for.
    pub(crate) fn take_effects(&mut self) -> Effects {
        Effects {
            state: std::mem::take(&mut self.overlay).into_writes(),
            publish: std::mem::take(&mut self.publish),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(limit: u64, lines: &[&str], kept: &[&str], dropped: u64) {
        let mut attempt = Attempt::new(Instant::now());
        for line in lines {
            attempt.log(LogLevel::Info, (*line).to_owned(), limit);
        }
        let (logs, count) = attempt.take_logs();
        let texts: Vec<&str> = logs.iter().map(|line| line.text.as_str()).collect();
        assert_eq!((texts.as_slice(), count), (kept, dropped), "limit {limit}, lines {lines:?}");
    }

    #[test]
    fn log_lines_are_kept_up_to_the_limit() {
        check(10, &["12345", "67890"], &["12345", "67890"], 0);
        check(10, &["12345", "678901"], &["12345", "67890"], 1);
        check(10, &["1234567890", "1", "2"], &["1234567890"], 2);
        check(10, &["12345678é0", ""], &["12345678é"], 2);
        check(10, &["123456789é", "1"], &["123456789"], 2);
        check(10, &["1234567890", ""], &["1234567890", ""], 0);
        check(1, &["é", "1"], &[], 2);
        check(0, &["a"], &[], 1);
    }

    #[test]
    fn empty_lines_are_limited_too() {
        let lines = vec![""; MAX_LOG_LINES + 2];
        check(10, &lines, &lines[2..], 2);
    }
}
