//! From measurements to rows, and from rows to the table and `target/bench/results.json`.

use std::{fmt, fs, hint::black_box, path::Path, time::Instant};

use anyhow::Context;
use serde::{Serialize, Serializer};

/// One line of the results.
#[derive(Debug, Serialize)]
pub struct Row {
    /// As in the table of goals.
    pub id: &'static str,
    /// What is compared with what.
    pub what: String,
    /// Brolly's figure: the median over the runs.
    pub value: f64,
    /// The baseline's figure: the median over the runs.
    pub baseline: f64,
    /// The unit of both.
    pub unit: &'static str,
    /// `value / baseline`.
    pub ratio: f64,
    /// What the ratio is to be.
    pub goal: Goal,
    /// Whether it is.
    pub holds: bool,
    /// How often each side was measured.
    pub runs: usize,
}

/// What a ratio is to be. Written as text, such as `<= 1.25`.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
    /// To be known.
    Stated,
}

impl Goal {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Goal::AtMost(most) => ratio <= most,
            Goal::AtLeast(least) => ratio >= least,
            Goal::Stated => true,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtMost(most) => write!(f, "<= {most}"),
            Goal::AtLeast(least) => write!(f, ">= {least}"),
            Goal::Stated => f.write_str("stated"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Row {
    /// A row from the figures of all runs of both sides.
    pub fn new(
        id: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        goal: Goal,
        values: &mut [f64],
        baselines: &mut [f64],
    ) -> Self {
        let runs = values.len();
        let (value, baseline) = (median(values), median(baselines));
        let ratio = value / baseline;
        Self { id, what: what.into(), value, baseline, unit, ratio, goal, holds: goal.holds(ratio), runs }
    }
}

/// Measures two sides by turns, so that whatever disturbs the machine disturbs both: microseconds
/// per call, one figure a run and side. A run is `calls` calls; the first of each side warms up and
/// is not counted.
pub fn by_turns<A, B>(
    runs: usize,
    calls: u32,
    mut ours: impl FnMut() -> anyhow::Result<A>,
    mut bare: impl FnMut() -> anyhow::Result<B>,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    time(calls, &mut ours)?;
    time(calls, &mut bare)?;
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for run in 0..runs {
        // Each side goes first in every other run.
        if run % 2 == 0 {
            values.push(time(calls, &mut ours)?);
            baselines.push(time(calls, &mut bare)?);
        } else {
            baselines.push(time(calls, &mut bare)?);
            values.push(time(calls, &mut ours)?);
        }
    }
    Ok((values, baselines))
}

fn time<T>(calls: u32, call: &mut impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<f64> {
    let started = Instant::now();
    for _ in 0..calls {
        black_box(call()?);
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints the table.
pub fn print(rows: &[Row]) {
    println!(
        "{:<4} {:>12} {:>12} {:<12} {:>6} {:>8}  {:<5} what",
        "", "brolly", "baseline", "unit", "ratio", "goal", "holds"
    );
    for row in rows {
        println!(
            "{:<4} {:>12.2} {:>12.2} {:<12} {:>6.2} {:>8}  {:<5} {}",
            row.id,
            row.value,
            row.baseline,
            row.unit,
            row.ratio,
            row.goal.to_string(),
            if row.holds { "yes" } else { "NO" },
            row.what
        );
    }
}

/// Writes `target/bench/results.json`: the rows of this run.
pub fn write(rows: &[Row]) -> anyhow::Result<()> {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench"));
    let path = dir.join("results.json");
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&path, serde_json::to_vec_pretty(rows)?))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_medians_and_compares_them() {
        let row =
            |goal| Row::new("P0", "a test", "us/call", goal, &mut [9.0, 2.0, 3.0], &mut [2.0, 8.0, 1.0]);
        let met = row(Goal::AtMost(1.5));
        assert_eq!((met.value, met.baseline, met.ratio, met.holds, met.runs), (3.0, 2.0, 1.5, true, 3));
        assert!(!row(Goal::AtMost(1.4)).holds);
        let json = serde_json::to_value(met).unwrap();
        assert_eq!(json["goal"], "<= 1.5");
        assert_eq!(json["id"], "P0");
    }
}
