//! What the drift sketches cost.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    bench::{SERVER_CORE, Wire, better, config, rounds, serve},
    child::Process,
    http1,
    models::MLP,
    table::{Measured, row, title, verdict},
};

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
pub async fn sketches(folder: &Path) {
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
