//! `brolly publish`: one message, or many from a file, at a pace, with retries that publish nothing
//! twice.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use brolly_core::whole_ms;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, header};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Error,
    api::{Api, Connection},
    output::{self, shown},
    records::{self, Input, Record},
};

/// Bytes after which a batch is sent, whatever its number of messages.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a batch waits for more messages when its input is slow.
const BATCH_WAIT: Duration = Duration::from_millis(200);
/// Batches a second when publishing at a pace.
const PACE: u32 = 10;
/// Messages read ahead.
const READ_AHEAD: usize = 2_000;

/// Publish one message, or many.
///
/// One message: its body is the argument, --file, or standard input. Many: --ndjson with one
/// {"id"?,"key"?,"headers"?,"payload":any JSON} a line, or --csv with a message for each row. What is
/// answered with success is durable. A batch that fails is sent again with the same ids, so that
/// nothing is published twice; running the whole command again is as safe if the input has ids.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The topic.
    topic: String,
    /// The body; `-`, or none at all, reads standard input.
    #[arg(conflicts_with_all = ["file", "ndjson", "csv"])]
    body: Option<String>,
    /// Routing and ordering key; with --csv the column that has it.
    #[arg(long, conflicts_with = "ndjson")]
    key: Option<String>,
    /// The message's id, which the topic accepts once; with --csv the column that has it.
    #[arg(long, conflicts_with = "ndjson", value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,
    /// A header of the message; may be given several times. Names become lower case.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = name_and_value, conflicts_with_all = ["ndjson", "csv"])]
    headers: Vec<(String, String)>,
    /// Media type of the body [default: application/json if it is JSON].
    #[arg(long, value_name = "TYPE", conflicts_with_all = ["ndjson", "csv"])]
    content_type: Option<String>,
    /// A file that is the body; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ndjson", "csv"])]
    file: Option<PathBuf>,
    /// A file with many messages, one JSON object a line; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "csv")]
    ndjson: Option<PathBuf>,
    /// A table with headings; each row is a message, its columns are the fields of a JSON object. A
    /// column that has integers only becomes numbers.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Hold the messages back for so many milliseconds.
    #[arg(long, value_name = "MS")]
    delay_ms: Option<u64>,
    /// Let a message become a dead letter if it is not handled within so many milliseconds.
    #[arg(long, value_name = "MS")]
    expires_ms: Option<u64>,
    /// Messages a second; none means as fast as it goes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// The most messages in one request.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    batch: u32,
    /// How long to go on sending what fails in a way that may pass, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    retry_s: u64,
    #[command(flatten)]
    connection: Connection,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is written NAME=VALUE")?;
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Publishes.
///
/// # Errors
/// What the input has wrong, or the server says.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let api = args.connection.open()?;
    let input = match (&args.ndjson, &args.csv) {
        (Some(file), _) => Input::Lines(file.clone()),
        (None, Some(file)) => Input::Table { file: file.clone(), id: args.id.clone(), key: args.key.clone() },
        (None, None) => return Ok(one(&api, &args).await?),
    };
    let mut publisher = Publisher::new(&api, &args, &input);
    let done = publisher.all(&args, &input).await;
    publisher.bar.finish_and_clear();
    if done.is_err() && publisher.published > 0 {
        eprintln!("{} messages were published before this:", publisher.published);
    }
    done?;
    Ok(publisher.report(args.connection.json)?)
}

/// Publishes a single message.
async fn one(api: &Api, args: &Args) -> Result<(), Error> {
    let body = body(args)?;
    let id = args.id.clone().unwrap_or_else(records::new_id);
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
    let content_type = args.content_type.clone().or_else(|| is_json().then(|| "application/json".to_owned()));
    let send = || async {
        let mut request = api
            .request(Method::POST, &["topics", &args.topic, "messages"])
            .query(&[("id", &id)])
            .query(&[("key", &args.key)])
            .query(&[("delay_ms", args.delay_ms), ("expires_ms", args.expires_ms)]);
        if let Some(content_type) = &content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        for (name, value) in &args.headers {
            request = request.header(format!("brolly-header-{name}"), value);
        }
        api.send(request.body(body.clone())).await
    };
    let answer = send
        .retry(patience(args.retry_s))
        .when(Error::is_passing)
        .notify(|error, wait| eprintln!("{error}; trying again in {} ms", wait.as_millis()))
        .await?;
    let printed = if args.connection.json {
        output::print_json(&answer)
    } else {
        let again = if duplicates(&answer) > 0 { " (the topic had it already)" } else { "" };
        output::print(&format!("published {}{again}\n", shown(&id)))
    };
    printed.map_err(|source| Error::File { path: "standard output".into(), source })
}

