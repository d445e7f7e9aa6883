//! The port [`Handler`]: runs one attempt in an instance of the plugin, a fresh one or one off the
//! shelf. Called by dispatch, from many threads at once.

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use brolly_core::{
    Call, Code, Effects, Fault, Handled, Handler, LogLine, Name, Outcome, PluginError, Refusal, Reuse,
    Subscription, Verdict,
};
use parking_lot::Mutex;
use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};

use crate::{
    Error,
    attempt::{Guest, Terms},
    fault::{self, MAX_REASON_BYTES, Phase, cut},
    imports::HOST_CALL_BYTES,
    lent::{During, lend},
    library::Loaded,
    ticker::Ticker,
    world::Exports,
};

/// Deliveries that one reused instance handles before it is replaced ([`Reuse::Reuse`]).
const MAX_CALLS: u32 = 10_000;

/// What all handlers share.
pub(crate) struct Host {
    engine: Engine,
    pub(crate) ticker: Ticker,
    /// The shelves of all handlers that reuse instances.
    shelves: Mutex<Vec<Weak<Shelf>>>,
}

/// Handles deliveries of one subscription with one plugin version.
pub(crate) struct WasmHandler {
    host: Arc<Host>,
    loaded: Arc<Loaded>,
    terms: Arc<Terms>,
    /// Where instances wait for their next delivery; none if each gets a fresh one.
    shelf: Option<Arc<Shelf>>,
}

/// Idle instances. The last one put back is the first one taken: its memory is still warm.
struct Shelf {
    idle: Mutex<Vec<Instance>>,
    /// As many as there can be at work at once.
    capacity: usize,
}

/// An instance of a plugin.
struct Instance {
    store: Store<Guest>,
    exports: Exports,
    calls: u32,
}

impl Host {
    pub(crate) fn start(engine: Engine) -> Result<Arc<Self>, Error> {
        let ticker = Ticker::start(engine.clone())?;
        Ok(Arc::new(Self { engine, ticker, shelves: Mutex::default() }))
    }

    fn shelf(&self, capacity: usize) -> Arc<Shelf> {
        let shelf = Arc::new(Shelf { idle: Mutex::default(), capacity });
        let mut shelves = self.shelves.lock();
        shelves.retain(|shelf| shelf.strong_count() > 0);
        shelves.push(Arc::downgrade(&shelf));
        shelf
    }

    /// Frees the slots that idle instances of other subscriptions hold.
    fn clear_shelves(&self) {
        let shelves: Vec<_> = self.shelves.lock().iter().filter_map(Weak::upgrade).collect();
        for shelf in shelves {
            let idle = std::mem::take(&mut *shelf.idle.lock());
            drop(idle);
        }
    }
}

impl Handler for WasmHandler {
    fn handle(&self, call: &Call<'_>) -> Handled {
        let started = Instant::now();
        let _active = self.host.ticker.enter();
        let mut instance = match self.instance(started, Some(call)) {
            Ok(instance) => instance,
            Err(unable) => return *unable,
        };
        let held = instance.store.data().held();
        let result = instance.call(call);
        let guest = instance.store.data_mut();
        let sound = result.is_ok() && guest.has_let_go(held);
        let verdict = match result {
            Ok(outcome) => Verdict::Outcome(outcome),
            Err(error) => fault::verdict(&error, guest, Phase::Call),
        };
        let handled = conclude(guest, verdict);
        // INVARIANT: an instance that was stopped in the middle is never used again.
        if sound && let Some(shelf) = &self.shelf {
            shelf.put_back(instance);
        }
        handled
    }
}

impl WasmHandler {
    pub(crate) fn new(
        host: Arc<Host>,
        loaded: Arc<Loaded>,
        name: &Name,
        subscription: &Subscription,
    ) -> Self {
        let shelf = match subscription.instances {
            Reuse::Fresh => None,
            Reuse::Reuse => Some(host.shelf(usize::try_from(subscription.workers).unwrap_or(1))),
        };
        Self { host, loaded, terms: Arc::new(Terms::new(name, subscription)), shelf }
    }

