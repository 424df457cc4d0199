//! Which checks of the users' own are due, and what is asked. Pure.

use jiff::Timestamp;
use millrace_crds::inference_service::Metric;
use serde_json::json;

use super::{Ask, Measurements, Run, Subject};
use crate::names::{child, short_hash};

/// Longest a query may take, in seconds.
const QUERY_SECONDS: i64 = 2;
/// Longest pause before a Job that was refused is asked for again, in seconds: a quota may be raised at any time.
const REFUSED_SECONDS: i64 = 60;

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
