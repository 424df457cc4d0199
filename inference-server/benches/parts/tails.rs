//! Latencies at 80 % of the highest rate, where requests come when they come: the tail is what users wait for.

use std::path::Path;

use serde_json::json;

use super::{
    bench::{SERVER_CORE, Wire, alone, better, calmer, config, echo, forms, latest, rounds, serve},
    child::Process,
    http1,
    models::{ENCODER, MLP},
    table::{Measured, figure, row, title, verdict},
};

pub async fn tails(folder: &Path) {
    for (name, wire) in &forms(MLP) {
        title(&format!("30→64→2 MLP at 80 % of its highest rate, {name}"));
        let echo = echo(name, 2);
        let ours = serve(folder, MLP);
        let mut best = Measured::default();
        for _ in 0..=rounds() {
            better(&mut best, wire.load(&ours, 64).await);
        }
        let (mut of_echo, mut of_ours) = (latest(), latest());
        for _ in 0..rounds() {
            for (server, kept) in [(&echo, &mut of_echo), (&ours, &mut of_ours)] {
                calmer(kept, wire.paced(server, 64, best.per_second * 0.8).await);
            }
        }
        row("highest rate", &best);
        row("bare echo, as many as at 80 %", &of_echo);
        row("at 80 %", &of_ours);
        verdict("p99", of_ours.p99.as_secs_f64() * 1e3, "ms", 1.0, false);
    }
}

pub async fn heavy(folder: &Path) {
    title("an encoder, bound by arithmetic, binary");
    let (headers, body) = ENCODER.binary();
    let request = http1::request(&ENCODER.path(), &headers, &body);
    let wire = Wire::Http(request);
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
    figure(&format!("alone, in runs of {}", limit.0), limit.1, "rows a second");
    row("server, 4 under way", &served);
    verdict("of the best runs alone", served.per_second / limit.1, "", 0.99, true);
    drop(ours);
    let mut tails = [latest(); 2];
    for (index, batching) in [json!({"maxSize": 1}), json!({})].into_iter().enumerate() {
        let path = config(folder, &[("encoder".to_owned(), ENCODER)], json!({"batching": batching}));
        let server = Process::server(&SERVER_CORE.to_string(), &path);
        for _ in 0..=rounds() {
            let rate = limit.1 * 0.8;
            calmer(&mut tails[index], wire.paced(&server, 16, rate).await);
        }
    }
    row("at 80 %, unbatched", &tails[0]);
    row("at 80 %, left alone", &tails[1]);
    verdict("p99, of the unbatched", tails[1].p99.as_secs_f64() / tails[0].p99.as_secs_f64(), "", 1.2, false);
}
