//! Checks of the users' own on a new revision: which are due, what is asked, what the answers count for, and what they say. Pure;
//! `ask.rs` asks, `check_job.rs` knows Jobs.
//!
//! They are plain bounds, not sequential tests: what a query returns is not known to be independent or random. They count in the
//! rollout they were measured in, and for a step only those measured at its share.
//!
//! A Job is named by what it measures and by the number of the measurement, which grows with the evidence that counts it:
//!
//! | after a crash behind | the next look finds                        | and does                                                     |
//! |----------------------|--------------------------------------------|--------------------------------------------------------------|
//! | the Job              | it, under the name that it would make      | makes none, waits for its end                                |
//! | its end              | that it has ended, and was not counted     | counts it                                                    |
//! | the evidence         | that the number has grown                  | makes another Job, once the pause is over                    |
//! | a refusal of the Job | neither a Job nor the refusal              | asks for it again, and takes the refusal down                |
//! | the refusal          | it in the evidence                         | asks for the Job again, once its own pause is over           |
//! | its share's end      | a Job that runs under no name it would use | ends it                                                      |
//!
//! One that vanished before it was counted is made again. At another share it is another Job: what still runs counts for nothing, and is
//! ended, as at the end of the rollout.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millrace_contract::decision::{Check, Verdict};
use millrace_crds::inference_service::{CheckJob, Metric};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{canary::DRY_RUN, pair::Pair};
use crate::names::{child, short_hash};

/// Longest a query may take, in seconds.
const QUERY_SECONDS: i64 = 2;
/// Longest pause before a Job that was refused is asked for again, in seconds: a quota may be raised at any time.
const REFUSED_SECONDS: i64 = 60;
/// Most characters kept of why there is no number.
const MAX_TROUBLE: usize = 300;
/// Most checks that something is known of, with those that are no longer asked for.
const MAX_KNOWN: usize = 64;
/// Most characters of what a check says, as the API takes.
const MAX_MESSAGE: usize = 512;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// An instant query to a Prometheus.
    Query {
        /// Address of the Prometheus.
        address: String,
        /// PromQL.
        query: String,
        /// Longest it may take, in seconds.
        seconds: i64,
    },
    /// A POST of JSON.
    Post {
        /// Where.
        url: String,
        /// JSON.
        body: String,
        /// Longest it may take, in seconds.
        seconds: i64,
    },
}

/// A number, or why there is none, as a sentence. The yes of a webhook or a Job is 1 and its no 0.
pub type Answer = Result<f64, String>;

/// One measurement by a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Name of the Job.
    pub name: String,
    /// Name of the check.
    pub check: String,
    /// What is run.
    pub job: CheckJob,
    /// The new revision.
    pub canary: String,
    /// The one it is compared with.
    pub stable: String,
    /// The version that the new one serves.
    pub model_version: String,
    /// Its share of the requests, in percent.
    pub weight: i32,
}

/// What there is of a measurement's Job.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Nothing: it was not made yet, or is gone.
    Absent,
    /// It has not ended; why its pod can't start, where it can't.
    Runs(Option<String>),
    /// It is being ended; how is not known yet.
    Ends,
    /// It has ended.
    Ended(Answer),
}

/// A Job that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    /// Its name.
    job: String,
    /// Why its pod can't start.
    #[serde(default)]
    problem: Option<String>,
}

/// A Job that the cluster did not let be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refused {
    /// Its name: another share or a corrected check is another Job.
    job: String,
    /// Why, a sentence.
    why: String,
    /// When it was asked for last.
    time: Timestamp,
}

/// What was measured of one check in this rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Measured {
    /// Share, in percent, at which `good` were counted.
    weight: i32,
    /// Good measurements at this share.
    good: i32,
    /// Bad ones, at every share.
    bad: i32,
    /// The newest number.
    value: Option<f64>,
    /// Why the newest look gave none.
    trouble: Option<String>,
    /// When it was asked last; a Job, when it had ended.
    time: Option<Timestamp>,
    /// Jobs that were counted, at every share: the number of the next.
    jobs: u32,
    /// The newest of them.
    job: Option<String>,
    /// What it ran, as a hash: a corrected one need not wait.
    program: Option<String>,
    /// The one that has not ended.
    running: Option<Running>,
    /// The one that could not be made.
    refused: Option<Refused>,
    /// Since when there has been no answer, after some at this share.
    lacking_since: Option<Timestamp>,
}

/// By name of the check.
pub type Measurements = BTreeMap<String, Measured>;

