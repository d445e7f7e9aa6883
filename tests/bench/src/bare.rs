//! The baseline of P1 and P2: the same plugin called with bare wasmtime, configured as well as we
//! know how, with a host that does only what the plugin cannot do without. It limits, checks and
//! logs nothing.

use anyhow::anyhow;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    component::{Component, HasSelf, Linker},
};

#[allow(unsafe_code, missing_docs, clippy::all, reason = "generated from plugin-sdk/wit/handler.wit")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../plugin-sdk/wit",
        world: "handler",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

use bindings::{
    Delivery, HandlerPre,
    brolly::plugin::{config, log, publish, state, types},
};

/// A plugin, ready to be instantiated.
pub struct Bare {
    engine: Engine,
    pre: HandlerPre<Host>,
}

/// How accesses to memory are checked: each way is the fastest for one of the comparisons.
#[derive(Clone, Copy)]
pub enum Bounds {
    /// In code: instances come and go without changing the protection of pages.
    Explicit,
    /// By guard pages: calls need no checks.
    GuardPages,
}

/// An instance that is called again and again.
pub struct Instance {
    store: Store<Host>,
    handler: bindings::Handler,
}

/// What the host keeps: the state that the last call wrote. What was there before is nothing.
#[derive(Default)]
struct Host {
    written: Vec<(String, Vec<u8>)>,
}

impl Bare {
    /// Compiles a plugin with memory that is checked as `bounds` says.
    pub fn new(wasm: &[u8], bounds: Bounds) -> anyhow::Result<Self> {
        let engine = Engine::new(&config(bounds)).map_err(|error| anyhow!("{error:#}"))?;
        let component = wit_component::ComponentEncoder::default().module(wasm)?.encode()?;
        let component = Component::new(&engine, component).map_err(|error| anyhow!("{error:#}"))?;
        let mut linker = Linker::new(&engine);
        bindings::Handler::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)
            .and_then(|()| linker.instantiate_pre(&component))
            .and_then(HandlerPre::new)
            .map(|pre| Self { engine, pre })
            .map_err(|error| anyhow!("{error:#}"))
    }

    /// Makes an instance.
    pub fn instance(&self) -> anyhow::Result<Instance> {
        let mut store = Store::new(&self.engine, Host::default());
        // Nobody raises the epoch: the guest is never stopped.
        store.set_epoch_deadline(u64::MAX / 2);
        let handler = self.pre.instantiate(&mut store).map_err(|error| anyhow!("{error:#}"))?;
        Ok(Instance { store, handler })
    }
}

impl Instance {
    /// Hands over one order. Answers with what was written to the state.
    pub fn call(&mut self, id: &str, payload: &[u8]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let delivery = Delivery {
            id,
            topic: "orders.paid",
            key: "c-00042",
            content_type: "application/json",
            headers: &[],
            published_at_ms: 1_700_000_000_000,
            payload,
            subscription: "settlement",
            attempt: 1,
            last_attempt: false,
            idempotency_key: "settlement/42",
        };
        match self.handler.call_handle(&mut self.store, delivery) {
            Ok(Ok(())) => Ok(std::mem::take(&mut self.store.data_mut().written)),
            Ok(Err(failure)) => Err(anyhow!("{failure}")),
            Err(error) => Err(anyhow!("{error:#}")),
        }
    }
}

/// The engine's settings: the best for an instance per message that we have measured, and the same
/// as those of Brolly's runtime, so that both run the same code in the same kind of slots.
fn config(bounds: Bounds) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(64)
        .total_core_instances(512)
        .total_memories(64)
        .total_tables(256)
        .max_memory_size(256 << 20)
        .table_elements(100_000)
        .linear_memory_keep_resident(128 * 1024)
        .table_keep_resident(128 * 1024);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes);
    }
    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config.epoch_interruption(true);
    config.concurrency_support(false);
    if let Bounds::Explicit = bounds {
        config.signals_based_traps(false).memory_guard_size(0).memory_reservation(256 << 20);
    }
    config
}

impl types::Host for Host {}

impl log::Host for Host {
    fn write(&mut self, _: log::Level, _: String) {}
}

impl config::Host for Host {
    fn get(&mut self, _: String) -> Option<String> {
        None
    }
}

impl publish::Host for Host {
    fn send(&mut self, _: publish::Outgoing) {}
}

impl state::Host for Host {
    fn get(&mut self, _: String) -> Option<Vec<u8>> {
        None
    }

    fn set(&mut self, key: String, value: Vec<u8>) {
        self.written.push((key, value));
    }

    fn delete(&mut self, _: String) {}

    fn list_by_prefix(&mut self, _: String, _: Option<String>, _: u32) -> Vec<state::Entry> {
        Vec::new()
    }
}
