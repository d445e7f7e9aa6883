//! The application: builds every part, runs them side by side, and drains them.
//!
//! Called by [`super::run`]. The one place that knows all parts; it knows nothing of how any of
//! them does its work.

use std::{collections::HashMap, fmt::Write, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use brolly_alerts::Alerts;
use brolly_catalog::Catalog;
use brolly_core::{Clock, SystemClock};
use brolly_dispatch::{Dispatch, Rooms};
use brolly_embedded::Embedded;
use brolly_ledger::Ledger;
use brolly_outside::System;
use brolly_runtime::Runtime;
use brolly_store::{Messages, Store};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    first_token, folder,
    metering::Metering,
    signals::Signals,
    telemetry::{self, Traces},
};
use crate::{cli::FAILURE, config::Config, registry::Registry};

/// The exit code after the store has failed: nothing more can become durable.
const STORE_FAILED: u8 = 70;

/// The exit code after a second signal.
const INTERRUPTED: u8 = 130;

/// How long the admin may take beyond the time that it gives its requests to finish.
const ADMIN_RESERVE: Duration = Duration::from_secs(2);

/// Everything that runs, put together and not yet running.
pub struct App {
    listener: TcpListener,
    url: String,
    admin: brolly_admin::App,
    store: Store,
    dispatch: Dispatch,
    metering: Metering,
    traces: Option<Traces>,
    signals: Signals,
    limits: DrainLimits,
}

/// How long a stop waits.
#[derive(Clone, Copy, Debug)]
struct DrainLimits {
    /// For requests.
    admin: Duration,
    /// For handlers.
    handlers: Duration,
}

/// What opening the data directory gives.
struct Opened {
    store: Store,
    catalog: Arc<Catalog>,
    dispatch: Dispatch,
}

impl App {
    /// Puts everything together; answers also with what is to be told to whoever started the
    /// process. HTTP is accepted from here on and answered once the app runs.
    ///
    /// # Errors
    /// When the address, the data directory, the store or the WebAssembly engine cannot be used.
    pub async fn build(mut config: Config) -> anyhow::Result<(Self, String)> {
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("listening on {} (listen)", config.listen))?;
        let address = listener.local_addr()?;
        let tls = config.tls.as_ref().map(brolly_admin::Tls::open).transpose()?;
        if !address.ip().is_loopback() && tls.is_none() {
            tracing::warn!(
                %address,
                "HTTP without TLS (admin.tls) is served beyond this machine: tokens can be read on the way"
            );
        }
        let prometheus = telemetry::metrics()?;
        let traces = config.otlp.as_ref().map(Traces::to).transpose()?;
        config.dispatch.tracer = traces.as_ref().map(Traces::tracer);
        let (config, opened) = tokio::task::spawn_blocking(move || {
            let opened = open(&config);
            (config, opened)
        })
        .await?;
        let Opened { store, catalog, dispatch } = opened?;
        // Before a request can come: what is published must find its routes.
        dispatch.prepare().await?;
        let new_token = first_token::ensure(&catalog, &config.token_file()).await?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let announcement = announcement(&config, &url, new_token.as_deref())?;

        let handle = dispatch.handle();
        let metering =
            Metering { prometheus: prometheus.clone(), store: store.clone(), handle: handle.clone() };
        let limits = DrainLimits {
            admin: Duration::from_millis(config.admin.drain_ms) + ADMIN_RESERVE,
            handlers: config.drain,
        };
        let admin = brolly_admin::app(handle, Arc::new(move || prometheus.render()), config.admin, tls);
        let signals = Signals::listen().context("listening for signals")?;
        let app = Self { listener, url, admin, store, dispatch, metering, traces, signals, limits };
        Ok((app, announcement))
    }

    /// Where it is served, for a client in this process.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Runs until the process is told to stop or a part breaks off, then drains; answers with the
    /// exit code.
    pub async fn run(self) -> u8 {
        let Self { listener, url: _, admin, store, dispatch, metering, traces, mut signals, limits } = self;
        let stops = Stops::default();
        let mut parts = Parts::default();
        let stop = stops.http.clone();
        parts.start(Part::Admin, async move { Ok(brolly_admin::serve(listener, admin, stop).await?) });
        let stop = stops.work.clone();
        parts.start(Part::Dispatch, async move { Ok(dispatch.run(stop).await?) });
        let stop = stops.timers.clone();
        parts.start(Part::Metering, async move {
            metering.run(stop).await;
            Ok(())
        });

        let stopped_as_told = tokio::select! {
            biased;
            reason = store.failed() => store_failed(&reason),
            signal = signals.next() => {
                tracing::info!(signal, "stopping: finishing what runs; another signal stops at once");
                true
            }
            () = parts.next_end() => false,
        };
        let drained = tokio::select! {
            biased;
            reason = store.failed() => store_failed(&reason),
            signal = signals.next() => {
                tracing::warn!(signal, "stopped at once; what was cut off is handled again at the next start");
                std::process::exit(i32::from(INTERRUPTED))
            }
            drained = parts.drain(&stops, limits) => drained,
        };
        let closed = tokio::task::spawn_blocking(move || {
            store.close();
            store.is_failed()
        });
        match closed.await {
            Ok(None) => {}
            Ok(Some(reason)) => store_failed(&reason),
            Err(error) => {
                tracing::error!(%error, "the store could not be closed");
                return FAILURE;
            }
        }
        if let Some(traces) = traces {
            traces.close().await;
        }
        tracing::info!("stopped");
        if stopped_as_told && drained { 0 } else { FAILURE }
    }
}