/// Who is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Namespace and name of the service.
    pub service: (&'a str, &'a str),
    /// The new revision, and the one it is compared with.
    pub pair: &'a Pair<'a>,
}

/// The checks that are to be asked now by the operator itself, and what.
pub fn due(metrics: &[Metric], measured: &Measurements, subject: Subject<'_>, now: Timestamp) -> Vec<(String, Ask)> {
    let due = metrics.iter().filter(|metric| is_due(metric, measured, subject, now));
    due.filter_map(|metric| Some((metric.name.clone(), ask(metric, subject)?))).collect()
}

fn is_due(metric: &Metric, measured: &Measurements, subject: Subject<'_>, now: Timestamp) -> bool {
    let known = measured.get(&metric.name);
    let is_new_share = known.is_none_or(|known| known.weight != subject.pair.new.weight.intended);
    let is_other_program = known
        .zip(metric.job.as_ref())
        .is_some_and(|(known, job)| known.program.as_ref().is_some_and(|program| *program != short_hash(job)));
    let last = known.and_then(|known| known.time);
    is_new_share
        || is_other_program
        || last.is_none_or(|last| now.as_second() - last.as_second() >= metric.interval_seconds)
}

/// The measurement that each check by a Job is at.
pub fn runs(metrics: &[Metric], measured: &Measurements, subject: Subject<'_>) -> Vec<Run> {
    metrics.iter().filter_map(|metric| run(metric, measured, subject)).collect()
}

/// Those of them whose Jobs are to be there now.
pub fn due_runs(metrics: &[Metric], measured: &Measurements, subject: Subject<'_>, now: Timestamp) -> Vec<Run> {
    let due = metrics.iter().filter(|metric| is_due(metric, measured, subject, now));
    let runs = due.filter_map(|metric| Some((metric, run(metric, measured, subject)?)));
    runs.filter(|(metric, run)| may_be_asked_for(metric, run, measured, now)).map(|(_, run)| run).collect()
}

/// What refuses a Job mostly does so again: it is asked for now and then.
fn may_be_asked_for(metric: &Metric, run: &Run, measured: &Measurements, now: Timestamp) -> bool {
    let refused = measured.get(&metric.name).and_then(|known| known.refused.as_ref());
    let pause = metric.interval_seconds.min(REFUSED_SECONDS);
    refused
        .filter(|refused| refused.job == run.name)
        .is_none_or(|refused| now.as_second() - refused.time.as_second() >= pause)
}

/// None where it is no Job, or admission was gone around. The name also tells rollouts apart, as a revision may be tried again, and what
/// is run, as a Job can't be corrected.
fn run(metric: &Metric, measured: &Measurements, subject: Subject<'_>) -> Option<Run> {
    let is_alone = metric.prometheus.is_none() && metric.webhook.is_none();
    let job = metric.job.as_ref().filter(|_| is_alone)?;
    let Subject { service: (_, service), pair } = subject;
    let (canary, weight) = (&pair.new.revision, pair.new.weight.intended);
    let number = measured.get(&metric.name).map_or(0, |known| known.jobs);
    let hash = short_hash(&(canary, pair.began, &metric.name, weight, number, job));
    Some(Run {
        name: child(service, "check", &hash),
        check: metric.name.clone(),
        job: job.clone(),
        canary: canary.clone(),
        stable: pair.old.revision.clone(),
        model_version: pair.new.model_version.clone(),
        weight,
    })
}

/// None where it is a Job, or admission was gone around.
fn ask(metric: &Metric, subject: Subject<'_>) -> Option<Ask> {
    let Subject { service: (namespace, service), pair } = subject;
    match (&metric.prometheus, &metric.webhook, &metric.job) {
        (Some(prometheus), None, None) => {
            let words = [
                ("{{service}}", service),
                ("{{namespace}}", namespace),
                ("{{canary}}", &pair.new.revision),
                ("{{stable}}", &pair.old.revision),
            ];
            let query = words.iter().fold(prometheus.query.clone(), |query, (word, value)| query.replace(word, value));
            Some(Ask::Query { address: prometheus.address.clone(), query, seconds: QUERY_SECONDS })
        }
        (None, Some(webhook), None) => {
            let body = json!({
                "service": service,
                "namespace": namespace,
                "canary": pair.new.revision,
                "stable": pair.old.revision,
                "modelVersion": pair.new.model_version,
                "weight": pair.new.weight.intended,
                "check": metric.name,
            });
            Some(Ask::Post { url: webhook.url.clone(), body: body.to_string(), seconds: webhook.timeout_seconds })
        }
        _ => None,
    }
}

