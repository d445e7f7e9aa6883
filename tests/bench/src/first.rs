//! How long it takes from an upload to its first handled message, with nothing compiled before and with a
//! compiled plugin at hand.

use std::{fs, path::Path, time::Instant};

use anyhow::Context;
use brolly_store::Engine;

use crate::{
    bare::{Bare, Bounds},
    embedded::{on_tokio, order},
    host::{Host, Place},
    report::{Goal, Row},
    runtime,
};

const ROUNDS: usize = 7;

/// Upload, topic, queue, route, subscription, publish, handled and durable.
pub fn message(engines: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let wasm = runtime::plugin()?;
    let mut rows = Vec::new();
    for engine in engines {
        let (mut cold, mut warm, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (before, after) = (tempfile::tempdir()?, tempfile::tempdir()?);
            cold.push(on_tokio(uploaded(before.path(), *engine, &wasm))?);
            copy(&before.path().join("cache"), &after.path().join("cache"))?;
            warm.push(on_tokio(uploaded(after.path(), *engine, &wasm))?);
            let started = Instant::now();
            Bare::new(&wasm, Bounds::Explicit)?.instance()?.call("o1", &order(0, 1).payload)?;
            bare.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let what = format!(
            "embedded, {engine}: upload -> first message handled and durable, nothing compiled before / bare \
             wasmtime: compile, instantiate, call"
        );
        rows.push(Row::new("first", what, "ms", Goal::Stated, &mut cold, &mut bare));
        let what = format!("embedded, {engine}: the same, compiled before / nothing compiled before");
        rows.push(Row::new("first", what, "ms", Goal::Stated, &mut warm, &mut cold));
    }
    Ok(rows)
}

/// Milliseconds.
async fn uploaded(dir: &Path, engine: Engine, wasm: &[u8]) -> anyhow::Result<f64> {
    let host = Host::empty(dir, engine)?;
    let started = Instant::now();
    host.set_up(wasm, "fresh", Place::Embedded).await?;
    host.publish(vec![order(0, 0)]).await?;
    host.settled.reach(1).await;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
