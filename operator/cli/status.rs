//! Objects → trees of lines: a service at the root, below it its revisions, what they are made from, down to the data. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use millrace_contract::{
    Digest,
    decision::{Check, Verdict},
};
use millrace_crds::{
    Dataset, InferenceService, ModelVersion, TrainingJob,
    conditions::{READY, STALLED},
    labels::CREATED_BECAUSE,
};
use millrace_operator::conditions::{find, is_true};
use serde::Serialize;

use crate::{
    chain::{Chain, Used},
    service,
    tree::{Node, Tone},
};

/// Failed expectations that are shown of a Dataset.
const MAX_FAILURES: usize = 5;

/// The trees of a namespace, or of what has this name. An error is a sentence.
pub fn render(chain: &Chain, name: Option<&str>, colours: bool, now: Timestamp) -> Result<String, String> {
    let roots = match name {
        None => everything(chain, now),
        Some(name) => named(chain, name, now)?,
    };
    if roots.is_empty() {
        return Ok(format!("nothing of Millrace is in namespace {}", chain.namespace));
    }
    let texts: Vec<String> = roots.iter().map(|root| root.text(colours)).collect();
    Ok(texts.join("\n"))
}

fn everything(chain: &Chain, now: Timestamp) -> Vec<Node> {
    let used = chain.services.iter().map(|one| chain.used_by(one)).fold(Used::default(), Used::and);
    let mut roots: Vec<Node> = chain.services.iter().map(|one| service::node(chain, one, now)).collect();
    let versions = chain.versions.iter().filter(|one| !used.versions.contains(&one.name_any()));
    roots.extend(versions.clone().map(|one| version(chain, one, now)));
    let below: Vec<(Option<String>, String)> = versions
        .map(|one| {
            let source = one.spec.source.training_job.as_ref().map(|source| source.name.clone());
            (source, one.spec.evaluation.dataset.clone())
        })
        .collect();
    let jobs = chain.jobs.iter().filter(|job| {
        let name = job.name_any();
        !used.jobs.contains(&name) && !below.iter().any(|(source, _)| source.as_ref() == Some(&name))
    });
    let mut read: Vec<&String> = below.iter().map(|(_, dataset)| dataset).collect();
    for one in jobs {
        roots.push(job(chain, one, now));
        read.push(&one.spec.dataset.name);
    }
    let datasets = chain.datasets.iter().filter(|one| {
        let name = one.name_any();
        !used.datasets.contains(&name) && !read.contains(&&name)
    });
    roots.extend(datasets.map(|one| dataset(one, None, now)));
    roots
}

/// Which kind a name is of, where that is said.
fn split_kind(name: &str) -> Result<(Option<&'static str>, &str), String> {
    let Some((kind, rest)) = name.split_once('/') else { return Ok((None, name)) };
    let kind = match kind.to_lowercase().as_str() {
        "isvc" | "inferenceservice" | "inferenceservices" => "InferenceService",
        "mv" | "modelversion" | "modelversions" => "ModelVersion",
        "tj" | "trainingjob" | "trainingjobs" => "TrainingJob",
        "dset" | "dataset" | "datasets" => "Dataset",
        _ => return Err(format!("{kind} is no kind of Millrace: use isvc, mv, tj or dset")),
    };
    Ok((Some(kind), rest))
}

/// The service of this name, else every service that rests on what has the name, else that alone.
fn named(chain: &Chain, name: &str, now: Timestamp) -> Result<Vec<Node>, String> {
    let (kind, name) = split_kind(name)?;
    let may_be = |wanted: &str| kind.is_none_or(|kind| kind == wanted);
    let nodes = |services: Vec<&InferenceService>| services.iter().map(|one| service::node(chain, one, now)).collect();
    let its_own: Vec<_> =
        chain.services.iter().filter(|one| may_be("InferenceService") && one.name_any() == name).collect();
    if !its_own.is_empty() {
        return Ok(nodes(its_own));
    }
    let version_of_it = chain.version(name).filter(|_| may_be("ModelVersion"));
    let job_of_it = chain.job(name).filter(|_| may_be("TrainingJob"));
    let dataset_of_it = chain.dataset(name).filter(|_| may_be("Dataset"));
    let mut roots: Vec<Node> = Vec::new();
    roots.extend(version_of_it.map(|one| version(chain, one, now)));
    roots.extend(job_of_it.map(|one| job(chain, one, now)));
    roots.extend(dataset_of_it.map(|one| dataset(one, None, now)));
    if roots.is_empty() {
        let kinds = kind.unwrap_or("InferenceService, ModelVersion, TrainingJob or Dataset");
        return Err(format!("no {kinds} {name} in namespace {}: choose another with -n", chain.namespace));
    }
    let rests_on_it = |one: &&InferenceService| {
        let used = chain.used_by(one);
        (version_of_it.is_some() && used.versions.contains(name))
            || (job_of_it.is_some() && used.jobs.contains(name))
            || (dataset_of_it.is_some() && used.datasets.contains(name))
    };
    roots.extend(nodes(chain.services.iter().filter(rests_on_it).collect()));
    Ok(roots)
}

