//! Rates beside their limit: short models in every form, large requests and answers.

use std::path::Path;

use super::{
    bench::{SERVER_CORE, TARGET, Wire, alone_at_best, better, echo, forms, rounds, serve},
    child::Process,
    http1,
    models::{COPY, IMAGE, Subject},
    table::{Measured, figure, row, title, verdict},
};

/// Pictures a second to be served where the model alone makes [`OF_PICTURES`]. On a slower machine the share of them counts.
const PICTURES: f64 = 170.0;
const OF_PICTURES: f64 = 192.0;

/// The served rate beside that of one thread which does the echo's work and the model's, one after the other.
fn of_possible(served: &Measured, echo: &Measured, model: f64) {
    let possible = 1.0 / (1.0 / echo.per_second + 1.0 / model);
    figure("echo and model allow", possible, "a second");
    verdict("of what echo and model allow", served.per_second / possible, "", TARGET, true);
}

/// A model that is as short as the wire, in every form of the protocol. `answers` are the numbers of an answer, which the echo writes too.
pub async fn wires(folder: &Path, subject: Subject, what: &str, answers: usize) {
    title(what);
    let (one, many) = (alone_at_best(subject, 1), alone_at_best(subject, 32));
    figure("alone, in runs of 1", one, "rows a second");
    figure("alone, in runs of 32", many, "rows a second");
    let wires = std::env::var("MILLRACE_BENCH_WIRES").unwrap_or_default();
    for (name, wire) in &forms(subject) {
        if !wires.is_empty() && !wires.contains(name) {
            continue;
        }
        let echo = echo(name, answers);
        let ours = serve(folder, subject);
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
            of_possible(&served, &limit, rate);
            if connections == 1 {
                let over = served.p50.as_secs_f64() - limit.p50.as_secs_f64();
                verdict("one at a time, over the echo", over * 1e6, "µs", 30.0, false);
            }
        }
    }
}

pub async fn image(folder: &Path) {
    title("a picture of 224 by 224 as JSON");
    let rate = alone_at_best(IMAGE, 1);
    figure("alone", rate, "pictures a second");
    let request = http1::request(&IMAGE.path(), "content-type: application/json\r\n", &IMAGE.json());
    figure("request", request.len() as f64 / 1e6, "MB");
    let echo = echo("JSON", 2);
    let ours = serve(folder, IMAGE);
    let (mut limit, mut served) = (Measured::default(), Measured::default());
    let wire = Wire::Http(request);
    for _ in 0..=rounds() {
        better(&mut limit, wire.load(&echo, 4).await);
        better(&mut served, wire.load(&ours, 4).await);
    }
    row("echo that parses", &limit);
    row("server", &served);
    of_possible(&served, &limit, rate);
    verdict("of the model alone", served.per_second / rate, "", PICTURES / OF_PICTURES, true);
    verdict("pictures a second", served.per_second, "", PICTURES, true);
}

pub async fn large(folder: &Path) {
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
