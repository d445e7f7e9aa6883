//! What handlers are granted of clock, randomness and HTTP, and everything else that they are not.
//!
//! Most of it runs in the host's own sandbox with the host's own outside, against a server of the test's.
//! Each attempt is captured and made again from the capture, with nothing outside: it must end the same.

mod clocks;
mod http;
mod serving;
mod wasi;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use brolly_capture::{Capture, Happened, Mode, Recorded, Recorders};
use brolly_core::{
    Admission, Call, Handled, Handler, Message, Name, Plugins, StateEntry, StateReader, StateUnavailable,
    Subscription, SystemClock, Timestamp,
};
use brolly_outside::System;
use brolly_runtime::{Config, Runtime};
use brolly_tests::server::plugin_bytes;
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The sandbox, and the outside.
pub(super) struct Rig {
    runtime: Runtime,
    outside: System,
    dir: TempDir,
    attempts: AtomicU64,
}

/// What came of one attempt.
pub(super) struct Run {
    /// Everything that it was told.
    pub capture: Arc<Capture>,
    happened: Happened,
}

impl Rig {
    /// To be made in a runtime with several threads.
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime =
            Runtime::new(Config { max_instances: 16, ..Config::new(dir.path().join("cache")) }).unwrap();
        let outside = System::new(tokio::runtime::Handle::current());
        Self { runtime, outside, dir, attempts: AtomicU64::new(0) }
    }

    pub(super) fn admit(&self, guest: &str) -> Admission {
        self.runtime.admit(&plugin_bytes(guest)).unwrap()
    }

    pub(super) fn handler(&self, guest: &str, more: &Value) -> (Arc<dyn Handler>, Subscription) {
        let version = self.admit(guest).digest;
        let file = self.dir.path().join(format!("{guest}.wasm"));
        fs::write(&file, plugin_bytes(guest)).unwrap();
        let mut definition = json!({"queue": "q", "plugin": "p", "version": version.to_string()});
        definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let subscription: Subscription = serde_json::from_value(definition).unwrap();
        subscription.check().unwrap();
        let handler = self.runtime.handler(&name(), &subscription, &version, &file).unwrap();
        (handler, subscription)
    }

    /// One attempt of a guest; and once more, from its capture, which must end the same.
    pub(super) fn run(&self, guest: &str, more: &Value) -> Run {
        let run = self.run_once(guest, more);
        let (handler, _) = self.handler(guest, more);
        let recorded = Recorded::new(&run.capture, false);
        let again = attempt(&*handler, run.number(), &recorded, &recorded);
        assert_eq!(Happened::from(&again), run.happened, "from the capture {:?}", run.capture.reads);
        assert_eq!(recorded.unknown(), None);
        run
    }

    /// One attempt that need not end the same again: time runs out.
    pub(super) fn run_once(&self, guest: &str, more: &Value) -> Run {
        let (handler, subscription) = self.handler(guest, more);
        let recorder = Recorders::default().of(&name());
        recorder.set_mode(Mode::All);
        let handler = recorder.clone().over(&subscription, handler, Arc::new(SystemClock));
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        // A handler may keep its thread busy.
        let handled = tokio::task::block_in_place(|| attempt(&*handler, number, &NoState, &self.outside));
        let mut captures = recorder.captures(false, 1).captures;
        let capture = captures.pop().unwrap_or_else(|| panic!("not captured: {:?}", handled.verdict));
        Run { happened: Happened::from(&handled), capture }
    }
}

impl Run {
    fn number(&self) -> u64 {
        self.capture.message.id[1..].parse().unwrap()
    }

    #[track_caller]
    pub(super) fn is(&self, outcome: &str, words: &str) -> &Self {
        let reason = self.happened.reason.clone().unwrap_or_default();
        assert_eq!(self.happened.outcome, outcome, "{reason} {:?}", self.happened.logs);
        assert!(reason.contains(words), "{words:?} is not in {reason:?}");
        self
    }

    /// The text that it published.
    #[track_caller]
    pub(super) fn told(&self) -> String {
        self.is("ack", "");
        String::from_utf8(self.happened.published[0].payload.0.to_vec()).unwrap()
    }

    pub(super) fn logs(&self) -> Vec<String> {
        self.happened.logs.iter().map(|line| format!("{:?} {}", line.level, line.text)).collect()
    }
}

pub(super) fn name() -> Name {
    Name::new("s").unwrap()
}

/// One attempt at the message of this number.
pub(super) fn attempt(
    handler: &dyn Handler,
    number: u64,
    state: &dyn StateReader,
    outside: &dyn brolly_core::Outside,
) -> Handled {
    let message = Message {
        id: format!("m{number}"),
        topic: Name::new("in").unwrap(),
        key: String::new(),
        content_type: String::new(),
        headers: std::collections::BTreeMap::default(),
        published_at: Timestamp(1),
        expires_at: None,
        payload: Bytes::new(),
    };
    handler.handle(&Call {
        message: &message,
        subscription: &name(),
        attempt: 1,
        last_attempt: false,
        idempotency_key: &format!("s/in/m{number}"),
        state,
        outside,
    })
}

/// A state in which nothing is.
pub(super) struct NoState;

impl StateReader for NoState {
    fn get(&self, _: &str) -> Result<Option<Bytes>, StateUnavailable> {
        Ok(None)
    }

    fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<StateEntry>, StateUnavailable> {
        Ok(Vec::new())
    }
}
