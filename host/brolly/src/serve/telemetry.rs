//! Where log lines and metrics go. Set up once, before anything else runs.

use std::io::{self, IsTerminal};

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Upper bounds of the histogram buckets for durations, in seconds: from a reused instance that
/// answers at once to a handler that runs into its time limit.
const DURATION_BUCKETS: [f64; 14] =
    [5e-6, 2e-5, 1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 600.0];

/// Sends log lines to standard error.
///
/// # Errors
/// When the filter is not valid, or logging was set up before.
pub fn init(log: &Log) -> anyhow::Result<()> {
    // lapin reports as errors what its caller reports in its own words, or expects.
    let quiet = if log.filter.contains("lapin") { "" } else { ",lapin=off" };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(format!("{}{quiet}", log.filter))?)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("setting up the log: {error}"))
}

/// Collects metrics; the handle renders them for Prometheus.
///
/// # Errors
/// When metrics were set up before.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("setting up metrics")
}
