//! Keeps the documentation whole: every reason that people meet in a condition, an Event, a rejection or a decision is explained, and so
//! is every option of the operator and every flag of the router. Both sides are read as text.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// A page, and the heading below which reasons are explained.
type Page = (&'static str, &'static str);

const DATASET: Page = ("docs/dataset.md", "## Conditions, reasons, Events");
const TRAINING_JOB: Page = ("docs/training-job.md", "## Conditions, reasons, Events");
const MODEL_VERSION: Page = ("docs/model-version.md", "## Conditions, reasons, Events");
const INFERENCE_SERVICE: Page = ("docs/inference-service.md", "## Conditions, reasons, Events");
/// What several kinds have.
const RUNS: Page = ("docs/troubleshooting.md", "## Runs");
const SERVER: Page = ("docs/inference-server.md", "## Start and stop");

/// A word as reasons are, alone in a literal: `"CamelCase"`.
const WORD: &str = r#""([A-Z][A-Za-z]*[a-z][A-Za-z]*)""#;
/// The same, where a server says why it ends.
const WORD_OF_THE_SERVER: &str = r#"(?:=> |Trouble::new\()"([A-Z][A-Za-z]*[a-z][A-Za-z]*)""#;
/// A check of the platform, in the rule that keeps its name from others. It rejects as `ErrorRate`.
const CHECK: &str = r"'([a-z][A-Za-z]*)'";

/// Where reasons are made, how they are found there, and the pages of which one explains them.
const MADE: [(&[&str], &str, &[Page]); 7] = [
    (&["operator/src/dataset"], WORD, &[DATASET, RUNS]),
    (&["operator/src/training_job"], WORD, &[TRAINING_JOB, RUNS]),
    (&["operator/src/model_version"], WORD, &[MODEL_VERSION, RUNS]),
    (&["operator/src/inference_service"], WORD, &[INFERENCE_SERVICE, RUNS]),
    (&["crds/src/inference_service/analysis.rs"], CHECK, &[INFERENCE_SERVICE]),
    (
        &["operator/src/conditions.rs", "operator/src/run_state.rs", "contract/src/worker.rs"],
        WORD,
        &[RUNS, DATASET, TRAINING_JOB, MODEL_VERSION, INFERENCE_SERVICE],
    ),
    (
        &["engine/src/error.rs", "engine/src/signature.rs", "store/src/error.rs", "inference-server/src"],
        WORD_OF_THE_SERVER,
        &[SERVER, MODEL_VERSION],
    ),
];
/// Files that make objects of Kubernetes, or read them: their words are its.
const OF_KUBERNETES: [&str; 6] =
    ["desired.rs", "pod.rs", "shared.rs", "check_job.rs", "gateway_api.rs", "gateway_native.rs"];
/// Words that are no reasons of ours: those of Kubernetes and Gateways, kinds, verdicts, and what the operator was doing when it told an Event.
const NO_REASONS: [&str; 34] = [
    "AlreadyExists",
    "Complete",
    "ContainerCreating",
    "CreateContainerConfigError",
    "Decide",
    "ErrImageNeverPull",
    "ErrImagePull",
    "Error",
    "Evaluate",
    "Fail",
    "FailureTarget",
    "False",
    "Gateway",
    "HandlingCommand",
    "ImageInspectError",
    "ImagePullBackOff",
    "InferenceService",
    "InvalidImageName",
    "ModelVersion",
    "Monitoring",
    "NoMatchingParent",
    "PartiallyInvalid",
    "Pass",
    "PathPrefix",
    "PodInitializing",
    "PodScheduled",
    "Prepare",
    "Rehearsing",
    "ReplicaFailure",
    "ResolvedRefs",
    "Retraining",
    "Train",
    "True",
    "Unknown",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file, or those of a folder and of the folders in it.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files(&path)).collect()
}

/// What is compiled into the programs: neither tests nor comments.
fn code(path: &Path) -> String {
    let name = path.file_name().unwrap().to_string_lossy();
    let is_for_tests = name.ends_with("tests.rs") || ["fixtures.rs", "given.rs"].contains(&&*name);
    if is_for_tests || OF_KUBERNETES.contains(&&*name) {
        return String::new();
    }
    let text = read(path);
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// What the first group of a pattern matches in a text.
fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|captures| captures[1].to_owned()).collect()
}

fn capitalised(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

#[test]
fn every_reason_is_explained() {
    let (mut unexplained, mut all) = (Vec::new(), BTreeSet::new());
    for (sources, pattern, pages) in MADE {
        let explained: String = pages.iter().map(|(page, heading)| explanations(page, heading)).collect();
        let code: String =
            sources.iter().flat_map(|source| files(&root().join(source))).map(|path| code(&path)).collect();
        let words: BTreeSet<String> = found(pattern, &code).iter().map(|word| capitalised(word)).collect();
        assert!(!words.is_empty(), "{sources:?}: no reason is found any more by {pattern}");
        for word in &words {
            if !NO_REASONS.contains(&&**word) && !explained.contains(&format!("`{word}`")) {
                unexplained.push(format!("{word}, of {sources:?}, is not in {pages:?}"));
            }
        }
        all.extend(words);
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    let gone: Vec<_> = NO_REASONS.iter().filter(|word| !all.contains(**word)).collect();
    assert!(gone.is_empty(), "NO_REASONS has words that nobody says any more: {gone:?}");
}

fn explanations(page: &str, heading: &str) -> String {
    let text = read(page);
    let (_, below) = text.split_once(heading).unwrap_or_else(|| panic!("{page} has no heading {heading:?}"));
    below.to_owned()
}

#[test]
fn every_option_of_the_operator_is_a_value_of_the_chart_or_described() {
    let told = read("docs/install.md") + &read("charts/millrace/templates/operator.yaml");
    let options = found(r#"env = "([A-Z_]+)""#, &read("operator/src/settings.rs"));
    assert!(options.len() > 10, "{options:?}");
    let untold: Vec<_> = options.iter().filter(|option| !told.contains(*option)).collect();
    assert!(untold.is_empty(), "neither in docs/install.md nor in the chart: {untold:?}");
}

#[test]
fn every_flag_of_the_router_is_described() {
    let (page, program) = (read("docs/router.md"), read("router/src/main.rs"));
    let (_, flags) = program.split_once("struct Flags {").unwrap();
    let (flags, _) = flags.split_once("\n}").unwrap();
    let flags = found(r"(?m)^    ([a-z_]+): ", flags);
    assert!(flags.len() > 10, "{flags:?}");
    let flags = flags.iter().map(|flag| format!("--{}", flag.replace('_', "-")));
    let untold: Vec<_> = flags.filter(|flag| !page.contains(&format!("`{flag}"))).collect();
    assert!(untold.is_empty(), "not in docs/router.md: {untold:?}");
}
