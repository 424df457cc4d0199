//! Rates and latencies, and how they are printed.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

static MISSED: AtomicBool = AtomicBool::new(false);

/// A target has been missed so far.
pub fn any_missed() -> bool {
    MISSED.load(Ordering::Relaxed)
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// Of the server's process, for one request.
    pub cpu: Duration,
}

pub fn measured(mut latencies: Vec<Duration>, elapsed: Duration, cpu: Duration) -> Measured {
    latencies.sort_unstable();
    let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or_default();
    let per_second = latencies.len() as f64 / elapsed.as_secs_f64();
    Measured { per_second, p50: at(0.5), p99: at(0.99), cpu: cpu / (latencies.len() as u32).max(1) }
}

pub fn title(text: &str) {
    println!("\n{text:<44}{:>11}{:>10}{:>10}{:>10}", "per second", "p50", "p99", "CPU each");
}

pub fn row(what: &str, measured: &Measured) {
    let Measured { per_second, p50, p99, cpu } = measured;
    println!("  {what:<42}{per_second:>11.0}{:>10}{:>10}{:>10}", micros(*p50), micros(*p99), micros(*cpu));
}

/// A figure beside its target.
pub fn verdict(what: &str, value: f64, unit: &str, target: f64, at_least: bool) {
    let kept = if at_least { value >= target } else { value <= target };
    MISSED.fetch_or(!kept, Ordering::Relaxed);
    let (relation, word) = (if at_least { ">=" } else { "<=" }, if kept { "kept" } else { "MISSED" });
    println!("  {what:<42}{value:>11.2} {unit:<6} target {relation} {target} {unit:<6} {word}");
}

fn micros(duration: Duration) -> String {
    match duration.as_nanos() {
        0 => String::new(),
        nanos @ 1..100_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        nanos @ 100_000..10_000_000 => format!("{} µs", nanos / 1000),
        nanos => format!("{} ms", nanos / 1_000_000),
    }
}
