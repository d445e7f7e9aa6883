//! The host's side of the calls when a handler runs natively: one attempt for each thread.
//!
//! The SDK's modules call the functions here where a guest would call its imports.

use std::{
    any::Any,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::Duration,
};

use super::{
    LogLine, Outcome,
    contract::{self, Broken, Limits},
    outside::Outside,
};
use crate::{
    Failure,
    http::{Error, Request, Response},
    log::Level,
    publish::Message,
    state::Entry,
};

thread_local! {
    static CURRENT: RefCell<Option<Attempt>> = const { RefCell::new(None) };
}

/// What one attempt sees and has done so far.
pub(super) struct Attempt {
    config: Arc<BTreeMap<String, String>>,
    before: Arc<BTreeMap<String, Vec<u8>>>,
    granted: Option<Arc<[String]>>,
    limits: Limits,
    outside: Outside,
    published_bytes: usize,
    /// The last value for each key; none deletes it.
    pub(super) written: BTreeMap<String, Option<Vec<u8>>>,
    pub(super) published: Vec<Message>,
    pub(super) logs: Vec<LogLine>,
    pub(super) requests: Vec<Request>,
}

impl Attempt {
    pub(super) fn new(
        config: Arc<BTreeMap<String, String>>,
        before: Arc<BTreeMap<String, Vec<u8>>>,
        granted: Option<Arc<[String]>>,
        limits: Limits,
        outside: Outside,
    ) -> Self {
        Self {
            config,
            before,
            granted,
            limits,
            outside,
            published_bytes: 0,
            written: BTreeMap::new(),
            published: Vec::new(),
            logs: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// Runs a handler with this as the attempt that its calls mean.
    pub(super) fn run(self, handler: impl FnOnce() -> Result<(), Failure>) -> (Outcome, Self) {
        let nested = CURRENT.replace(Some(self));
        // The handler's own values are dropped by the unwinding, and its effects are thrown away.
        let outcome = match panic::catch_unwind(AssertUnwindSafe(handler)) {
            Ok(Ok(())) => Outcome::Ack,
            Ok(Err(failure)) => Outcome::Failed(failure),
            Err(panic) => Outcome::Fault(panic_message(&*panic)),
        };
        let attempt = CURRENT.replace(nested);
        #[allow(clippy::expect_used, reason = "put there above; nobody else takes it away")]
        (outcome, attempt.expect("the attempt"))
    }

    fn get(&self, key: &str) -> Option<&Vec<u8>> {
        match self.written.get(key) {
            Some(written) => written.as_ref(),
            None => self.before.get(key),
        }
    }

    fn write(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), Broken> {
        contract::state_key(key)?;
        contract::state_value(value.unwrap_or_default())?;
        self.written.insert(key.to_owned(), value.map(<[u8]>::to_vec));
        if self.written.len() > self.limits.state_writes as usize {
            return Err(format!(
                "more than {} keys of state written (limits.state_writes)",
                self.limits.state_writes
            ));
        }
        let size = |(key, value): (&String, &Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        let bytes: usize = self.written.iter().map(size).sum();
        if bytes as u64 > self.limits.state_bytes {
            return Err(format!("{bytes} bytes of state written, the limit is {}", self.limits.state_bytes));
        }
        Ok(())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Entry>, Broken> {
        contract::list_limit(limit)?;
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let range = (from, Bound::Unbounded);
        let before = self.before.range::<str, _>(range).map(|(key, _)| key);
        let written = self.written.range::<str, _>(range).map(|(key, _)| key);
        let keys: BTreeSet<&String> = before.chain(written).filter(|key| key.starts_with(prefix)).collect();
        let entry = |key: &String| Some(Entry { key: key.clone(), value: self.get(key)?.clone() });
        Ok(keys.into_iter().filter_map(entry).take(limit as usize).collect())
    }

    fn publish(&mut self, message: Message) -> Result<(), Broken> {
        self.published_bytes += contract::message(&message, self.granted.as_deref())?;
        self.published.push(message);
        if self.published.len() > self.limits.publish_messages as usize {
            return Err(format!(
                "more than {} messages (limits.publish_messages)",
                self.limits.publish_messages
            ));
        }
        if self.published_bytes as u64 > self.limits.publish_bytes {
            let (bytes, limit) = (self.published_bytes, self.limits.publish_bytes);
            return Err(format!("{bytes} bytes published, the limit is {limit} (limits.publish_bytes)"));
        }
        Ok(())
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// Does something with the attempt of this thread. What breaks the contract ends the attempt, as
/// the host would end it.
#[allow(clippy::panic, reason = "this is how an attempt is ended on the spot; `Attempt::run` catches it")]
fn with<R>(call: impl FnOnce(&mut Attempt) -> Result<R, Broken>) -> R {
    let result = CURRENT.with_borrow_mut(|current| match current {
        Some(attempt) => call(attempt),
        None => Err("a call to the host outside of a handler; in a test, run the handler with \
                     brolly_plugin::testing::Harness"
            .to_owned()),
    });
    match result {
        Ok(value) => value,
        Err(broken) => panic!("{broken}"),
    }
}

pub(crate) fn log_write(level: Level, text: &str) {
    with(|attempt| {
        attempt.logs.push(LogLine { level, text: text.to_owned() });
        Ok(())
    });
}

pub(crate) fn config_get(name: &str) -> Option<String> {
    with(|attempt| Ok(attempt.config.get(name).cloned()))
}

pub(crate) fn state_get(key: &str) -> Option<Vec<u8>> {
    with(|attempt| {
        contract::state_key(key)?;
        Ok(attempt.get(key).cloned())
    })
}

pub(crate) fn state_set(key: &str, value: &[u8]) {
    with(|attempt| attempt.write(key, Some(value)));
}

pub(crate) fn state_delete(key: &str) {
    with(|attempt| attempt.write(key, None));
}

pub(crate) fn state_list(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
    with(|attempt| attempt.list(prefix, after, limit))
}

pub(crate) fn publish(message: Message) {
    with(|attempt| attempt.publish(message));
}

pub(crate) fn clock_now_ms() -> u64 {
    with(|attempt| attempt.outside.clock().copied())
}

pub(crate) fn clock_monotonic_ms() -> u64 {
    clock_now_ms()
}

pub(crate) fn clock_sleep(duration: Duration) {
    with(|attempt| attempt.outside.sleep(duration));
}

pub(crate) fn random(count: usize) -> Vec<u8> {
    with(|attempt| attempt.outside.random(count))
}

pub(crate) fn http(request: Request) -> Result<Response, Error> {
    let respond = with(|attempt| {
        let respond = attempt.outside.respond()?;
        attempt.requests.push(request.clone());
        Ok(respond)
    });
    respond(&request)
}
