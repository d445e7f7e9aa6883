//! `cargo xtask demo`: Brolly with the three sample plugins on this machine, fed with real orders at
//! a pace that can be watched. Uses only what a user would: the command line of `brolly`.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{signals::Signals, tree};

/// How long the server may take until it is ready.
const START: Duration = Duration::from_secs(60);

/// How often it is asked whether it is.
const ASK: Duration = Duration::from_millis(100);

/// How the demo runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address of the API and the console.
    #[arg(long, default_value = "127.0.0.1:7070")]
    listen: String,
    /// Orders a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Keep what an earlier demo left in target/demo; orders that it has already are not published again.
    #[arg(long)]
    keep: bool,
    /// Stop once all orders are published, instead of waiting for Ctrl-C.
    #[arg(long)]
    once: bool,
}

/// Builds, serves, sets up, publishes, and waits for Ctrl-C.
///
/// # Errors
/// If a step fails, or the server stops by itself or with a failure.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    crate::plugins::run()?;
    tree::run(tree::cargo().args(["build", "--package", "brolly"]))?;
    let folder = tree::target("demo");
    if folder.exists() && !arguments.keep {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;

    let signals = Signals::listen()?;
    let mut demo = Demo::serve(folder, &arguments.listen, &signals)?;
    let result = demo.show(arguments);
    // Drained in any case: an error of ours is no reason to kill a server in the middle of its work.
    let stopped = demo.stop();
    result.and(stopped)
}

/// A server that runs, and how to talk to it.
struct Demo<'a> {
    folder: PathBuf,
    url: String,
    signals: &'a Signals,
    server: Child,
}

impl<'a> Demo<'a> {
    /// Starts the server and waits until it is ready.
    fn serve(folder: PathBuf, listen: &str, signals: &'a Signals) -> anyhow::Result<Self> {
        let mut command = Command::new(tree::binary("brolly"));
        command.args(["serve", "--data-dir"]).arg(folder.join("data")).args(["--listen", listen]);
        // A line for every request would push what to try off the screen.
        command.env("BROLLY_LOG__FILTER", "info,brolly_admin::auth=warn");
        eprintln!("> {}", tree::show(&command));
        let server = signals.spawn(&mut command)?;
        let mut demo = Demo { folder, url: format!("http://{listen}"), signals, server };
        match demo.wait_until_ready(listen) {
            Ok(()) => Ok(demo),
            Err(error) => demo.stop().and(Err(error)),
        }
    }

    fn wait_until_ready(&mut self, listen: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while !is_ready(listen) {
            if let Some(status) = self.server.try_wait()? {
                bail!(
                    "the server ended before it was ready: {status}; is something else listening on {listen}?"
                );
            }
            if self.signals.received() {
                bail!("stopped before the server was ready");
            }
            if Instant::now() > deadline {
                bail!("the server was not ready within {} s", START.as_secs());
            }
            thread::sleep(ASK);
        }
        Ok(())
    }

    /// Sets everything up, publishes the orders and says what there is to see.
    fn show(&mut self, arguments: &Arguments) -> anyhow::Result<()> {
        let wanted = tree::root().join("tests/data/demo.toml");
        self.run_brolly(&["apply", "--yes", path(&wanted)?])?;

        self.explain(arguments.rate);
        let (orders, rate) = (tree::root().join("tests/data/orders.csv"), arguments.rate.to_string());
        let columns = ["--key", "customer_id", "--id", "order_id"];
        let publish = ["publish", "orders.paid", "--csv", path(&orders)?, "--rate", &rate];
        self.run_brolly(&[&publish[..], &columns].concat())?;
        if self.signals.received() || arguments.once {
            return Ok(());
        }
        println!("\nAll orders are published. The console stays at {}; Ctrl-C ends the demo.", self.url);
        self.wait_for_the_end()
    }

    fn explain(&self, rate: u32) {
        let (url, token) = (&self.url, self.token().display().to_string());
        println!(
            "
6,919 real orders are now published, {rate} a second.

  console   {url}   (token: {token})
  status    BROLLY_URL={url} BROLLY_TOKEN=$(cat {token}) target/debug/brolly status
  one order the same with trace o000001
  totals    curl -H \"Authorization: Bearer $(cat {token})\" '{url}/api/v1/subscriptions/settlement/state?prefix=day/'

Try: pause a subscription and watch its backlog, and only its; set commission_percent to \"x\" and see the
retries; look at the dead letters of settlement (orders of 0 cents) and replay one; kill this machine's
`brolly serve` with -9, start the demo again with --keep, and compare the totals.
Ctrl-C drains and ends the demo.
"
        );
    }

    fn token(&self) -> PathBuf {
        self.folder.join("data").join("admin.token")
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let token = self.token();
        let token = fs::read_to_string(&token).with_context(|| format!("cannot read {}", token.display()))?;
        let mut command = Command::new(tree::binary("brolly"));
        command.args(arguments).env("BROLLY_URL", &self.url).env("BROLLY_TOKEN", token.trim());
        Ok(command)
    }

    /// Runs a client to its end, or until a signal ends it, which is no failure.
    fn run_brolly(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command(arguments)?;
        eprintln!("> {}", tree::show(&command));
        let mut client = self.signals.spawn(&mut command)?;
        match self.signals.wait(&mut client)? {
            None => self.signals.end(&mut client).map(drop),
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{} failed: {status}", tree::show(&command)),
        }
    }

    /// Waits for a signal; the server ending by itself is a failure.
    fn wait_for_the_end(&mut self) -> anyhow::Result<()> {
        match self.signals.wait(&mut self.server)? {
            None => Ok(()),
            Some(status) => bail!("the server ended by itself: {status}"),
        }
    }

    /// Has the server drain, and waits for it.
    fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.signals.end(&mut self.server)?;
        if !status.success() {
            bail!("the server did not end cleanly: {status}");
        }
        Ok(())
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

/// Whether `GET /readyz` answers with success.
fn is_ready(listen: &str) -> bool {
    let ask = || -> Option<bool> {
        let address = listen.to_socket_addrs().ok()?.next()?;
        let mut stream = TcpStream::connect_timeout(&address, START).ok()?;
        stream.set_read_timeout(Some(START)).ok()?;
        write!(stream, "GET /readyz HTTP/1.1\r\nhost: {listen}\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).ok()?;
        Some(answer.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
