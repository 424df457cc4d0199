//! The server's own choice of batch size and delay beside every setting of a grid: under one load, after it has grown, and after it has
//! shrunk again, all on one server that is never told.

use std::{path::Path, time::Duration};

use serde_json::json;

use super::{
    bench::{SERVER_CORE, Wire, better, config, rounds, serve},
    child::Process,
    http1,
    models::WIDE,
    table::{Measured, row, title, verdict},
};

/// Requests under way.
const FEW: usize = 4;
const MANY: usize = 24;
const SIZES: [u32; 6] = [1, 2, 4, 8, 16, 32];
const DELAYS: [u64; 6] = [0, 100, 250, 500, 1000, 2000];
/// Rounds in which the server may look for its setting.
const SETTLING: usize = 9;
/// Largest p99 of a setting that counts, in times of that of running one by one: the server's default.
const TAIL: u32 = 2;

/// The best setting of a grid.
struct Best {
    under_way: usize,
    rows: u32,
    delay: u64,
    /// The p99 that it had to keep.
    target: Duration,
}

pub async fn tuning(folder: &Path) {
    let (headers, body) = WIDE.binary();
    let wire = Wire::Http(http1::request(&WIDE.path(), &headers, &body));
    let (few, many) = (grid(folder, &wire, FEW).await, grid(folder, &wire, MANY).await);
    let ours = serve(folder, WIDE);
    for (best, when) in [(&few, "from the start"), (&many, "grown from 4"), (&few, "shrunk from 24")] {
        left_alone(folder, &wire, &ours, best, when).await;
    }
}

fn fixed(folder: &Path, rows: u32, delay: u64) -> Process {
    let batching = json!({"maxSize": rows, "maxDelayMicroseconds": delay, "tuning": false});
    let path = config(folder, &[(WIDE.name.to_owned(), WIDE)], json!({"batching": batching}));
    Process::server(&SERVER_CORE.to_string(), &path)
}

/// Every setting once, printed; the one of the highest rate among those whose p99 is not too long.
async fn grid(folder: &Path, wire: &Wire, under_way: usize) -> Best {
    title(&format!("grid of batch size and delay, weights that no cache holds, binary, {under_way} under way"));
    let mut best = Best { under_way, rows: 1, delay: 0, target: Duration::MAX };
    let mut highest = 0.0;
    for rows in SIZES {
        // One row has no company to wait for.
        for delay in DELAYS.into_iter().filter(|delay| rows > 1 || *delay == 0) {
            let measured = wire.load(&fixed(folder, rows, delay), under_way).await;
            row(&format!("size {rows}, delay {delay} µs"), &measured);
            if rows == 1 {
                best.target = TAIL * measured.p99;
            }
            if measured.per_second > highest && measured.p99 <= best.target {
                highest = measured.per_second;
                (best.rows, best.delay) = (rows, delay);
            }
        }
    }
    best
}

/// Both are measured anew: the best of so many single rounds owes some of its rate to chance.
async fn left_alone(folder: &Path, wire: &Wire, ours: &Process, best: &Best, when: &str) {
    let Best { under_way, rows, delay, target } = *best;
    title(&format!("batch size and delay left alone, {under_way} under way, {when}"));
    for _ in 0..SETTLING {
        wire.load(ours, under_way).await;
    }
    let (mut limit, mut tuned) = (Measured::default(), Measured::default());
    // Not by turns: a pause would be a change of load, and begin the search anew.
    for _ in 0..rounds() {
        better(&mut tuned, wire.load(ours, under_way).await);
    }
    let fixed = fixed(folder, rows, delay);
    for _ in 0..rounds() {
        better(&mut limit, wire.load(&fixed, under_way).await);
    }
    row(&format!("best of the grid: size {rows}, delay {delay} µs"), &limit);
    row(&format!("left alone, after {SETTLING} rounds"), &tuned);
    verdict("of the best of the grid", tuned.per_second / limit.per_second, "", 0.95, true);
    verdict("p99, of the longest that counts", tuned.p99.as_secs_f64() / target.as_secs_f64(), "", 1.0, false);
}
