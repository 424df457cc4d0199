//! `make bench`: how near the server comes to its limits. The server has one core, the client another; every figure stands beside its
//! limit, measured in the same run: the bare wire (hyper, tonic) and the model alone in a process.
//!
//! Limit and server take turns, and the best round of each counts: what else runs on the machine only takes away. `MILLRACE_BENCH_SECONDS`
//! is the length of a round (default 1), `MILLRACE_BENCH_ROUNDS` their number (default 3); arguments choose sections by name. With `STRICT=1`
//! a target that is missed is an error at the end. How to read it: docs/benchmarks.md.

#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark ends with what went wrong")]

mod parts;

use std::{path::Path, time::Duration};

use parts::{
    bench::{SERVER_CORE, Wire, forms, round, rounds},
    child::pin,
    echo::{self, Echo},
    http1, http2, idle, many,
    models::{self, COPY, ENCODER, IMAGE, MLP, SAME, WIDE},
    rates,
    sketches::sketches,
    table::{self, measured, row},
    tails, tuning,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CLIENT_CORE: usize = 1;
/// What can be measured, in this order.
const SECTIONS: [&str; 11] =
    ["identity", "tiny", "tails", "image", "large", "heavy", "sketches", "zipf", "idle", "cycles", "tuning"];

/// What the other core runs.
fn role(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let of = |name: &str| [MLP, ENCODER, IMAGE, COPY, WIDE, SAME].into_iter().find(|subject| subject.name == name);
    if let ["alone", name, rows] = arguments[..] {
        let rate = of(name).expect("a model").alone(rows.parse().expect("a number"), round());
        println!("{rate}");
        return;
    }
    if let ["hold", file] = arguments[..] {
        return echo::run(async { models::hold(Path::new(file)) });
    }
    let count = |numbers: &str| numbers.parse::<usize>().expect("a number");
    let echo = match arguments[..] {
        ["echo", "json", numbers] => Echo::Json(count(numbers)),
        ["echo", "same"] => Echo::Same,
        // The JSON of an answer, and the numbers behind it.
        ["echo", "binary", numbers] => Echo::Fixed(vec![0; 152 + 4 * count(numbers)].into()),
        ["echo", "grpc", numbers] => return echo::run(echo::grpc(4 * count(numbers))),
        _ => panic!("no such role: {arguments:?}"),
    };
    echo::run(async {
        let (listener, address) = echo::listen().await?;
        println!("{address}");
        echo::http(listener, echo).await
    });
}

/// A load on a server that runs already, for a profiler.
fn load(address: &str, form: &str, under_way: &str, seconds: &str) {
    let (address, under_way) = (address.parse().expect("an address"), under_way.parse().expect("a number"));
    let length = Duration::from_secs_f64(seconds.parse().expect("a number"));
    echo::run(async {
        for (name, wire) in forms(MLP) {
            if name != form {
                continue;
            }
            let latencies = match wire {
                Wire::Http(request) => http1::closed(address, &request, under_way, length).await?,
                Wire::Grpc(call) => http2::closed(address, &call, under_way, length).await?,
            };
            row(form, &measured(latencies, length, Duration::ZERO));
        }
        Ok(())
    });
}

async fn measure(section: &str, folder: &Path) {
    match section {
        "identity" => rates::wires(folder, SAME, "a model that gives back its 30 numbers", 30).await,
        "tiny" => rates::wires(folder, MLP, "30→64→2 MLP", 2).await,
        "tails" => tails::tails(folder).await,
        "image" => rates::image(folder).await,
        "large" => rates::large(folder).await,
        "heavy" => tails::heavy(folder).await,
        "sketches" => sketches(folder).await,
        "zipf" => many::zipf(folder).await,
        "idle" => idle::idle(folder).await,
        "cycles" => idle::cycles(folder).await,
        "tuning" => tuning::tuning(folder).await,
        other => panic!("no such section: {other}; there are {SECTIONS:?}"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["role", ..] => return role(&arguments[1..]),
        ["load", address, form, under_way, seconds] => return load(address, form, under_way, seconds),
        _ => {}
    }
    pin(CLIENT_CORE);
    println!(
        "server on core {SERVER_CORE}, client on core {CLIENT_CORE}; best of {} rounds of {} s; 1, 5 and 15 minutes' load {}",
        rounds(),
        round().as_secs_f64(),
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    echo::run(async {
        let sections = if words.is_empty() { &SECTIONS[..] } else { &words[..] };
        for section in sections {
            measure(section, folder.path()).await;
        }
        Ok(())
    });
    drop(folder);
    let all_kept = table::summary();
    if !all_kept && std::env::var("STRICT").is_ok_and(|strict| strict == "1") {
        std::process::exit(1);
    }
}
