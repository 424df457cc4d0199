//! Many models in one server, asked as unevenly as models are.

use std::path::Path;

use serde_json::json;

use super::{
    bench::{SERVER_CORE, better, config, once, round, rounds, serve},
    child::Process,
    http1,
    models::{MLP, Subject},
    table::{Measured, row, title, verdict},
};

const MODELS: u32 = 50;
/// About how many requests there are until they repeat themselves.
const ORDER: f64 = 1000.0;

/// Requests over 50 models, the n-th asked for 1/n as often as the first, all of them by every client.
pub async fn zipf(folder: &Path) {
    title("50 models under Zipf, JSON, 64 under way");
    let models: Vec<(String, Subject)> = (1..=MODELS).map(|number| (format!("mlp{number}"), MLP)).collect();
    let many = Process::server(&SERVER_CORE.to_string(), &config(folder, &models, json!({})));
    let single = serve(folder, MLP);
    let request = |name: &str| {
        http1::request(&format!("/v2/models/{name}/infer"), "content-type: application/json\r\n", &MLP.json())
    };
    let requests: Vec<Vec<u8>> = models.iter().map(|(name, _)| request(name)).collect();
    let order = order();
    let (mut alone, mut mixed) = (Measured::default(), Measured::default());
    for _ in 0..=rounds() {
        better(&mut alone, once(&single, http1::closed(single.address, &request("mlp"), 64, round())).await);
        let all = once(&many, http1::closed_over(many.address, &requests, &order, 64, round())).await;
        better(&mut mixed, all);
    }
    row("one model", &alone);
    row("50 models", &mixed);
    verdict("of one model", mixed.per_second / alone.per_second, "", 0.9, true);
    let asked = http1::asked_of(many.address, "mlp50").await.expect("its metadata and its counts");
    verdict("requests to the last of them", asked as f64, "", 1.0, true);
}

/// Which model is asked next, for a while: each as often as its place says and at least once, well mixed.
fn order() -> Vec<usize> {
    let weights: f64 = (1..=MODELS).map(|number| 1.0 / f64::from(number)).sum();
    let mut order = Vec::new();
    for number in 1..=MODELS {
        let share = (ORDER / f64::from(number) / weights).round().max(1.0) as usize;
        order.extend(std::iter::repeat_n(number as usize - 1, share));
    }
    // A stride that has no divisor in common with the length visits every place once.
    let length = order.len();
    let stride = (length * 3 / 8..).find(|stride| greatest_divisor(*stride, length) == 1).unwrap_or(1);
    (0..length).map(|place| order[place * stride % length]).collect()
}

fn greatest_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}
