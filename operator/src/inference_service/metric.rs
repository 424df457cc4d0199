//! Checks of the users' own on a new revision: which are due and what is asked (`metric/asked.rs`), what the answers count for
//! (`metric/counted.rs`), and what they say (`metric/said.rs`). Pure; `ask.rs` asks, `check_job.rs` knows Jobs.
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

mod asked;
mod counted;
mod said;

use std::collections::BTreeMap;

use jiff::Timestamp;
use millrace_crds::inference_service::{CheckJob, Metric};
use serde::{Deserialize, Serialize};

pub use self::{
    asked::{due, due_runs, runs},
    counted::{count, count_runs, lacking_since, note_lack, refused},
    said::checks,
};
use super::pair::Pair;

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

fn is_good(metric: &Metric, value: f64) -> bool {
    if metric.webhook.is_some() || metric.job.is_some() {
        return value >= 1.0;
    }
    metric.min.is_none_or(|min| value >= min) && metric.max.is_none_or(|max| value <= max)
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

#[cfg(test)]
#[path = "metric_tests.rs"]
mod tests;