/// Forgets what is no longer asked for, but how many Jobs it had: were it asked for again, those would be counted another time.
fn forget(metrics: &[Metric], measured: &mut Measurements) {
    let is_asked_for = |name: &String| metrics.iter().any(|metric| metric.name == *name);
    let has_room = measured.len() <= MAX_KNOWN;
    measured.retain(|name, known| is_asked_for(name) || (known.jobs > 0 && has_room));
    for (_, known) in measured.iter_mut().filter(|(name, _)| !is_asked_for(name)) {
        *known = Measured { jobs: known.jobs, ..Measured::default() };
    }
}

/// Counts the answers.
pub fn count(
    metrics: &[Metric],
    measured: &mut Measurements,
    weight: i32,
    answers: &[(String, Answer)],
    now: Timestamp,
) {
    forget(metrics, measured);
    for (name, answer) in answers {
        let Some(metric) = metrics.iter().find(|metric| metric.name == *name) else { continue };
        let known = measured.entry(name.clone()).or_default();
        if known.weight != weight {
            (known.weight, known.good) = (weight, 0);
        }
        known.time = Some(now);
        match answer {
            Ok(value) if value.is_finite() => {
                (known.value, known.trouble) = (Some(*value), None);
                let counter = if is_good(metric, *value) { &mut known.good } else { &mut known.bad };
                *counter = counter.saturating_add(1);
            }
            // A number that is none says as little as no answer. One that is infinite, as after a division by zero, can't be stored either; it may be
            // out of bounds, but is never good.
            Ok(value) => {
                known.trouble = Some(format!("the answer is {value}"));
                let is_bad = value.is_infinite() && !is_good(metric, *value);
                known.bad = known.bad.saturating_add(i32::from(is_bad));
            }
            Err(why) => known.trouble = Some(shortened(why)),
        }
    }
}

/// Counts what Jobs say, each once: the next measurement is that of another Job.
pub fn count_runs(
    metrics: &[Metric],
    measured: &mut Measurements,
    weight: i32,
    found: &[(Run, Found)],
    now: Timestamp,
) {
    let mut answers = Vec::new();
    for (run, found) in found {
        match found {
            Found::Absent => {
                if let Some(known) = measured.get_mut(&run.check) {
                    known.running = None;
                }
            }
            Found::Runs(problem) => {
                let problem = problem.as_deref().map(shortened);
                let known = measured.entry(run.check.clone()).or_default();
                known.running = Some(Running { job: run.name.clone(), problem });
                known.refused = None;
            }
            Found::Ends => {}
            Found::Ended(answer) => {
                let known = measured.entry(run.check.clone()).or_default();
                known.refused = None;
                known.jobs = known.jobs.saturating_add(1);
                known.job = Some(run.name.clone());
                known.program = Some(short_hash(&run.job));
                let waited = known.running.take().and_then(|running| running.problem);
                let answer = match (answer, waited) {
                    // Once a Job is past its deadline its pod is gone, and nobody else tells what it waited for.
                    (Err(why), Some(waited)) => Err(format!("{why}; {waited}")),
                    (answer, _) => answer.clone(),
                };
                answers.push((run.check.clone(), answer));
            }
        }
    }
    count(metrics, measured, weight, &answers, now);
}

/// Takes down since when checks have had no data: the policy waits from then on, and not from the beginning of a step that may be hours ago.
/// A pause begins that anew, as nobody could wait meanwhile.
pub fn note_lack(metrics: &[Metric], measured: &mut Measurements, weight: i32, is_paused: bool, now: Timestamp) {
    for metric in metrics {
        let Some(known) = measured.get_mut(&metric.name) else { continue };
        if is_paused {
            known.lacking_since = None;
            continue;
        }
        let had_some = known.weight == weight && known.value.is_some();
        let since = known.lacking_since.or(had_some.then_some(now));
        known.lacking_since = since.filter(|_| lacks(metric, known, weight));
    }
}

/// Since when a check has had no data at this share, which began at `start`; nothing where it has some, if not enough yet, and where it had
/// some and nobody knows since when it has none, as in a pause.
pub fn lacking_since(metric: &Metric, measured: &Measurements, weight: i32, start: Timestamp) -> Option<Timestamp> {
    let Some(known) = measured.get(&metric.name) else { return Some(start) };
    let had_some = known.weight == weight && known.value.is_some();
    let since = match known.lacking_since {
        Some(since) => since.max(start),
        None if had_some => return None,
        None => start,
    };
    lacks(metric, known, weight).then_some(since)
}

