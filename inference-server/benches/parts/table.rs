//! Rates and latencies, how they are printed, and which targets were missed.

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static VERDICTS: Mutex<Verdicts> = Mutex::new(Verdicts { title: String::new(), kept: 0, missed: Vec::new() });

/// What came of the targets so far.
struct Verdicts {
    /// What is being measured.
    title: String,
    kept: usize,
    missed: Vec<String>,
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

/// What is measured from now on, and after how many seconds.
pub fn title(text: &str) {
    let seconds = START.elapsed().as_secs();
    println!("\n[{seconds:>3} s] {text}\n  {:<42}{:>11}{:>10}{:>10}{:>10}", "", "per second", "p50", "p99", "CPU each");
    text.clone_into(&mut VERDICTS.lock().unwrap_or_else(PoisonError::into_inner).title);
}

pub fn row(what: &str, measured: &Measured) {
    let Measured { per_second, p50, p99, cpu } = measured;
    println!("  {what:<42}{per_second:>11.0}{:>10}{:>10}{:>10}", micros(*p50), micros(*p99), micros(*cpu));
}

/// A figure without a target: a limit, or what others are held against.
pub fn figure(what: &str, value: f64, unit: &str) {
    println!("  {what:<42}{value:>11.2} {unit}");
}

/// A figure beside its target.
pub fn verdict(what: &str, value: f64, unit: &str, target: f64, at_least: bool) {
    let kept = if at_least { value >= target } else { value <= target };
    let (relation, word) = (if at_least { ">=" } else { "<=" }, if kept { "kept" } else { "MISSED" });
    println!("  {what:<42}{value:>11.3} {unit:<6} target {relation} {target:.3} {unit:<6} {word}");
    let mut verdicts = VERDICTS.lock().unwrap_or_else(PoisonError::into_inner);
    if kept {
        verdicts.kept += 1;
    } else {
        let missed =
            format!("{}: {what}: {value:.3} {unit} where the target is {relation} {target:.3}", verdicts.title);
        verdicts.missed.push(missed);
    }
}

/// Prints how many targets were kept and which were not; whether all were.
pub fn summary() -> bool {
    let Verdicts { kept, missed, .. } = &*VERDICTS.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = START.elapsed().as_secs();
    println!("\n[{seconds:>3} s] {kept} targets kept, {} missed", missed.len());
    missed.iter().for_each(|missed| println!("  {missed}"));
    missed.is_empty()
}

fn micros(duration: Duration) -> String {
    match duration.as_nanos() {
        0 => String::new(),
        nanos @ 1..100_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        nanos @ 100_000..10_000_000 => format!("{} µs", nanos / 1000),
        nanos => format!("{} ms", nanos / 1_000_000),
    }
}