/// A model version: its gates, metrics, and what it is made from.
pub fn version(chain: &Chain, version: &ModelVersion, now: Timestamp) -> Node {
    let status = version.status.clone().unwrap_or_default();
    let (tone, message) = state(&status.conditions);
    let mut node = Node::object("ModelVersion", &version.name_any())
        .and(tone, word(status.phase.as_ref()))
        .and(Tone::Plain, message);
    for gate in &status.gates {
        node.put(check("gate", gate));
    }
    if let Some(evaluation) = &status.evaluation {
        let metrics = evaluation.metrics.iter().map(|metric| {
            format!(
                "{} {} [{}, {}]",
                word(Some(&metric.name)),
                number(metric.value),
                number(metric.lower),
                number(metric.upper)
            )
        });
        let rows = evaluation.metrics.first().map_or(0, |metric| metric.samples);
        let against =
            evaluation.champion.as_ref().map(|champion| format!(", compared with {champion}")).unwrap_or_default();
        let line = format!("scored on {rows} rows{against}: {}", metrics.collect::<Vec<_>>().join(", "));
        node.put(Node::new(line));
    }
    put_source(&mut node, chain, version, now);
    let evaluated_on = status.evaluation.as_ref().map(|evaluation| &evaluation.content_digest);
    let trained_on = version.spec.source.training_job.as_ref().map(|source| (&source.dataset, &source.content_digest));
    let is_other = trained_on.is_none_or(|(name, digest)| {
        *name != version.spec.evaluation.dataset || evaluated_on.is_some_and(|evaluated| evaluated != digest)
    });
    if is_other {
        let mut evaluated = Node::new("evaluated on");
        evaluated.put(dataset_named(chain, &version.spec.evaluation.dataset, evaluated_on, now));
        node.put(evaluated);
    }
    node
}

fn put_source(node: &mut Node, chain: &Chain, version: &ModelVersion, now: Timestamp) {
    if let Some(external) = &version.spec.source.external {
        node.put(Node::new("made elsewhere:").and(Tone::Plain, &external.origin));
    }
    let Some(source) = &version.spec.source.training_job else { return };
    match chain.job(&source.name).filter(|job| job.uid().as_ref() == Some(&source.uid)) {
        Some(made_by) => node.put(job(chain, made_by, now)),
        None => {
            let mut gone = Node::object("TrainingJob", &source.name).and(Tone::Plain, "does not exist any more");
            gone.put(dataset_named(chain, &source.dataset, Some(&source.content_digest), now));
            node.put(gone);
        }
    }
}

/// A training: how far it is, why it exists, and its data.
pub fn job(chain: &Chain, job: &TrainingJob, now: Timestamp) -> Node {
    let status = job.status.clone().unwrap_or_default();
    let (tone, message) = state(&status.conditions);
    let mut node = Node::object("TrainingJob", &job.name_any()).and(tone, word(status.phase.as_ref()));
    let progress = status.progress.unwrap_or_default();
    let mut told: Vec<String> = Vec::new();
    told.extend(progress.percent.map(|percent| format!("{percent} %")));
    told.extend(progress.step.map(|step| format!("step {step}")));
    told.extend(progress.checkpoint.map(|checkpoint| format!("checkpoint {checkpoint}")));
    told.extend(
        (status.restarts > 0).then(|| format!("{} of {} restarts used", status.restarts, job.spec.restarts.max)),
    );
    node = node.and(Tone::Plain, told.join(", ")).and(Tone::Plain, message);
    if let Some(because) = job.annotations().get(CREATED_BECAUSE) {
        node.put(Node::new("because:").and(Tone::Plain, because));
    }
    if !progress.metrics.is_empty() {
        let metrics = progress.metrics.iter().map(|(name, value)| format!("{name} {}", number(*value)));
        node.put(Node::new(format!("the trainer tells: {}", metrics.collect::<Vec<_>>().join(", "))));
    }
    let digest =
        status.resolved.as_ref().map(|resolved| &resolved.content_digest).or(job.spec.dataset.content_digest.as_ref());
    node.put(dataset_named(chain, &job.spec.dataset.name, digest, now));
    node
}