/// Opens everything that lies in the data directory. Blocks, after an unclean stop for as long as
/// the store's recovery takes.
fn open(config: &Config) -> anyhow::Result<Opened> {
    folder::prepare(
        &config.data_dir,
        &[&config.store.dir, &config.plugins_dir(), &config.runtime.cache_dir],
    )?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = Store::open(&config.store)?;
    let messages = Messages::open(&store)?;
    let catalog = Arc::new(Catalog::open(store.clone(), config.plugins_dir(), clock.clone())?);
    let ledger = Arc::new(Ledger::open(store.clone(), messages.clone())?);
    let embedded = Embedded::open(store.clone(), messages.clone(), clock.clone(), config.embedded.clone())?;
    let runtime = Arc::new(Runtime::new(config.runtime.clone())?);
    let kinds = Arc::new(Registry::new(store.clone(), messages, ledger.host(), clock.clone()));
    let rooms = Rooms {
        alerts: Arc::new(Alerts::open(store.clone(), ledger.host(), clock.clone())?),
        catalog: catalog.clone(),
        ledger,
        kinds,
        embedded: Arc::new(embedded),
        plugins: runtime,
        clock,
        outside: Arc::new(System::new(Handle::current())),
    };
    let dispatch = Dispatch::new(rooms, config.dispatch.clone());
    Ok(Opened { store, catalog, dispatch })
}

/// One fact a line. Scripts look for `listening on`.
fn announcement(config: &Config, url: &str, new_token: Option<&str>) -> anyhow::Result<String> {
    let file = config.token_file();
    let mut text = format!("listening on {url}\n");
    if let Some(token) = new_token {
        writeln!(text, "admin token: {token}")?;
    }
    if file.exists() {
        writeln!(text, "admin token file: {}", file.display())?;
    }
    Ok(text)
}

/// Ends the process: whatever is not durable now never will be, so nothing may be answered as if.
fn store_failed(reason: &str) -> ! {
    tracing::error!(reason, "the store has failed, nothing more becomes durable; the process ends");
    std::process::exit(i32::from(STORE_FAILED))
}

/// What tells the parts to stop, in this order.
#[derive(Default)]
struct Stops {
    http: CancellationToken,
    work: CancellationToken,
    timers: CancellationToken,
}

/// A part of the app that runs as a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Admin,
    Dispatch,
    Metering,
}

/// The parts that run.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<anyhow::Result<()>>,
    running: HashMap<Id, (Part, AbortHandle)>,
    /// Whether a part broke off.
    broken: bool,
}

impl Parts {
    fn start(&mut self, part: Part, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.running.insert(handle.id(), (part, handle));
    }

    /// Waits until a part ends that nobody has told to.
    async fn next_end(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => {
                let (part, why) = self.ended(ended);
                let why = why.unwrap_or_else(|| anyhow!("it ended"));
                tracing::error!(?part, why = format!("{why:#}"), "a part of the host broke off; stopping");
                self.broken = true;
            }
            None => std::future::pending().await,
        }
    }

    fn ended(
        &mut self,
        ended: Result<(Id, anyhow::Result<()>), JoinError>,
    ) -> (Option<Part>, Option<anyhow::Error>) {
        let (id, why) = match ended {
            Ok((id, result)) => (id, result.err()),
            Err(error) if error.is_cancelled() => (error.id(), None),
            Err(error) => (error.id(), Some(error.into())),
        };
        (self.running.remove(&id).map(|(part, _)| part), why)
    }

    /// Stops everything in its order; answers whether all of it came to its end in time.
    async fn drain(&mut self, stops: &Stops, limits: DrainLimits) -> bool {
        stops.http.cancel();
        stops.work.cancel();
        let started = Instant::now();
        let finished = tokio::time::timeout(limits.handlers, self.wait(Part::Dispatch)).await.is_ok();
        if !finished {
            tracing::warn!(
                limit_ms = limits.handlers.as_millis(),
                "handlers still run after drain.max_ms; they are cut off, and their deliveries are handled again"
            );
        }
        // A client that keeps a request open must not keep the process.
        let rest = limits.admin.saturating_sub(started.elapsed());
        if tokio::time::timeout(rest, self.wait(Part::Admin)).await.is_err() {
            tracing::warn!("requests that did not finish were cut off");
            self.abort(Part::Admin);
        }
        stops.timers.cancel();
        self.wait(Part::Metering).await;
        finished && !self.broken
    }

    /// Waits until a part has ended.
    async fn wait(&mut self, part: Part) {
        while self.running.values().any(|(running, _)| *running == part) {
            let Some(ended) = self.tasks.join_next_with_id().await else { return };
            if let (part, Some(why)) = self.ended(ended) {
                tracing::error!(
                    ?part,
                    why = format!("{why:#}"),
                    "a part of the host failed while it was stopped"
                );
                self.broken = true;
            }
        }
    }

    fn abort(&self, part: Part) {
        let all = self.running.values().filter(|(running, _)| *running == part);
        all.for_each(|(_, handle)| handle.abort());
    }
}
