//! The report of a run: fitted to its size limit, written to the run's ConfigMap by server-side apply, or printed where there
//! is none. Writes to the Kubernetes API.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use millrace_contract::worker::{Outcome, PreparedDataset, REPORT_KEY, REPORT_MAX_BYTES, WorkerReport};
use serde_json::json;

use crate::failure::shorten;

const FIELD_MANAGER: &str = "millrace-worker";
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Deadline of one try.
const TRY_DEADLINE: Duration = Duration::from_secs(10);

/// Why a report was not written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// `MILLRACE_REPORT` is not `namespace/name`.
    #[error("MILLRACE_REPORT {0:?} is not `namespace/name`")]
    InvalidTarget(String),
    /// No connection to the API could be made up.
    #[error("the Kubernetes API can't be reached: {0}")]
    NoClient(#[source] kube::Error),
    /// Every try until the deadline failed.
    #[error("the report could not be written to ConfigMap {name} within {seconds} s: {last}")]
    GaveUp {
        /// `namespace/name`.
        name: String,
        /// How long was tried.
        seconds: u64,
        /// The last failure.
        last: String,
    },
    /// The report can't be made to fit.
    #[error(
        "the report has {0} bytes when shortened, at most {REPORT_MAX_BYTES} fit: give fewer columns or shorter names"
    )]
    TooLarge(usize),
    /// A value that is no JSON.
    #[error("the report is no JSON: {0}")]
    NotJson(#[from] serde_json::Error),
}

/// Where reports go.
pub enum Reporter {
    /// The run's ConfigMap.
    ConfigMap {
        /// ConfigMaps of its namespace.
        api: Box<Api<ConfigMap>>,
        /// Its name.
        name: String,
    },
    /// Standard output: local use and tests.
    Stdout,
}

impl Reporter {
    /// A reporter for `namespace/name`, or for standard output.
    pub async fn new(target: Option<&str>) -> Result<Self, ReportError> {
        let Some(target) = target else { return Ok(Self::Stdout) };
        let invalid = || ReportError::InvalidTarget(target.to_owned());
        let (namespace, name) = target.split_once('/').ok_or_else(invalid)?;
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(invalid());
        }
        let client = Client::try_default().await.map_err(ReportError::NoClient)?;
        Ok(Self::ConfigMap { api: Box::new(Api::namespaced(client, namespace)), name: name.to_owned() })
    }

    /// Writes the report, trying again until `deadline` has passed.
    pub async fn write(&self, report: WorkerReport, deadline: Duration) -> Result<(), ReportError> {
        let text = fit(report)?;
        match self {
            Self::Stdout => {
                println!("{text}");
                Ok(())
            }
            Self::ConfigMap { api, name } => apply(api, name, &text, deadline).await,
        }
    }
}

async fn apply(api: &Api<ConfigMap>, name: &str, text: &str, deadline: Duration) -> Result<(), ReportError> {
    let patch = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {REPORT_KEY: text},
    }));
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let last = match tokio::time::timeout(TRY_DEADLINE, api.patch(name, &parameters, &patch)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", TRY_DEADLINE.as_secs()),
        };
        tracing::warn!(error = last, "the report was not accepted");
        if start.elapsed() + pause > deadline {
            return Err(ReportError::GaveUp { name: name.to_owned(), seconds: deadline.as_secs(), last });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The report's JSON, shortened step by step until it fits: examples first, then sentences.
fn fit(mut report: WorkerReport) -> Result<String, ReportError> {
    let mut text = serde_json::to_string(&report)?;
    for shortened in [without_examples, with_short_messages] {
        if text.len() <= REPORT_MAX_BYTES {
            return Ok(text);
        }
        if let Outcome::Prepared(prepared) = &mut report.outcome {
            shortened(prepared);
        }
        text = serde_json::to_string(&report)?;
    }
    if text.len() <= REPORT_MAX_BYTES { Ok(text) } else { Err(ReportError::TooLarge(text.len())) }
}

fn without_examples(prepared: &mut PreparedDataset) {
    prepared.expectations.iter_mut().for_each(|result| result.examples.clear());
}

fn with_short_messages(prepared: &mut PreparedDataset) {
    prepared.expectations.iter_mut().for_each(|result| result.message = shorten(&result.message, 40));
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_contract::{
        Digest,
        dataset::{ExpectationName, ExpectationResult, Schema, Severity},
    };

    fn report(expectations: usize, message: usize) -> WorkerReport {
        let result = ExpectationResult {
            name: ExpectationName::ColumnValuesToNotBeNull,
            column: None,
            severity: Severity::Warn,
            success: true,
            element_count: 0,
            unexpected_count: 0,
            examples: vec!["x".repeat(64); 5],
            message: "m".repeat(message),
        };
        let prepared = PreparedDataset {
            accepted: true,
            unchanged: false,
            content_digest: Digest::of(b""),
            manifest_digest: None,
            uri: None,
            rows: 1,
            split_rows: std::collections::BTreeMap::default(),
            bytes: 0,
            schema: Schema::default(),
            expectations: vec![result; expectations],
        };
        WorkerReport { run: "r".to_owned(), worker_version: "0".to_owned(), outcome: Outcome::Prepared(prepared) }
    }

    fn fitted(expectations: usize, message: usize) -> PreparedDataset {
        let text = fit(report(expectations, message)).expect("fits");
        assert!(text.len() <= REPORT_MAX_BYTES);
        let read: WorkerReport = serde_json::from_str(&text).expect("still a report");
        match read.outcome {
            Outcome::Prepared(prepared) => prepared,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_report_is_shortened_by_examples_first_and_sentences_next() {
        let whole = fitted(10, 100);
        assert_eq!((whole.expectations[0].examples.len(), whole.expectations[0].message.len()), (5, 100));
        let without_examples = fitted(150, 200);
        assert_eq!(
            (without_examples.expectations[0].examples.len(), without_examples.expectations[0].message.len()),
            (0, 200)
        );
        let short = fitted(256, 200);
        assert_eq!(short.expectations[0].message.chars().count(), 40);
        assert!(matches!(fit(report(1000, 200)), Err(ReportError::TooLarge(_))));
    }

    #[tokio::test]
    async fn a_target_is_a_namespace_and_a_name() {
        for bad in ["", "x", "/x", "x/", "a/b/c"] {
            assert!(matches!(Reporter::new(Some(bad)).await, Err(ReportError::InvalidTarget(_))), "{bad:?}");
        }
        assert!(matches!(Reporter::new(None).await, Ok(Reporter::Stdout)));
    }
}
