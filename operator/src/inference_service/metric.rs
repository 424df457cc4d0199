//! Checks of the users' own on a new revision: which are due, what is asked, what the answers count for, and what they say. Pure;
//! `ask.rs` asks.
//!
//! They are plain bounds, not sequential tests: what a query returns is not known to be independent or random. They count in the
//! rollout they were measured in, and for a step only those measured at its share.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millrace_contract::decision::{Check, Verdict};
use millrace_crds::inference_service::Metric;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{canary::DRY_RUN, pair::Pair};

/// Longest a query may take, in seconds.
const QUERY_SECONDS: i64 = 2;

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

/// A number, or why there is none, as a sentence. A webhook's yes is 1 and its no 0.
pub type Answer = Result<f64, String>;

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
    /// When it was asked last.
    time: Option<Timestamp>,
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

/// The checks that are to be asked now, and what.
pub fn due(metrics: &[Metric], measured: &Measurements, subject: Subject<'_>, now: Timestamp) -> Vec<(String, Ask)> {
    let is_due = |metric: &&Metric| {
        let known = measured.get(&metric.name);
        let is_new_share = known.is_none_or(|known| known.weight != subject.pair.new.weight.intended);
        let last = known.and_then(|known| known.time);
        is_new_share || last.is_none_or(|last| now.as_second() - last.as_second() >= metric.interval_seconds)
    };
    metrics.iter().filter(is_due).filter_map(|metric| Some((metric.name.clone(), ask(metric, subject)?))).collect()
}

/// None where admission was gone around.
fn ask(metric: &Metric, subject: Subject<'_>) -> Option<Ask> {
    let Subject { service: (namespace, service), pair } = subject;
    match (&metric.prometheus, &metric.webhook) {
        (Some(prometheus), None) => {
            let words = [
                ("{{service}}", service),
                ("{{namespace}}", namespace),
                ("{{canary}}", &pair.new.revision),
                ("{{stable}}", &pair.old.revision),
            ];
            let query = words.iter().fold(prometheus.query.clone(), |query, (word, value)| query.replace(word, value));
            Some(Ask::Query { address: prometheus.address.clone(), query, seconds: QUERY_SECONDS })
        }
        (None, Some(webhook)) => {
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

/// Counts the answers. What is no longer asked for is forgotten.
pub fn count(
    metrics: &[Metric],
    measured: &mut Measurements,
    weight: i32,
    answers: &[(String, Answer)],
    now: Timestamp,
) {
    measured.retain(|name, _| metrics.iter().any(|metric| metric.name == *name));
    for (name, answer) in answers {
        let Some(metric) = metrics.iter().find(|metric| metric.name == *name) else { continue };
        let known = measured.entry(name.clone()).or_default();
        if known.weight != weight {
            (known.weight, known.good) = (weight, 0);
        }
        known.time = Some(now);
        // A number that is none says as little as no answer.
        match answer {
            Ok(value) if !value.is_nan() => {
                (known.value, known.trouble) = (Some(*value), None);
                let counter = if is_good(metric, *value) { &mut known.good } else { &mut known.bad };
                *counter = counter.saturating_add(1);
            }
            Ok(_) => known.trouble = Some("the answer is NaN".to_owned()),
            Err(why) => known.trouble = Some(why.chars().take(200).collect()),
        }
    }
}

fn is_good(metric: &Metric, value: f64) -> bool {
    match &metric.webhook {
        Some(_) => value >= 1.0,
        None => metric.min.is_none_or(|min| value >= min) && metric.max.is_none_or(|max| value <= max),
    }
}

/// What they say at this share, in percent.
pub fn checks(metrics: &[Metric], measured: &Measurements, weight: i32) -> Vec<Check> {
    metrics.iter().map(|metric| check(metric, measured.get(&metric.name), weight)).collect()
}

fn check(metric: &Metric, measured: Option<&Measured>, weight: i32) -> Check {
    let nothing = Measured::default();
    let known = measured.unwrap_or(&nothing);
    let good = if known.weight == weight { known.good } else { 0 };
    let is_last_good = known.trouble.is_none() && known.value.is_some_and(|value| is_good(metric, value));
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
        value: known.value.filter(|value| value.is_finite()),
        baseline: None,
        threshold: metric.max.or(metric.min),
        interval: None,
        log_evidence: None,
        samples: i64::from(known.good) + i64::from(known.bad),
        message: format!("{dry_run}{said}; {counted}").chars().take(512).collect(),
    }
}

fn said(metric: &Metric, known: &Measured) -> String {
    match (&known.trouble, known.value, &metric.webhook) {
        (Some(trouble), _, _) => format!("no data: {trouble}"),
        (None, None, _) => "was not measured yet".to_owned(),
        (None, Some(value), Some(_)) if value >= 1.0 => "the webhook says yes".to_owned(),
        (None, Some(_), Some(_)) => "the webhook says no".to_owned(),
        (None, Some(value), None) => match (metric.min, metric.max) {
            (Some(min), Some(max)) => format!("{value:.4}, from {min} to {max} is good"),
            (Some(min), None) => format!("{value:.4}, at least {min} is good"),
            (None, Some(max)) => format!("{value:.4}, at most {max} is good"),
            (None, None) => format!("{value:.4}"),
        },
    }
}

#[cfg(test)]
#[path = "metric_tests.rs"]
mod tests;
