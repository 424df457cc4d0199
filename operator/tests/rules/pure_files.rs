//! Keeps the pure files pure: what decides takes what it needs to know, and neither asks for it nor acts.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files of a kind's folder that read or write.
const NOT_PURE: [&str; 6] = ["mod.rs", "observe.rs", "reconcile.rs", "scrape.rs", "ask.rs", "apply.rs"];
/// Files beside the kinds that are pure.
const SHARED: [&str; 9] = [
    "conditions.rs",
    "names.rs",
    "owner.rs",
    "pod_parts.rs",
    "run_state.rs",
    "subset.rs",
    "worker_run.rs",
    "error.rs",
    "bug.rs",
];
/// What a pure file must not say.
const FORBIDDEN: [&str; 9] =
    ["Client", "Api<", "Cluster", "ctx.", "Timestamp::now", "SystemTime", "Instant::now", "rand::", "std::env"];

fn check(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let found = lines.filter(|line| FORBIDDEN.iter().any(|word| line.contains(word)));
    found.map(|line| format!("{}: {}", path.display(), line.trim())).collect()
}

/// Files of a folder and of the folders in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn pure_files_have_no_client_no_clock_no_chance_and_no_environment() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let kinds = ["dataset", "training_job", "model_version", "inference_service"];
    let of_kinds = kinds.iter().flat_map(|kind| files(&source.join(kind))).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.ends_with(".rs") && !NOT_PURE.contains(&name.as_str())
    });
    let all: Vec<_> = of_kinds.chain(SHARED.iter().map(|name| source.join(name))).collect();
    assert!(all.len() >= 12, "only {} files were looked at", all.len());
    let found: Vec<String> = all.iter().flat_map(|path| check(path)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