/// The body of a single message.
fn body(args: &Args) -> Result<Vec<u8>, Error> {
    match (&args.body, &args.file) {
        (Some(text), _) if text != "-" => Ok(text.clone().into_bytes()),
        (_, Some(file)) if file != Path::new("-") => super::error::read(file),
        (_, _) => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|source| Error::File { path: "standard input".into(), source })?;
            Ok(bytes)
        }
    }
}

fn duplicates(answer: &Value) -> u64 {
    answer.get("duplicates").and_then(Value::as_u64).unwrap_or(0)
}

/// Doubling pauses with jitter, from 200 ms to 5 s, for so many seconds in all.
fn patience(seconds: u64) -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .with_total_delay(Some(Duration::from_secs(seconds)))
}

/// Publishes many messages, one batch after the other, so that their order is kept.
struct Publisher<'a> {
    api: &'a Api,
    topic: &'a str,
    retry_s: u64,
    delay_ms: Option<u64>,
    expires_ms: Option<u64>,
    bar: ProgressBar,
    started: Instant,
    published: u64,
    duplicates: u64,
}

impl<'a> Publisher<'a> {
    fn new(api: &'a Api, args: &'a Args, input: &Input) -> Self {
        // Drawn on standard error, and only if that is a terminal.
        let bar = ProgressBar::new(input.size().unwrap_or(0));
        let template = match input.size() {
            Some(_) => "{bar:30} {percent:>3} %  {msg}  {elapsed} gone, {eta} to go",
            None => "{spinner} {msg}  {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            api,
            topic: &args.topic,
            retry_s: args.retry_s,
            delay_ms: args.delay_ms,
            expires_ms: args.expires_ms,
            bar,
            started: Instant::now(),
            published: 0,
            duplicates: 0,
        }
    }

    async fn all(&mut self, args: &Args, input: &Input) -> Result<(), Error> {
        let limit = match args.rate {
            Some(rate) => args.batch.min(rate.div_ceil(PACE)),
            None => args.batch,
        } as usize;
        let (sender, mut receiver) = mpsc::channel(READ_AHEAD);
        let mut reader = JoinSet::new();
        let records = input.open()?;
        reader.spawn_blocking(move || {
            for record in records {
                let last = record.is_err();
                if sender.blocking_send(record).is_err() || last {
                    return;
                }
            }
        });
        loop {
            let (batch, end) = next_batch(&mut receiver, limit, BATCH_WAIT).await;
            self.send(&batch, &input.shown()).await?;
            match end {
                None => {}
                Some(Ok(())) => return read_to_the_end(reader).await,
                Some(Err(error)) => return Err(error),
            }
            if let Some(rate) = args.rate {
                let due = Duration::from_secs_f64(to_f64(self.published) / f64::from(rate));
                sleep_until(self.started + due).await;
            }
        }
    }

