//! `brolly backup`: has a server copy its data directory while it runs.

use reqwest::Method;

use super::{
    api::Connection,
    output::{self, number, text},
};

/// Copy the server's data directory, consistent as of one moment, while it runs.
///
/// The copy lies on the server's disk, below `backup.dir`; to restore it, start a server on it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
}

/// Has it made.
///
/// # Errors
/// What the server says.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let api = args.connection.open()?;
    let made = api.send(api.request(Method::POST, &["backups"])).await?;
    if args.connection.json {
        return Ok(output::print_json(&made)?);
    }
    let (rows, bytes, took) = (number(&made, "rows"), number(&made, "bytes"), number(&made, "took_ms"));
    Ok(output::print(&format!("{}\n{rows} rows, {bytes} bytes, {took} ms\n", text(&made, "dir")))?)
}
