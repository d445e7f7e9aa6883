//! `brolly dev`: every change of the sources becomes a version that runs, and its deliveries are shown.
//!
//! [`watch`] notices changes, [`follow`] shows deliveries; this file builds, tests and swaps in between.

mod follow;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use reqwest::{Method, header};
use serde_json::Value;

use super::{
    cargo::Project,
    sandbox::Built,
    test::{self, DOCUMENT},
};
use crate::client::{
    self, Error,
    api::{Api, Connection},
    definition_of_subscription,
    output::{duration, text},
    print,
};

/// What a server needs around the plugin, in a project's folder.
const SET_UP: &str = "brolly.toml";
/// How long a subscription may take to run a version that was accepted.
const TAKE_UP: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const POLL: Duration = Duration::from_millis(50);

/// Rebuild the plugin on every change, swap it into a running server, and show its deliveries.
///
/// A version is swapped in when it builds and its samples (samples.toml) pass; until then the one before
/// goes on. A server that does not have the subscription yet is given what brolly.toml describes. Shown
/// are the deliveries of messages that are published from now on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The project's folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// The subscription that the plugin is swapped into [default: the plugin's name].
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// A project and the server that it runs on.
struct Dev {
    project: Project,
    subscription: String,
    connection: Connection,
    api: Api,
}

/// Works until it is interrupted.
///
/// # Errors
/// When there is no project, the server cannot be used, or the sources cannot be watched. Mistakes in
/// the sources are shown and waited out.
pub fn run(args: Args) -> anyhow::Result<()> {
    let project = Project::find(&args.project)?;
    let api = args.connection.open()?;
    let subscription = args.subscription.unwrap_or_else(|| project.name.to_string());
    let dev = Dev { project, subscription, connection: args.connection, api };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(dev.run());
    // A build that goes on must not hold the process.
    runtime.shutdown_background();
    done
}

impl Dev {
    async fn run(self) -> anyhow::Result<()> {
        // A server that is not there, or a token that is not known, is told before a build.
        self.shown().await?;
        let mut changes = watch::Changes::of(&self.project.dir)?;
        self.update().await?;
        let follow = follow::Follow::begin(&self.api, &self.subscription).await?;
        print(&format!("watching {}; Ctrl-C ends\n", self.project.dir.display()))?;
        let rebuild = async {
            loop {
                changes.next().await?;
                self.update().await?;
            }
        };
        tokio::select! {
            done = rebuild => done,
            done = follow.run() => done,
        }
    }

    /// Makes a version of the sources and has it run. What is wrong with them is only shown.
    ///
    /// # Errors
    /// When nobody reads what is shown.
    async fn update(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        let project = self.project.clone();
        let swapped = match tokio::task::spawn_blocking(move || tested(&project)).await? {
            Ok(built) => self.swap(&built).await,
            Err(error) => Err(error),
        };
        match swapped {
            Ok(version) => {
                let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                Ok(print(&format!("{} runs {version}, after {}\n", self.subscription, duration(took)))?)
            }
            Err(error) => {
                eprintln!("brolly: not swapped in: {error:#}");
                Ok(())
            }
        }
    }

    /// The subscription as the server shows it; none if it has none of this name.
    async fn shown(&self) -> Result<Option<Value>, Error> {
        match self.api.get(&["subscriptions", &self.subscription], &[]).await {
            Ok(shown) => Ok(Some(shown)),
            Err(Error::Refused { code, .. }) if code == "not-found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has a version run; answers with it.
    async fn swap(&self, built: &Built) -> anyhow::Result<String> {
        let version = built.admission.digest.to_string();
        let Some(shown) = self.shown_or_set_up().await? else {
            bail!("there is no subscription {} ({SET_UP} makes none)", self.subscription);
        };
        if text(&shown, "version") == version {
            return Ok(version);
        }
        let wasm = std::fs::read(&built.path).with_context(|| format!("reading {}", built.path.display()))?;
        let plugin = text(&shown, "plugin").to_owned();
        let upload = self.api.request(Method::POST, &["plugins", &plugin, "versions"]);
        self.api.send(upload.header(header::CONTENT_TYPE, "application/wasm").body(wasm)).await?;
        let mut definition = definition_of_subscription(&shown);
        if let Some(fields) = definition.as_object_mut() {
            fields.insert("version".to_owned(), version.clone().into());
        }
        let revision = shown.get("revision").and_then(Value::as_u64).unwrap_or(0);
        let put = self.api.request(Method::PUT, &["subscriptions", &self.subscription]).json(&definition);
        self.api.send(put.header(header::IF_MATCH, format!("\"r{revision}\""))).await?;
        self.runs(&version).await.map(|()| version)
    }

    async fn shown_or_set_up(&self) -> anyhow::Result<Option<Value>> {
        if let Some(shown) = self.shown().await? {
            return Ok(Some(shown));
        }
        let document = self.project.dir.join(SET_UP);
        if document.is_file() {
            client::apply(document, self.connection.clone()).await?;
        }
        Ok(self.shown().await?)
    }

    /// Waits until deliveries go to a version.
    async fn runs(&self, version: &str) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + TAKE_UP;
        loop {
            let shown = self.shown().await?.unwrap_or_default();
            let status = shown.get("status").cloned().unwrap_or_default();
            if text(&status, "version") == version {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                bail!(
                    "{} has not taken up the version within {} s; it is {} {}",
                    self.subscription,
                    TAKE_UP.as_secs(),
                    text(&status, "state"),
                    text(&status, "error")
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Builds, and runs the samples if there are any.
fn tested(project: &Project) -> anyhow::Result<Built> {
    let (sandbox, built) = project.built()?;
    let document = project.dir.join(DOCUMENT);
    if document.is_file() {
        let samples = test::read(&document, &project.name)?;
        test::check(&sandbox, &built, Path::new(DOCUMENT), &samples)?;
    }
    Ok(built)
}
