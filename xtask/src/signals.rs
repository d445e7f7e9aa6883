//! Ctrl-C and SIGTERM: they end our waiting, and then each child gets one SIGTERM and is waited for.
//!
//! Children live in process groups of their own, because otherwise the terminal would send Ctrl-C
//! to them as well, and a second signal may cut their draining short.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::tree;

/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Whether this process was asked to stop.
pub(crate) struct Signals {
    received: Arc<AtomicBool>,
}

impl Signals {
    /// From now on the signals stop children, and no longer this process. Each is heard once: a
    /// second Ctrl-C ends this process at once.
    ///
    /// # Errors
    /// If the handlers cannot be set.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let received = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&received))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&received)))
                .context("cannot listen to signals")?;
        }
        Ok(Self { received })
    }

    /// Whether a signal came.
    pub(crate) fn received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// Starts a child in a process group of its own.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        command.process_group(0).spawn().with_context(|| format!("cannot start {}", tree::show(command)))
    }

    /// Waits until a child ends, or a signal comes: then none.
    ///
    /// # Errors
    /// If the system does not tell.
    pub(crate) fn wait(&self, child: &mut Child) -> anyhow::Result<Option<ExitStatus>> {
        loop {
            let status = child.try_wait().context("cannot wait for a child")?;
            if status.is_some() || self.received() {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
    }

    /// Asks a child to end, and waits until it has. One that has ended already is left alone.
    ///
    /// # Errors
    /// If the system does not tell.
    pub(crate) fn end(&self, child: &mut Child) -> anyhow::Result<ExitStatus> {
        if child.try_wait().context("cannot wait for a child")?.is_none() {
            kill_process(Pid::from_child(child), Signal::TERM).context("cannot signal a child")?;
        }
        child.wait().context("cannot wait for a child")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child that ends with 7 on its first SIGTERM, and says when it listens for it.
    fn child(signals: &Signals) -> Child {
        let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done";
        let mut child = signals
            .spawn(Command::new("sh").args(["-c", script]).stdout(std::process::Stdio::piped()))
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut ready).unwrap();
        child
    }

    #[test]
    fn a_signal_ends_the_waiting_and_not_the_child() {
        let signals = Signals { received: Arc::new(AtomicBool::new(true)) };
        let mut child = child(&signals);
        assert_eq!(signals.wait(&mut child).unwrap(), None);
        assert_eq!(signals.end(&mut child).unwrap().code(), Some(7));
        assert_eq!(signals.end(&mut child).unwrap().code(), Some(7));
        assert_eq!(signals.wait(&mut child).unwrap().and_then(|status| status.code()), Some(7));
    }
}