    /// Makes one instance, so that a version which cannot start under these limits is refused now
    /// rather than failing with every delivery.
    pub(crate) fn try_out(&self, subscription: &Subscription) -> Result<(), PluginError> {
        let _active = self.host.ticker.enter();
        let unable = match self.instance(Instant::now(), None) {
            Ok(instance) => {
                let is_usable = instance.store.data().attempt.before.is_none();
                if let Some(shelf) = self.shelf.as_ref().filter(|_| is_usable) {
                    shelf.put_back(instance);
                }
                return Ok(());
            }
            Err(unable) => unable,
        };
        let wrote = wrote(&unable.logs);
        let plugin = subscription.plugin.as_ref().map_or("", Name::as_str);
        let fault = match unable.verdict {
            Verdict::Fault(fault) => fault,
            Verdict::Unavailable(reason) => return Err(PluginError::Host(reason)),
            Verdict::Outcome(outcome) => {
                return Err(PluginError::Host(format!(
                    "an instance that was not called answered {outcome:?}"
                )));
            }
        };
        let refusal = match fault {
            Fault::TimeOut { .. }
            | Fault::CpuTime { .. }
            | Fault::OutOfMemory { .. }
            | Fault::Limit { .. } => Refusal::new(
                Code::InvalidDefinition,
                format!(
                    "the plugin {plugin} cannot start within these limits: {fault}; raise that setting{wrote}"
                ),
            ),
            Fault::NotGranted(_) => Refusal::new(
                Code::InvalidDefinition,
                format!(
                    "the plugin {plugin} cannot start without a grant: {fault}; grant it, or upload a version that does without{wrote}"
                ),
            ),
            Fault::Trap(_) | Fault::StackOverflow { .. } | Fault::BadCall(_) | Fault::BadExport(_) => {
                Refusal::new(
                    Code::InvalidPlugin,
                    format!(
                        "the plugin {plugin} cannot be started: {fault}; upload a version that starts{wrote}"
                    ),
                )
            }
        };
        Err(refusal.into())
    }

    /// An instance, ready for an attempt that began at `started`; without a call only to see whether it
    /// can be made.
    fn instance(&self, started: Instant, call: Option<&Call<'_>>) -> Result<Instance, Box<Handled>> {
        if let Some(mut instance) = self.shelf.as_ref().and_then(|shelf| shelf.idle.lock().pop()) {
            instance.store.set_epoch_deadline(1);
            instance.store.data_mut().begin(started);
            return Ok(instance);
        }
        let mut store = self.store(started);
        let mut made = self.instantiate(&mut store, call);
        if made.as_ref().is_err_and(fault::is_exhausted) {
            self.host.clear_shelves();
            store = self.store(started);
            made = self.instantiate(&mut store, call);
        }
        match made {
            Ok(exports) => Ok(Instance { store, exports, calls: 0 }),
            Err(error) => {
                let verdict = fault::verdict(&error, store.data(), Phase::Start);
                Err(Box::new(conclude(store.data_mut(), verdict)))
            }
        }
    }

    fn instantiate(&self, store: &mut Store<Guest>, call: Option<&Call<'_>>) -> wasmtime::Result<Exports> {
        match call {
            Some(call) => lend(store, call, During::Start, |store| self.loaded.pre.instantiate(store)),
            None => self.loaded.pre.instantiate(store),
        }
    }

    fn store(&self, started: Instant) -> Store<Guest> {
        let mut store = Store::new(&self.host.engine, Guest::new(Arc::clone(&self.terms), started));
        store.limiter(|guest| &mut guest.meter);
        store.epoch_deadline_callback(on_tick);
        store.set_epoch_deadline(1);
        store.set_hostcall_fuel(HOST_CALL_BYTES);
        store
    }
}

impl Shelf {
    fn put_back(&self, instance: Instance) {
        if instance.calls >= MAX_CALLS {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() < self.capacity {
            idle.push(instance);
        }
    }
}

impl Instance {
    fn call(&mut self, call: &Call<'_>) -> wasmtime::Result<Outcome> {
        self.calls += 1;
        lend(&mut self.store, call, During::Call, |store| self.exports.handle(store, call))
    }
}

/// Called by the guest's own code at the first loop or function entry after each tick.
fn on_tick(mut store: StoreContextMut<'_, Guest>) -> wasmtime::Result<UpdateDeadline> {
    store.data_mut().check_time()?;
    Ok(UpdateDeadline::Continue(1))
}

/// What it wrote, for the end of a sentence.
fn wrote(logs: &[LogLine]) -> String {
    let text = logs.iter().map(|line| line.text.trim()).collect::<Vec<_>>().join(" / ");
    // Cut as it is told: what cannot be printed takes more room then.
    if text.is_empty() { text } else { cut(format!("; it wrote {text:?}"), MAX_REASON_BYTES / 2) }
}

/// Draws up the attempt. Only an ack lets what it asked for take effect.
fn conclude(guest: &mut Guest, verdict: Verdict) -> Handled {
    let effects = match verdict {
        Verdict::Outcome(Outcome::Ack) => guest.attempt.take_effects(),
        Verdict::Outcome(Outcome::Retry { .. } | Outcome::Reject { .. })
        | Verdict::Fault(_)
        | Verdict::Unavailable(_) => Effects::default(),
    };
    guest.attempt.end_lines(guest.terms.limits.log_bytes);
    let (logs, logs_dropped) = guest.attempt.take_logs();
    Handled {
        verdict,
        effects,
        logs,
        logs_dropped,
        duration: guest.attempt.started.elapsed(),
        memory_bytes: guest.meter.memory_bytes(),
    }
}
