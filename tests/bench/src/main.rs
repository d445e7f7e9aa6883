//! The benchmarks: each is a comparison with the leanest honest program that does the same work
//! without Brolly, measured side by side in the same process. `cargo xtask bench [ID ...]` runs it;
//! the names of storage engines (`sled`, `redb`) among the IDs choose on which, and without one it is
//! the default.
//!
//! Prints a table and writes `target/bench/results.json`. A comparison is one file with its
//! baseline beside it; it is listed in [`COMPARISONS`] and nowhere else.

mod backlog;
mod bare;
mod embedded;
mod engine;
mod first;
mod history;
mod host;
mod neighbour;
mod rabbit;
mod report;
mod routes;
mod runtime;
mod swap;

use std::process::ExitCode;

use anyhow::{Context, ensure};
use brolly_store::Engine;

use report::Row;

/// As in the binary, for both sides.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A comparison: its identifiers, and what measures it, on these engines if there is a store in it. One
/// may give several rows.
type Comparison = (&'static [&'static str], fn(&[Engine]) -> anyhow::Result<Vec<Row>>);

/// All comparisons, in the order in which they run.
const COMPARISONS: &[Comparison] = &[
    (&["P1"], runtime::fresh),
    (&["P2"], runtime::reused),
    (&["P3", "P4"], rabbit::throughput),
    (&["P5"], embedded::throughput),
    (&["P6"], embedded::latency),
    (&["P7"], routes::many),
    (&["P8"], backlog::standing),
    (&["P9"], neighbour::isolation),
    (&["P10"], swap::gap),
    (&["P11"], history::look_up),
    (&["first"], first::message),
];

fn main() -> anyhow::Result<ExitCode> {
    let (mut engines, mut ids) = (Vec::new(), Vec::new());
    for word in std::env::args().skip(1) {
        match word.parse() {
            Ok(engine) => engines.push(engine),
            Err(_) => ids.push(word),
        }
    }
    if engines.is_empty() {
        engines.push(Engine::default());
    }
    let known: Vec<&str> = COMPARISONS.iter().flat_map(|(ids, _)| *ids).copied().collect();
    for id in &ids {
        ensure!(known.contains(&id.as_str()), "there is no benchmark {id}; there are {}", known.join(" "));
    }
    let mut rows = Vec::new();
    for (all, measure) in COMPARISONS {
        if ids.is_empty() || ids.iter().any(|wanted| all.contains(&wanted.as_str())) {
            rows.extend(measure(&engines).with_context(|| format!("benchmark {}", all.join(" ")))?);
        }
    }
    report::print(&rows);
    report::write(&rows)?;
    Ok(if rows.iter().all(|row| row.holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
