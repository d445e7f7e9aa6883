//! Where log lines, metrics and traces go. Set up once, before anything else runs.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use opentelemetry::{KeyValue, global::BoxedTracer, trace::TracerProvider as _};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tokio_util::context::TokioContext;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat, Otlp};

/// Upper bounds of the histogram buckets for durations, in seconds: from a reused instance that
/// answers at once to a handler that runs into its time limit.
const DURATION_BUCKETS: [f64; 14] =
    [5e-6, 2e-5, 1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 600.0];

/// A gauge that nobody sets for so long is shown no more: what it was about is gone. All of them are set
/// every few seconds.
const GAUGES_LAST: Duration = Duration::from_secs(60);

/// How long spans that wait to be sent may take when the host stops.
const FAREWELL: Duration = Duration::from_secs(2);

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
        .idle_timeout(MetricKindMask::GAUGE, Some(GAUGES_LAST))
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("setting up metrics")
}

/// Sends spans to a collector.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Gets ready to send; a collector that does not answer is no error. Spans are sent by a thread of
    /// their own; while it is behind by 2,048 of them, further ones are dropped, and the log says so.
    ///
    /// # Errors
    /// When the settings (or OpenTelemetry's own in the environment) are no good.
    pub fn to(otlp: &Otlp) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(otlp.endpoint.as_str())
            .with_http_client(Client::new()?)
            .build()
            .context("setting up traces (telemetry.otlp)")?;
        let host = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("brolly").with_attribute(host).build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(otlp.sampling))))
            .with_resource(resource)
            .build();
        Ok(Self(provider))
    }

    /// What makes spans.
    pub fn tracer(&self) -> brolly_dispatch::Tracer {
        let tracer = BoxedTracer::new(Box::new(self.0.tracer("brolly")));
        brolly_dispatch::Tracer::new(tracer, TraceContextPropagator::new())
    }

    /// Sends what waits, for a moment.
    pub async fn close(self) {
        let closed = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FAREWELL)).await;
        match closed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "not every span was sent when the host stopped"),
            Err(error) => tracing::warn!(%error, "sending the last spans broke off"),
        }
    }
}

/// Lets the exporter's own thread use the network of this process's runtime.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

impl Client {
    fn new() -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        Ok(Self { http, runtime: tokio::runtime::Handle::try_current()? })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let answer = self.http.execute(request.try_into()?).await?;
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            Ok::<_, HttpError>(response.body(answer.bytes().await?)?)
        };
        TokioContext::new(exchange, self.runtime.clone()).await
    }
}
