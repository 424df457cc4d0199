//! What came of the expectations: a summary for the status, and sentences. Pure.

use millrace_contract::{dataset::ExpectationResult, worker::PreparedDataset};
use millrace_crds::dataset::ExpectationSummary;

/// Failed expectations kept in status.
const RESULTS: usize = 16;

/// Which expectation fails, where and how often.
pub fn failure_sentence(result: &ExpectationResult) -> String {
    let column = result.column.as_ref().map(|column| format!(" of column {column}")).unwrap_or_default();
    let examples =
        if result.examples.is_empty() { String::new() } else { format!(" (as {})", result.examples.join(", ")) };
    format!(
        "{}{column} fails for {} of {}{examples}",
        result.name.as_str(),
        result.unexpected_count,
        result.element_count
    )
}

/// How many hold, and those that do not.
pub fn summary(results: &[ExpectationResult]) -> ExpectationSummary {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let failed: Vec<_> = results.iter().filter(|result| !result.success).cloned().collect();
    ExpectationSummary {
        evaluated: count(results.len()),
        passed: count(results.len() - failed.len()),
        failed: count(failed.len()),
        results: failed.into_iter().take(RESULTS).collect(),
    }
}

/// How many hold, a sentence.
pub fn summary_sentence(prepared: &PreparedDataset) -> String {
    let failed = prepared.expectations.iter().filter(|result| !result.success).count();
    match (prepared.expectations.len(), failed) {
        (0, _) => "nothing is expected of the data".to_owned(),
        (all, 0) => format!("all {all} expectations hold"),
        (all, failed) => format!("{failed} of {all} expectations do not hold; none of them blocks"),
    }
}
