//! `make bench`: how near the server comes to its limits. The server has one core, the client another; every figure stands beside its
//! limit, measured in the same run: the bare wire (hyper, tonic) and the model alone in a process.
//!
//! Limit and server take turns, and the best round of each counts: what else runs on the machine only takes away. `MILLRACE_BENCH_SECONDS`
//! is the length of a round (default 1), `MILLRACE_BENCH_ROUNDS` their number (default 3); arguments choose sections by name.

#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark ends with what went wrong")]

mod parts;

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use millrace_contract::Digest;
use parts::{
    child::{Process, pin},
    echo::{self, Echo},
    http1, http2,
    models::{COPY, ENCODER, IMAGE, MLP, Subject, WIDE},
    table::{Measured, measured, row, title, verdict},
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// Of the limit that echo and model make together.
const TARGET: f64 = 0.85;

fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn round() -> Duration {
    Duration::from_secs_f64(setting("MILLRACE_BENCH_SECONDS", 1.0))
}

fn rounds() -> usize {
    setting("MILLRACE_BENCH_ROUNDS", 3.0) as usize
}

/// One round: latencies of a load, and the server's processor time.
async fn once(server: &Process, load: impl Future<Output = io::Result<Vec<Duration>>>) -> Measured {
    let (cpu, start) = (server.cpu(), Instant::now());
    let latencies = load.await.expect("answers");
    measured(latencies, start.elapsed(), server.cpu() - cpu)
}

fn better(best: &mut Measured, other: Measured) {
    if other.per_second > best.per_second {
        *best = other;
    }
}

/// A wire form of a request.
enum Wire {
    Http(Vec<u8>),
    Grpc(Vec<u8>),
}

impl Wire {
    async fn load(&self, server: &Process, connections: usize) -> Measured {
        match self {
            Self::Http(request) => once(server, http1::closed(server.address, request, connections, round())).await,
            Self::Grpc(call) => once(server, http2::closed(server.address, call, connections, round())).await,
        }
    }
}

fn forms(subject: Subject) -> [(&'static str, Wire); 3] {
    let json = http1::request(&subject.path(), "content-type: application/json\r\n", &subject.json());
    let (headers, body) = subject.binary();
    let binary = http1::request(&subject.path(), &headers, &body);
    let grpc = http2::call("/inference.GRPCInferenceService/ModelInfer", &subject.grpc());
    [("JSON", Wire::Http(json)), ("binary", Wire::Http(binary)), ("gRPC", Wire::Grpc(grpc))]
}

/// A configuration with these models, under their own names.
fn config(folder: &Path, models: &[(String, Subject)], more: Value) -> PathBuf {
    let of = |(name, subject): &(String, Subject)| {
        let file = subject.file().canonicalize().expect("a committed model");
        let digest = Digest::of(std::fs::read(&file).expect("readable")).to_string();
        json!({"name": name, "artifact": {"uri": format!("file://{}", file.display()), "digest": digest, "format": "ONNX"}})
    };
    let mut config = json!({"models": models.iter().map(of).collect::<Vec<_>>()});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let path = folder.join(format!("{}-{}.json", models[0].0, models.len()));
    std::fs::write(&path, config.to_string()).expect("a temporary file");
    path
}

fn serve(folder: &Path, subject: Subject) -> Process {
    let models = [(subject.name.to_owned(), subject)];
    Process::server(&SERVER_CORE.to_string(), &config(folder, &models, json!({})))
}

fn alone(subject: Subject, rows: usize) -> f64 {
    Process::result(SERVER_CORE, &["alone", subject.name, &rows.to_string()])
}

async fn tiny(folder: &Path) {
    let (one, many) = (alone(MLP, 1), alone(MLP, 32));
    title("30→64→2 MLP");
    println!("  {:<42}{one:>11.0}", "alone, rows a second in runs of 1");
    println!("  {:<42}{many:>11.0}", "alone, rows a second in runs of 32");
    let wires = std::env::var("MILLRACE_BENCH_WIRES").unwrap_or_default();
    for (index, (name, wire)) in forms(MLP).iter().enumerate() {
        if !wires.is_empty() && !wires.contains(name) {
            continue;
        }
        let echo = Process::role(SERVER_CORE, &["echo", ["json", "binary", "grpc"][index]]);
        let ours = serve(folder, MLP);
        for (connections, rate) in [(1, one), (64, many)] {
            let (mut limit, mut served) = (Measured::default(), Measured::default());
            // The first round only warms up.
            for number in 0..=rounds() {
                let of_echo = wire.load(&echo, connections).await;
                let of_ours = wire.load(&ours, connections).await;
                if number > 0 {
                    better(&mut limit, of_echo);
                    better(&mut served, of_ours);
                }
            }
            row(&format!("{name}, {connections} under way: bare echo"), &limit);
            row(&format!("{name}, {connections} under way: server"), &served);
            let possible = 1.0 / (1.0 / limit.per_second + 1.0 / rate);
            verdict("of what echo and model allow", served.per_second / possible, "", TARGET, true);
            if connections == 1 {
                let over = served.p50.as_secs_f64() - limit.p50.as_secs_f64();
                verdict("one at a time, over the echo", over * 1e6, "µs", 30.0, false);
            }
        }
    }
}

async fn tails(folder: &Path) {
    title("30→64→2 MLP at 80 % of its highest rate, JSON");
    let ours = serve(folder, MLP);
    let [(_, Wire::Http(request)), ..] = forms(MLP) else { return };
    let mut best = Measured::default();
    for _ in 0..=rounds() {
        better(&mut best, Wire::Http(request.clone()).load(&ours, 64).await);
    }
    let rate = best.per_second * 0.8;
    let mut kept = Measured { p99: Duration::MAX, ..Measured::default() };
    for _ in 0..rounds() {
        let paced = once(&ours, http1::paced(ours.address, &request, 64, rate, round())).await;
        if paced.p99 < kept.p99 {
            kept = paced;
        }
    }
    row("highest rate", &best);
    row("at 80 %", &kept);
    verdict("p99", kept.p99.as_secs_f64() * 1e3, "ms", 1.0, false);
}

async fn image(folder: &Path) {
    let rate = alone(IMAGE, 1);
    title("a picture of 224 by 224 as JSON");
    println!("  {:<42}{rate:>11.0}", "alone, a second");
    let request = http1::request(&IMAGE.path(), "content-type: application/json\r\n", &IMAGE.json());
    println!("  {:<42}{:>11.2}", "request, MB", request.len() as f64 / 1e6);
    let echo = Process::role(SERVER_CORE, &["echo", "json"]);
    let ours = serve(folder, IMAGE);
    let (mut limit, mut served) = (Measured::default(), Measured::default());
    let wire = Wire::Http(request);
    for _ in 0..=rounds() {
        better(&mut limit, wire.load(&echo, 4).await);
        better(&mut served, wire.load(&ours, 4).await);
    }
    row("echo that parses", &limit);
    row("server", &served);
    let possible = 1.0 / (1.0 / limit.per_second + 1.0 / rate);
    verdict("of what echo and model allow", served.per_second / possible, "", TARGET, true);
    verdict("of the model alone (170 of 192)", served.per_second / rate, "", 170.0 / 192.0, true);
}

async fn large(folder: &Path) {
    title("16 MB there and back, binary");
    let (headers, body) = COPY.binary();
    let request = http1::request(&COPY.path(), &headers, &body);
    let (echo, ours) = (Process::role(SERVER_CORE, &["echo", "same"]), serve(folder, COPY));
    let (mut limit, mut served) = (Measured::default(), Measured::default());
    let wire = Wire::Http(request);
    for _ in 0..=rounds() {
        better(&mut limit, wire.load(&echo, 2).await);
        better(&mut served, wire.load(&ours, 2).await);
    }
    row("bare echo", &limit);
    row("server", &served);
    verdict("of the echo", served.per_second / limit.per_second, "", 0.8, true);
}

async fn heavy(folder: &Path) {
    title("an encoder, bound by arithmetic, binary");
    let (headers, body) = ENCODER.binary();
    let request = http1::request(&ENCODER.path(), &headers, &body);
    let wire = Wire::Http(request.clone());
    let ours = serve(folder, ENCODER);
    let (mut limit, mut served) = ((0, 0.0), Measured::default());
    for _ in 0..=rounds() {
        for rows in [1, 2, 4, 8] {
            let rate = alone(ENCODER, rows);
            if rate > limit.1 {
                limit = (rows, rate);
            }
        }
        better(&mut served, wire.load(&ours, 4).await);
    }
    println!("  {:<42}{:>11.0}", format!("alone, rows a second in runs of {}", limit.0), limit.1);
    row("server, 4 under way", &served);
    verdict("of the best runs alone", served.per_second / limit.1, "", 0.99, true);
    drop(ours);
    let mut tails = [Measured { p99: Duration::MAX, ..Measured::default() }; 2];
    for (index, batching) in [json!({"maxSize": 1}), json!({})].into_iter().enumerate() {
        let path = config(folder, &[("encoder".to_owned(), ENCODER)], json!({"batching": batching}));
        let server = Process::server(&SERVER_CORE.to_string(), &path);
        for _ in 0..=rounds() {
            let rate = limit.1 * 0.8;
            let paced = once(&server, http1::paced(server.address, &request, 16, rate, round())).await;
            if paced.p99 < tails[index].p99 {
                tails[index] = paced;
            }
        }
    }
    row("at 80 %, unbatched", &tails[0]);
    row("at 80 %, left alone", &tails[1]);
    verdict("p99, of the unbatched", tails[1].p99.as_secs_f64() / tails[0].p99.as_secs_f64(), "", 1.2, false);
}

/// Requests over 50 models, the n-th asked for 1/n as often as the first.
async fn zipf(folder: &Path) {
    title("50 models under Zipf, JSON, 64 under way");
    let models: Vec<(String, Subject)> = (1..=50).map(|number| (format!("mlp{number}"), MLP)).collect();
    let many = Process::server(&SERVER_CORE.to_string(), &config(folder, &models, json!({})));
    let single = serve(folder, MLP);
    let request = |name: &str| {
        http1::request(&format!("/v2/models/{name}/infer"), "content-type: application/json\r\n", &MLP.json())
    };
    let (mut alone, mut mixed) = (Measured::default(), Measured::default());
    for _ in 0..=rounds() {
        better(&mut alone, once(&single, http1::closed(single.address, &request("mlp"), 64, round())).await);
        let weights: f64 = (1..=50).map(|number| 1.0 / f64::from(number)).sum();
        let loads = (1..=50_u32).filter_map(|number| {
            let share = (64.0 / f64::from(number) / weights).round() as usize;
            (share > 0).then(|| (request(&format!("mlp{number}")), share))
        });
        let loads: Vec<_> = loads.collect();
        let all = async {
            let running = loads.iter().map(|(request, share)| http1::closed(many.address, request, *share, round()));
            let mut latencies = Vec::new();
            for part in futures::future::join_all(running).await {
                latencies.extend(part?);
            }
            Ok(latencies)
        };
        better(&mut mixed, once(&many, all).await);
    }
    row("one model", &alone);
    row("50 models", &mixed);
    verdict("of one model", mixed.per_second / alone.per_second, "", 0.9, true);
}

/// The server's own choice of batch size and delay beside every setting of a grid.
async fn tuning(folder: &Path) {
    let (headers, body) = WIDE.binary();
    let wire = Wire::Http(http1::request(&WIDE.path(), &headers, &body));
    title("batch size and delay, a model whose weights no cache holds, binary");
    for under_way in [4, 24] {
        let mut grid: Vec<(String, Measured)> = Vec::new();
        for rows in [1, 2, 4, 8, 16, 32] {
            for delay in [0, 100, 250, 500, 1000, 2000] {
                let batching = json!({"maxSize": rows, "maxDelayMicroseconds": delay, "tuning": false});
                if rows == 1 && delay > 0 {
                    continue;
                }
                let path = config(folder, &[("wide".to_owned(), WIDE)], json!({"batching": batching}));
                let fixed = Process::server(&SERVER_CORE.to_string(), &path);
                grid.push((
                    format!("{under_way} under way: size {rows}, delay {delay} µs"),
                    wire.load(&fixed, under_way).await,
                ));
            }
        }
        let unbatched = grid[0].1.p99;
        let under = |(_, measured): &&(String, Measured)| measured.p99 <= 2 * unbatched;
        let best = grid.iter().filter(under).max_by(|a, b| a.1.per_second.total_cmp(&b.1.per_second)).expect("one");
        for (what, measured) in &grid {
            row(what, measured);
        }
        let ours = serve(folder, WIDE);
        let mut tuned = Measured::default();
        for _ in 0..10 {
            tuned = wire.load(&ours, under_way).await;
        }
        row(&format!("{under_way} under way: best"), &best.1);
        row(&format!("{under_way} under way: left alone, after 9 rounds"), &tuned);
        verdict("of the best of the grid", tuned.per_second / best.1.per_second, "", 0.95, true);
    }
}

/// A configuration whose inputs are counted over the deciles of a profile, and whose predictions are counted too.
fn sketched(folder: &Path) -> PathBuf {
    let columns: Vec<String> = (0..30).map(|column| format!("f{column}")).collect();
    let edges: Vec<f64> = (1..10).map(|decile| f64::from(decile) / 5.0 - 1.0).collect();
    let field = |name: &String| json!({"name": name, "bins": {"kind": "numeric", "edges": edges}, "counts": {"bins": vec![100; 10], "missing": 0}});
    let features: Vec<Value> = columns.iter().map(field).collect();
    let profile = folder.join("profile.json");
    let written = json!({"formatVersion": 1, "rows": 1000, "features": features});
    std::fs::write(&profile, written.to_string()).expect("a temporary file");
    let plain = std::fs::read(config(folder, &[(MLP.name.to_owned(), MLP)], json!({}))).expect("just written");
    let mut config: Value = serde_json::from_slice(&plain).expect("just written");
    let model = &mut config["models"][0];
    model["signature"] = json!({
        "inputs": [{"tensor": "X", "columns": columns}],
        "outputs": {"label": "label", "probabilities": "probabilities", "classes": ["0", "1"]},
    });
    model["task"] = json!("Classification");
    model["profile"] = json!({"uri": format!("file://{}", profile.display())});
    let path = folder.join("sketched.json");
    std::fs::write(&path, config.to_string()).expect("a temporary file");
    path
}

/// What counting every row of 30 features over ten bins each, and the predictions, takes of the rate.
async fn sketches(folder: &Path) {
    title("30→64→2 MLP with drift sketches of 30 features, binary, 64 under way");
    let (headers, body) = MLP.binary();
    let wire = Wire::Http(http1::request(&MLP.path(), &headers, &body));
    let plain = serve(folder, MLP);
    let counting = Process::server(&SERVER_CORE.to_string(), &sketched(folder));
    let (mut without, mut with) = (Measured::default(), Measured::default());
    for _ in 0..=rounds() {
        better(&mut without, wire.load(&plain, 64).await);
        better(&mut with, wire.load(&counting, 64).await);
    }
    row("without", &without);
    row("with", &with);
    verdict("of the rate without", with.per_second / without.per_second, "", 0.97, true);
}

/// What the other core runs.
fn role(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let of = |name: &str| [MLP, ENCODER, IMAGE, COPY, WIDE].into_iter().find(|subject| subject.name == name);
    if let ["alone", name, rows] = arguments[..] {
        let rate = of(name).expect("a model").alone(rows.parse().expect("a number"), round());
        println!("{rate}");
        return;
    }
    let echo = match arguments[..] {
        ["echo", "json"] => Echo::Json(2),
        ["echo", "same"] => Echo::Same,
        ["echo", "binary"] => Echo::Fixed(vec![0; 160].into()),
        ["echo", "grpc"] => {
            return echo::run(echo::grpc());
        }
        _ => panic!("no such role: {arguments:?}"),
    };
    echo::run(async {
        let (listener, address) = echo::listen().await?;
        println!("{address}");
        echo::http(listener, echo).await
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|first| first == "role") {
        return role(&arguments[1..]);
    }
    if let [first, address, form, under_way, seconds] = &arguments[..]
        && first == "load"
    {
        // A load on a server that runs already, for a profiler.
        let (address, under_way) = (address.parse().expect("an address"), under_way.parse().expect("a number"));
        let length = Duration::from_secs_f64(seconds.parse().expect("a number"));
        return echo::run(async {
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
    pin(CLIENT_CORE);
    println!(
        "server on core {SERVER_CORE}, client on core {CLIENT_CORE}; best of {} rounds of {} s; 1, 5 and 15 minutes' load {}",
        rounds(),
        round().as_secs_f64(),
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    echo::run(async {
        let folder = folder.path();
        if wanted("tiny") {
            tiny(folder).await;
        }
        if wanted("tails") {
            tails(folder).await;
        }
        if wanted("image") {
            image(folder).await;
        }
        if wanted("large") {
            large(folder).await;
        }
        if wanted("heavy") {
            heavy(folder).await;
        }
        if wanted("sketches") {
            sketches(folder).await;
        }
        if wanted("zipf") {
            zipf(folder).await;
        }
        if wanted("tuning") {
            tuning(folder).await;
        }
        Ok(())
    });
}
