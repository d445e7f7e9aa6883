//! P1 and P2: what the runtime adds to a call of a plugin: limits, grants, the overlay over the
//! state, the clock. Both sides hand the settlement plugin the same order and take from it the
//! state that it wrote.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use anyhow::{Context, anyhow, ensure};
use brolly_core::{
    Call, Handled, Handler, Message, Name, Nowhere, Outcome, Plugins, Reuse, StateEntry, StateReader,
    StateUnavailable, Subscription, Timestamp, Verdict,
};
use brolly_runtime::{Config, Runtime};
use brolly_store::Engine;
use bytes::Bytes;

use crate::{
    bare::{Bare, Bounds},
    report::{Goal, Row, by_turns},
};

const RUNS: usize = 21;
const ORDER: &[u8] =
    br#"{"order_id":"o-0001042","customer_id":"c-00042","paid_on":"1997-06-12","quantity":3,"amount_cents":4271}"#;

/// A plugin in Brolly's runtime, and the message that it is given.
struct Ours {
    handler: Arc<dyn Handler>,
    message: Message,
    subscription: Name,
    state: NoState,
    /// Holds the compiled plugin while the handler is in use.
    _dir: tempfile::TempDir,
}

/// A state in which no day was settled yet.
struct NoState;

/// P1: a fresh instance per message.
pub fn fresh(_: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let wasm = plugin()?;
    let ours = Ours::new(&wasm, Reuse::Fresh)?;
    let bare = Bare::new(&wasm, Bounds::Explicit)?;
    same(&ours, &bare)?;
    let (mut values, mut baselines) = by_turns(
        RUNS,
        2_000,
        || ours.call(),
        || {
            let mut instance = bare.instance()?;
            instance.call(&ours.message.id, ORDER)
        },
    )?;
    let what = "settlement, a fresh instance per message: the runtime / bare wasmtime";
    Ok(vec![Row::new("P1", what, "us/message", Goal::AtMost(1.25), &mut values, &mut baselines)])
}

/// P2: an instance that is used again.
pub fn reused(_: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let wasm = plugin()?;
    let ours = Ours::new(&wasm, Reuse::Reuse)?;
    let bare = Bare::new(&wasm, Bounds::GuardPages)?;
    same(&ours, &bare)?;
    let mut instance = bare.instance()?;
    let (mut values, mut baselines) =
        by_turns(RUNS, 20_000, || ours.call(), || instance.call(&ours.message.id, ORDER))?;
    let what = "settlement, a reused instance: the runtime / a bare wasmtime call";
    Ok(vec![Row::new("P2", what, "us/message", Goal::AtMost(1.5), &mut values, &mut baselines)])
}

/// The sample plugin that reads JSON, configuration and state, and writes state.
pub fn plugin() -> anyhow::Result<Vec<u8>> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins/settlement.wasm"));
    fs::read(path).with_context(|| format!("reading {}; `cargo xtask plugins` builds it", path.display()))
}

/// Both sides must do the same before it means anything to compare them.
fn same(ours: &Ours, bare: &Bare) -> anyhow::Result<()> {
    let state = ours.call()?.effects.state;
    let written: BTreeMap<String, Option<Bytes>> = bare
        .instance()?
        .call(&ours.message.id, ORDER)?
        .into_iter()
        .map(|(key, value)| (key, Some(Bytes::from(value))))
        .collect();
    ensure!(!state.is_empty() && state == written, "the sides differ: {state:?} and {written:?}");
    Ok(())
}

impl Ours {
    fn new(wasm: &[u8], instances: Reuse) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("settlement.wasm");
        fs::write(&path, wasm)?;
        let runtime = Runtime::new(Config::new(dir.path().join("cache")))?;
        let admission = runtime.admit(wasm)?;
        let mut subscription: Subscription = serde_json::from_value(serde_json::json!({
            "queue": "settlement", "plugin": "settlement", "version": admission.digest,
        }))?;
        subscription.instances = instances;
        let name = Name::new("settlement")?;
        let message = Message {
            id: "o-0001042".to_owned(),
            topic: Name::new("orders.paid")?,
            key: "c-00042".to_owned(),
            content_type: "application/json".to_owned(),
            headers: BTreeMap::new(),
            published_at: Timestamp(1_700_000_000_000),
            expires_at: None,
            payload: Bytes::from_static(ORDER),
        };
        let handler = runtime.handler(&name, &subscription, &admission.digest, &path)?;
        Ok(Self { handler, message, subscription: name, state: NoState, _dir: dir })
    }

    fn call(&self) -> anyhow::Result<Handled> {
        let handled = self.handler.handle(&Call {
            message: &self.message,
            subscription: &self.subscription,
            attempt: 1,
            last_attempt: false,
            idempotency_key: "settlement/42",
            state: &self.state,
            outside: &Nowhere,
        });
        match handled.verdict {
            Verdict::Outcome(Outcome::Ack) => Ok(handled),
            other => Err(anyhow!("the plugin did not acknowledge: {other:?}")),
        }
    }
}

impl StateReader for NoState {
    fn get(&self, _: &str) -> Result<Option<Bytes>, StateUnavailable> {
        Ok(None)
    }

    fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<StateEntry>, StateUnavailable> {
        Ok(Vec::new())
    }
}