    async fn send(&mut self, batch: &[Record], input: &str) -> Result<(), Error> {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(()) };
        let mut body = String::with_capacity(batch.iter().map(|record| record.line.len() + 1).sum());
        for record in batch {
            body.push_str(&record.line);
            body.push('\n');
        }
        let send = || {
            let request = self
                .api
                .request(Method::POST, &["topics", self.topic, "messages"])
                .query(&[("delay_ms", self.delay_ms), ("expires_ms", self.expires_ms)])
                .header(header::CONTENT_TYPE, "application/x-ndjson");
            self.api.send(request.body(body.clone()))
        };
        let answer = send
            .retry(patience(self.retry_s))
            .when(Error::is_passing)
            .notify(|error, wait| {
                let again = format!("{error}; trying again in {} ms", wait.as_millis());
                self.bar.suspend(|| eprintln!("{again}"));
            })
            .await;
        let answer = answer.map_err(|error| match error {
            Error::Refused { status, code, detail } => {
                let detail = format!("{input}, of the lines {} to {}: {detail}", first.number, last.number);
                Error::Refused { status, code, detail }
            }
            other => other,
        })?;
        self.published += batch.len() as u64;
        self.duplicates += duplicates(&answer);
        self.bar.inc(batch.iter().map(|record| record.read).sum());
        self.bar.set_message(format!("{} messages, {:.0}/s", self.published, self.rate()));
        Ok(())
    }

    /// Messages a second so far.
    fn rate(&self) -> f64 {
        to_f64(self.published) / self.started.elapsed().as_secs_f64().max(0.001)
    }

    fn report(&self, json: bool) -> std::io::Result<()> {
        let ms = whole_ms(self.started.elapsed());
        if json {
            return output::print_json(
                &json!({"published": self.published, "duplicates": self.duplicates, "duration_ms": ms}),
            );
        }
        let again = match self.duplicates {
            0 => String::new(),
            n => format!(" ({n} of them the topic had already)"),
        };
        let took = output::duration(ms.saturating_mul(1000));
        output::print(&format!(
            "published {} messages{again} in {took}, {:.0} a second\n",
            self.published,
            self.rate()
        ))
    }
}

/// A reader that broke off has not come to the end of its input.
async fn read_to_the_end(mut reader: JoinSet<()>) -> Result<(), Error> {
    match reader.join_next().await {
        Some(Err(error)) => Err(Error::Usage(format!("reading the input broke off: {error}"))),
        Some(Ok(())) | None => Ok(()),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people, and a pace")]
fn to_f64(value: u64) -> f64 {
    value as f64
}

/// The next messages: as many as are allowed, or as come within a moment after the first. With the
/// end of the input comes how it ended.
async fn next_batch(
    receiver: &mut mpsc::Receiver<Result<Record, Error>>,
    limit: usize,
    wait: Duration,
) -> (Vec<Record>, Option<Result<(), Error>>) {
    let mut batch: Vec<Record> = Vec::new();
    let mut bytes = 0;
    let mut deadline = None;
    while batch.len() < limit && bytes < BATCH_BYTES {
        let next = match deadline {
            None => receiver.recv().await,
            Some(deadline) => match timeout_at(deadline, receiver.recv()).await {
                Ok(next) => next,
                Err(_) => break,
            },
        };
        match next {
            Some(Ok(record)) => {
                bytes += record.line.len();
                batch.push(record);
                deadline.get_or_insert_with(|| Instant::now() + wait);
            }
            Some(Err(error)) => return (batch, Some(Err(error))),
            None => return (batch, Some(Ok(()))),
        }
    }
    (batch, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: usize) -> Result<Record, Error> {
        Ok(Record { line: n.to_string(), number: n as u64, read: 1 })
    }

    #[tokio::test]
    async fn batches_are_full_or_as_much_as_came_in_time_and_end_with_the_input() {
        let (sender, mut receiver) = mpsc::channel(10);
        for n in 0..5 {
            sender.send(record(n)).await.unwrap();
        }
        let sizes = async |receiver: &mut mpsc::Receiver<_>| {
            let (batch, end) = next_batch(receiver, 3, Duration::ZERO).await;
            (batch.len(), end.map(|end| end.is_ok()))
        };
        assert_eq!(sizes(&mut receiver).await, (3, None));
        assert_eq!(sizes(&mut receiver).await, (2, None), "the input is slow, not at its end");
        sender.send(record(5)).await.unwrap();
        sender.send(Err(Error::Usage("bad".into()))).await.unwrap();
        assert_eq!(sizes(&mut receiver).await, (1, Some(false)));
        drop(sender);
        assert_eq!(sizes(&mut receiver).await, (0, Some(true)));
    }

    #[test]
    fn headers_are_names_and_values() {
        assert_eq!(name_and_value("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(name_and_value("a").is_err());
        assert!(name_and_value("=a").is_err());
    }
}
