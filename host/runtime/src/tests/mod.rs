//! The runtime against guests written by hand. Each guest is a core module of a few instructions,
//! given the metadata of the contract just as the SDK does it, and uploaded.

mod admission;
mod cache;
mod effects;
mod instances;
mod limits;
mod overlay;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use brolly_core::{
    Call, Fault, Handled, Handler, Limits, Message, Name, Nowhere, Outcome, PluginError, Plugins, Refusal,
    StateEntry, StateReader, StateUnavailable, Subscription, Timestamp, Verdict,
};
use bytes::Bytes;
use tempfile::TempDir;
use wit_component::StringEncoding;
use wit_parser::Resolve;

use crate::{Config, Runtime};

/// A runtime of its own, in a folder of its own.
struct Rig {
    runtime: Runtime,
    dir: TempDir,
}

/// A handler, and the state that its deliveries read.
struct Subject {
    handler: Arc<dyn Handler>,
    state: MapState,
    subscription: Name,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Self::runtime(&dir);
        Self { runtime, dir }
    }

    fn runtime(dir: &TempDir) -> Runtime {
        Runtime::new(Config { max_instances: 16, ..Config::new(dir.path().join("cache")) }).unwrap()
    }

    fn refusal(&self, wasm: &[u8]) -> Refusal {
        match self.runtime.admit(wasm) {
            Err(PluginError::Refused(refusal)) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn keep(&self, wasm: &[u8]) -> PathBuf {
        let path = self.dir.path().join("plugin.wasm");
        std::fs::write(&path, wasm).unwrap();
        path
    }

    /// Admits `wasm` and makes a handler for a subscription as `change` makes it.
    fn try_subject(
        &self,
        wasm: &[u8],
        change: impl FnOnce(&mut Subscription),
    ) -> Result<Subject, PluginError> {
        let admission = self.runtime.admit(wasm)?;
        let mut subscription = serde_json::from_value(serde_json::json!({
            "queue": "orders", "plugin": "guest", "version": admission.digest.to_string(),
        }))
        .unwrap();
        change(&mut subscription);
        let name = Name::new("sub").unwrap();
        let handler = self.runtime.handler(&name, &subscription, &admission.digest, &self.keep(wasm))?;
        Ok(Subject { handler, state: MapState::default(), subscription: name })
    }

    fn subject(&self, wasm: &[u8], change: impl FnOnce(&mut Subscription)) -> Subject {
        self.try_subject(wasm, change).unwrap()
    }

    /// A handler under limits as `change` makes them, for a single delivery.
    fn run(&self, wasm: &[u8], change: impl FnOnce(&mut Limits)) -> Handled {
        self.subject(wasm, |subscription| change(&mut subscription.limits)).deliver()
    }
}

impl Subject {
    fn deliver(&self) -> Handled {
        self.deliver_with("orders/7", &self.state)
    }

    fn deliver_with(&self, idempotency_key: &str, state: &dyn StateReader) -> Handled {
        let message = Message {
            id: "m-1".into(),
            topic: Name::new("orders.paid").unwrap(),
            key: "c-7".into(),
            content_type: "application/json".into(),
            headers: BTreeMap::from([("a".into(), "1".into())]),
            published_at: Timestamp(1_700_000_000_000),
            expires_at: None,
            payload: Bytes::from_static(b"{}"),
        };
        self.handler.handle(&Call {
            message: &message,
            subscription: &self.subscription,
            attempt: 1,
            last_attempt: false,
            idempotency_key,
            state,
            outside: &Nowhere,
        })
    }
}

/// State in memory, for the store's side of the port.
#[derive(Default)]
struct MapState(BTreeMap<String, Bytes>);

impl StateReader for MapState {
    fn get(&self, key: &str) -> Result<Option<Bytes>, StateUnavailable> {
        Ok(self.0.get(key).cloned())
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, StateUnavailable> {
        let matching = self
            .0
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        let entry = |(key, value): (&String, &Bytes)| StateEntry { key: key.clone(), value: value.clone() };
        Ok(matching.take(limit).map(entry).collect())
    }
}

/// A store that is down.
struct NoState;

impl StateReader for NoState {
    fn get(&self, _: &str) -> Result<Option<Bytes>, StateUnavailable> {
        Err(StateUnavailable("the disk is gone".into()))
    }

    fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<StateEntry>, StateUnavailable> {
        Err(StateUnavailable("the disk is gone".into()))
    }
}

const ACK: Verdict = Verdict::Outcome(Outcome::Ack);

fn fault(handled: &Handled) -> &Fault {
    match &handled.verdict {
        Verdict::Fault(fault) => fault,
        other => panic!("no fault: {other:?}"),
    }
}

fn texts(handled: &Handled) -> Vec<&str> {
    handled.logs.iter().map(|line| line.text.as_str()).collect()
}

/// A guest whose `handle` is `body`: WebAssembly text that leaves a pointer to the result. `$d`
/// points to the delivery, `$i` and `$r` are locals; memory from 64 to 1,023 holds `data`, from
/// 2,048 on it is free for the guest. `extra` are further fields of the module.
fn guest_with(data: &str, extra: &str, body: &str) -> Vec<u8> {
    embed(&format!(
        r#"(module
  (import "brolly:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  (import "brolly:plugin/state@0.1.0" "get" (func $get (param i32 i32 i32)))
  (import "brolly:plugin/state@0.1.0" "set" (func $set (param i32 i32 i32 i32)))
  (import "brolly:plugin/state@0.1.0" "delete" (func $delete (param i32 i32)))
  (import "brolly:plugin/state@0.1.0" "list-by-prefix"
    (func $list (param i32 i32 i32 i32 i32 i32 i32)))
  (import "brolly:plugin/publish@0.1.0" "send"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "brolly:plugin/config@0.1.0" "get" (func $config (param i32 i32 i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "{data}")
  (global $top (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.get $top)
    (global.set $top (i32.add (global.get $top) (local.get 3)))
    (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
      (then (if (i32.eq (memory.grow (i32.add (i32.const 1)
          (i32.div_u (local.get 3) (i32.const 65536)))) (i32.const -1)) (then unreachable)))))
  ;; Acknowledges, and frees what the host allocated.
  (func $ack (result i32)
    (global.set $top (i32.const 65536))
    (i32.store8 (i32.const 1024) (i32.const 0))
    (i32.const 1024))
  ;; Asks for a retry after 1,500 ms with a reason.
  (func $retry (param i32 i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 0))
    (i32.store (i32.const 1040) (local.get 0)) (i32.store (i32.const 1044) (local.get 1))
    (i32.store8 (i32.const 1048) (i32.const 1)) (i64.store (i32.const 1056) (i64.const 1500))
    (i32.const 1024))
  ;; Rejects with a reason.
  (func $reject (param i32 i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
    (i32.store (i32.const 1040) (local.get 0)) (i32.store (i32.const 1044) (local.get 1))
    (i32.const 1024))
  ;; Publishes to a topic, without an id: topic, payload.
  (func $publish (param i32 i32 i32 i32)
    (call $send (local.get 0) (local.get 1) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 64) (i32.const 0) (i32.const 64) (i32.const 0) (i32.const 64) (i32.const 0)
      (local.get 2) (local.get 3)))
  {extra}
  (func (export "handle") (param $d i32) (result i32) (local $i i32) (local $r i32) {body}))"#
    ))
}

fn guest(body: &str) -> Vec<u8> {
    guest_with("", "", body)
}

/// A core module with the contract's metadata, as the SDK makes it.
fn embed(module: &str) -> Vec<u8> {
    let mut wasm = wat::parse_str(module).unwrap();
    let mut resolve = Resolve::default();
    let (package, _) =
        resolve.push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugin-sdk/wit")).unwrap();
    let world = resolve.select_world(&[package], Some("handler")).unwrap();
    wit_component::embed_component_metadata(&mut wasm, &resolve, world, StringEncoding::UTF8).unwrap();
    wasm
}
