//! The heartbeat that time limits hang on: one thread that raises the engine's epoch every
//! [`TICK`] while guests run, and sleeps while none does. Owned by the runtime; knows no limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use wasmtime::Engine;

use crate::Error;

/// How often a running guest is looked at: the precision of every time limit.
pub(crate) const TICK: Duration = Duration::from_millis(5);
/// Ticks without a running guest before the thread goes to sleep. Waking it costs a system call,
/// which a steady stream of short calls must not pay each time.
const IDLE_TICKS: u32 = 40;
const THREAD: &str = "brolly-epoch";

/// The thread and its state. The thread ends when this is dropped.
pub(crate) struct Ticker {
    pulse: Arc<Pulse>,
    thread: Option<JoinHandle<()>>,
}

/// What callers and thread share, on a cache line of its own: every call writes to it.
#[repr(align(128))]
#[derive(Default)]
struct Pulse {
    active: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
}

/// As long as this lives, the epoch advances.
pub(crate) struct Active<'a>(&'a Ticker);

impl Ticker {
    pub(crate) fn start(engine: Engine) -> Result<Self, Error> {
        let pulse = Arc::new(Pulse::default());
        let shared = Arc::clone(&pulse);
        let thread = thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || run(&engine, &shared))
            .map_err(|source| Error::Thread { name: THREAD, source })?;
        Ok(Self { pulse, thread: Some(thread) })
    }

    /// Marks the beginning of a call; dropping the answer marks its end.
    pub(crate) fn enter(&self) -> Active<'_> {
        // INVARIANT: the count is raised before `asleep` is read here, and `asleep` is raised before
        // the count is read in `run` (both sequentially consistent): one of the two sees the other,
        // so no guest runs while the thread sleeps.
        self.pulse.active.fetch_add(1, Ordering::SeqCst);
        if self.pulse.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        Active(self)
    }

    #[cold]
    fn wake(&self) {
        self.pulse.asleep.store(false, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    #[cfg(test)]
    pub(crate) fn is_asleep(&self) -> bool {
        self.pulse.asleep.load(Ordering::SeqCst)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.pulse.active.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.pulse.stop.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

fn run(engine: &Engine, pulse: &Pulse) {
    let mut idle = 0;
    while !pulse.stop.load(Ordering::SeqCst) {
        // `wake` may end the pause early; a tick that comes too soon does no harm.
        thread::park_timeout(TICK);
        if pulse.active.load(Ordering::SeqCst) > 0 {
            idle = 0;
            engine.increment_epoch();
            continue;
        }
        idle += 1;
        if idle >= IDLE_TICKS {
            sleep(pulse);
            idle = 0;
        }
    }
}

/// Waits until a call begins or the ticker is dropped.
fn sleep(pulse: &Pulse) {
    pulse.asleep.store(true, Ordering::SeqCst);
    if pulse.active.load(Ordering::SeqCst) > 0 || pulse.stop.load(Ordering::SeqCst) {
        pulse.asleep.store(false, Ordering::SeqCst);
        return;
    }
    while pulse.asleep.load(Ordering::SeqCst) {
        thread::park();
    }
}
