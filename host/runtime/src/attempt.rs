//! One attempt as the store's data: what it may use, what it used, what it asked for. Written by
//! `imports` and the clock while the guest runs, read by `handler` afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use brolly_core::{
    Effects, Fault, Grants, HostRule, Limits, LogLevel, LogLine, Name, Outgoing, Subscription,
};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    fault::{Stop, cut},
    lent::Lent,
    meter::Meter,
    overlay::Overlay,
    wasi::{Before, Handles, Held, MAX_HANDLES},
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
    pub(crate) grants: Grants,
    /// The hosts that it may send requests to.
    pub(crate) hosts: Vec<HostRule>,
    pub(crate) config: BTreeMap<String, String>,
}

impl Terms {
    pub(crate) fn new(name: &Name, subscription: &Subscription) -> Self {
        let limits = subscription.limits.clone();
        let grants = subscription.grants.clone();
        // A rule that is none was refused when the subscription was saved.
        let rule = |host: &String| HostRule::parse(host).ok();
        Self {
            subscription: name.clone(),
            cpu_ms: limits.cpu_ms.filter(|&cpu_ms| cpu_ms < limits.time_ms),
            limits,
            publish: grants.publish.as_ref().map(|topics| topics.iter().cloned().collect()),
            hosts: grants.http.iter().flat_map(|http| http.hosts.iter().filter_map(rule)).collect(),
            grants,
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
    /// What it holds of the standard interfaces; made with the first handle.
    pub(crate) handles: Option<Box<Handles>>,
}

impl Guest {
    pub(crate) fn new(terms: Arc<Terms>, started: Instant) -> Self {
        let meter = Meter::new(&terms.limits);
        Self { terms, meter, lent: Lent::default(), attempt: Attempt::new(started), handles: None }
    }

    /// Begins another attempt with the same instance.
    pub(crate) fn begin(&mut self, started: Instant) {
        self.meter.begin();
        self.attempt = Attempt::new(started);
    }

    /// Whether the guest has let go of everything that the attempt brought it: `before` is what it held
    /// then. What answers to requests and messages take is bounded by the attempt, so none of them may
    /// outlive it in an instance that is used again. One that lets go of too little is replaced before it
    /// has no handle left.
    pub(crate) fn has_let_go(&self, before: Held) -> bool {
        let held = self.held();
        held.messages <= before.messages
            && held.handles <= MAX_HANDLES / 2
            && (self.attempt.http.requests == 0 || held.handles <= before.handles)
    }

    pub(crate) fn held(&self) -> Held {
        self.handles.as_ref().map_or(Held::default(), |handles| handles.held())
    }

    /// The wall time that is left of the attempt's limit.
    pub(crate) fn time_left(&self) -> Duration {
        Duration::from_millis(self.terms.limits.time_ms).saturating_sub(self.attempt.started.elapsed())
    }

    /// Looks at the clocks, once per tick, and after whatever kept the attempt waiting.
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
    pub(crate) http: HttpUse,
    /// What was made up for it, because it has no delivery yet.
    pub(crate) before: Option<Before>,
    logs: Vec<LogLine>,
    log_bytes: u64,
    logs_dropped: u64,
    /// Beginnings of lines on the standard output and error.
    unfinished: [Vec<u8>; 2],
}

/// What an attempt has used of its grant to send requests.
#[derive(Default)]
pub(crate) struct HttpUse {
    pub(crate) requests: u32,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
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
            http: HttpUse::default(),
            before: None,
            logs: Vec::new(),
            log_bytes: 0,
            logs_dropped: 0,
            unfinished: [Vec::new(), Vec::new()],
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

    /// Logs what a guest writes to its standard output (`Info`) or error, line by line. Bytes that are
    /// no UTF-8 are shown as such.
    pub(crate) fn write_std(&mut self, level: LogLevel, bytes: &[u8], limit: u64) {
        let at = usize::from(level != LogLevel::Info);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = self.unfinished.get_mut(at) else { return };
            // A line is cut where the log would cut it.
            let room =
                usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1).saturating_sub(line.len());
            let (text, is_whole) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            line.extend_from_slice(text.get(..room).unwrap_or(text));
            if is_whole {
                let line = std::mem::take(line);
                self.log(level, String::from_utf8_lossy(&line).into_owned(), limit);
            }
        }
    }

    /// Logs the lines that were begun and not ended.
    pub(crate) fn end_lines(&mut self, limit: u64) {
        for (at, level) in [(0, LogLevel::Info), (1, LogLevel::Warn)] {
            if self.unfinished.get(at).is_some_and(|line| !line.is_empty()) {
                self.write_std(level, b"\n", limit);
            }
        }
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
    fn what_is_written_to_standard_streams_is_logged_line_by_line() {
        let mut attempt = Attempt::new(Instant::now());
        let limit = 20;
        attempt.write_std(LogLevel::Info, b"one\nt", limit);
        attempt.write_std(LogLevel::Warn, b"err\xff", limit);
        attempt.write_std(LogLevel::Info, b"wo\n\nrest", limit);
        attempt.end_lines(limit);
        let (logs, dropped) = attempt.take_logs();
        let lines: Vec<_> = logs.iter().map(|line| (line.level, line.text.as_str())).collect();
        let (info, warn) = (LogLevel::Info, LogLevel::Warn);
        assert_eq!(lines, [(info, "one"), (info, "two"), (info, ""), (info, "rest"), (warn, "err\u{fffd}")]);
        assert_eq!(dropped, 0);
        // A line without an end takes no more memory than the log may.
        attempt.write_std(LogLevel::Info, &[b'a'; 1_000], limit);
        attempt.write_std(LogLevel::Info, &[b'a'; 1_000], limit);
        assert_eq!(attempt.unfinished[0].len(), 21);
        attempt.end_lines(limit);
        let (logs, dropped) = attempt.take_logs();
        assert_eq!((logs.len(), dropped), (1, 1));
    }

    #[test]
    fn empty_lines_are_limited_too() {
        let lines = vec![""; MAX_LOG_LINES + 2];
        check(10, &lines, &lines[2..], 2);
    }
}