/// Takes down that a Job can't be made. There is no data then, until one is.
pub fn refused(measured: &mut Measurements, run: &Run, why: &str, now: Timestamp) {
    let known = measured.entry(run.check.clone()).or_default();
    known.refused = Some(Refused { job: run.name.clone(), why: shortened(why), time: now });
}

fn shortened(why: &str) -> String {
    why.chars().take(MAX_TROUBLE).collect()
}

fn is_good(metric: &Metric, value: f64) -> bool {
    if metric.webhook.is_some() || metric.job.is_some() {
        return value >= 1.0;
    }
    metric.min.is_none_or(|min| value >= min) && metric.max.is_none_or(|max| value <= max)
}

/// What they say at this share, in percent.
pub fn checks(metrics: &[Metric], measured: &Measurements, weight: i32) -> Vec<Check> {
    metrics.iter().map(|metric| check(metric, measured.get(&metric.name), weight)).collect()
}

fn check(metric: &Metric, measured: Option<&Measured>, weight: i32) -> Check {
    let nothing = Measured::default();
    let known = measured.unwrap_or(&nothing);
    let good = if known.weight == weight { known.good } else { 0 };
    let is_last_good =
        !is_stuck(metric, known) && known.trouble.is_none() && known.value.is_some_and(|value| is_good(metric, value));
    let verdict = if known.bad > metric.failure_limit {
        Verdict::Fail
    } else if good >= metric.success_count && is_last_good {
        Verdict::Pass
    } else {
        Verdict::Unknown
    };
    let said = said(metric, known);
    let counted = format!("{good} good of {} at this share, {} bad in all", metric.success_count, known.bad);
    let dry_run = if metric.dry_run { DRY_RUN } else { "" };
    Check {
        name: metric.name.clone(),
        verdict,
        value: known.value,
        baseline: None,
        threshold: metric.max.or(metric.min),
        interval: None,
        log_evidence: None,
        samples: i64::from(known.good) + i64::from(known.bad),
        message: format!("{dry_run}{said}; {counted}").chars().take(MAX_MESSAGE).collect(),
    }
}

/// Whether the newest look gave no answer, or there was none yet at this share.
fn lacks(metric: &Metric, known: &Measured, weight: i32) -> bool {
    is_stuck(metric, known) || known.weight != weight || known.trouble.is_some() || known.value.is_none()
}

/// Whether its Job can't be made, or can't start.
fn is_stuck(metric: &Metric, known: &Measured) -> bool {
    refusal(metric, known).is_some() || running(metric, known).is_some_and(|running| running.problem.is_some())
}

/// The Job that has not ended. A check that was one may be none any more.
fn running<'a>(metric: &Metric, known: &'a Measured) -> Option<&'a Running> {
    known.running.as_ref().filter(|_| metric.job.is_some())
}

/// The Job that could not be made; as for `running`.
fn refusal<'a>(metric: &Metric, known: &'a Measured) -> Option<&'a Refused> {
    known.refused.as_ref().filter(|_| metric.job.is_some())
}

fn said(metric: &Metric, known: &Measured) -> String {
    if let Some(Refused { why, .. }) = refusal(metric, known) {
        return format!("no data: {why}");
    }
    match running(metric, known) {
        None => last_said(metric, known),
        Some(Running { job, problem: Some(problem) }) => format!("no data: the Job {job} can't start: {problem}"),
        Some(Running { job, problem: None }) if known.time.is_none() => format!("the Job {job} runs"),
        Some(Running { job, problem: None }) => format!("{}; the Job {job} runs", last_said(metric, known)),
    }
}

fn last_said(metric: &Metric, known: &Measured) -> String {
    let value = match (&known.trouble, known.value) {
        (Some(trouble), _) => return format!("no data: {trouble}"),
        (None, None) => return "was not measured yet".to_owned(),
        (None, Some(value)) => value,
    };
    let word = if is_good(metric, value) { "yes" } else { "no" };
    if metric.webhook.is_some() {
        return format!("the webhook says {word}");
    }
    if metric.job.is_some() {
        return format!("the Job {} says {word}", known.job.as_deref().unwrap_or_default());
    }
    match (metric.min, metric.max) {
        (Some(min), Some(max)) => format!("{value:.4}, from {min} to {max} is good"),
        (Some(min), None) => format!("{value:.4}, at least {min} is good"),
        (None, Some(max)) => format!("{value:.4}, at most {max} is good"),
        (None, None) => format!("{value:.4}"),
    }
}

#[cfg(test)]
#[path = "metric_tests.rs"]
mod tests;