fn dataset_named(chain: &Chain, name: &str, digest: Option<&Digest>, now: Timestamp) -> Node {
    match chain.dataset(name) {
        Some(found) => dataset(found, digest, now),
        None => {
            let digest = digest.map(|digest| format!("version {} of it was used", digest.short())).unwrap_or_default();
            Node::object("Dataset", name).and(Tone::Bad, "does not exist").and(Tone::Plain, digest)
        }
    }
}

/// Data, and which version of them is meant; the current one where none is.
pub fn dataset(dataset: &Dataset, digest: Option<&Digest>, now: Timestamp) -> Node {
    let status = dataset.status.clone().unwrap_or_default();
    let (tone, message) = state(&status.conditions);
    let mut node = Node::object("Dataset", &dataset.name_any()).and(tone, word(status.phase.as_ref()));
    let current = status.current.as_ref();
    let meant = digest.or(current.map(|current| &current.content_digest));
    let past = status.history.iter().find(|past| Some(&past.content_digest) == meant);
    let line = match (meant, current.filter(|current| Some(&current.content_digest) == meant), past) {
        (Some(digest), Some(now_used), _) => {
            let made = ago(now, now_used.created_time.0);
            format!("version {}, {}, {} rows, made {made}", now_used.version, digest.short(), now_used.rows)
        }
        (Some(digest), None, past) => {
            let version = past.map_or("a version".to_owned(), |past| format!("version {}", past.version));
            let rows = past.map(|past| format!(", {} rows", past.rows)).unwrap_or_default();
            let newer = current.map(|current| format!("; version {} is current", current.version)).unwrap_or_default();
            format!("{version}, {}{rows}{newer}", digest.short())
        }
        (None, _, _) => "no version yet".to_owned(),
    };
    node = node.and(Tone::Plain, line).and(Tone::Plain, message);
    for failure in
        status.expectations.iter().flat_map(|found| &found.results).filter(|one| !one.success).take(MAX_FAILURES)
    {
        let tone = if word(Some(&failure.severity)) == "Block" { Tone::Bad } else { Tone::Waiting };
        node.put(Node::new("expectation").and(tone, word(Some(&failure.severity))).and(Tone::Plain, &failure.message));
    }
    node
}

/// One check as a line.
pub fn check(what: &str, check: &Check) -> Node {
    Node::new(format!("{what} {}", check.name))
        .and(verdict_tone(check.verdict), word(Some(&check.verdict)))
        .and(Tone::Plain, &check.message)
}

pub fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Pass => Tone::Good,
        Verdict::Fail => Tone::Bad,
        Verdict::Unknown => Tone::Waiting,
    }
}

/// Tone and sentence of an object's conditions.
pub fn state(conditions: &[Condition]) -> (Tone, String) {
    let said = |kind: &str| find(conditions, kind).map(|condition| condition.message.clone()).unwrap_or_default();
    match (is_true(conditions, READY), is_true(conditions, STALLED)) {
        (true, _) => (Tone::Good, said(READY)),
        (false, true) => (Tone::Bad, said(STALLED)),
        (false, false) => (Tone::Waiting, said(READY)),
    }
}

/// An enum's value as the API writes it; New while there is none.
pub fn word<T: Serialize>(value: Option<&T>) -> String {
    let json = value.and_then(|value| serde_json::to_value(value).ok());
    json.and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_else(|| "New".to_owned())
}

/// Four digits that matter.
pub fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 || value == value.trunc() {
        return format!("{value:.0}");
    }
    let digits = if value.abs() >= 1.0 { 3 } else { 4 };
    format!("{value:.digits$}")
}

/// `5 min ago`.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
