//! How far the planned run is. Pure.
//!
//! Crash table: what the next reconcile sees when the process dies right after a write, and what it does.
//!
//! | after the write of                  | the next reconcile sees                     | and does                                   |
//! |-------------------------------------|---------------------------------------------|--------------------------------------------|
//! | ServiceAccount … RoleBinding        | some children, no Job: `Wanted`             | applies the missing ones; names are fixed  |
//! | Job                                 | a running Job, status of before: `Running`  | writes the status; the Job is not doubled  |
//! | status (preparing)                  | `Running`                                   | nothing, or removes leftovers              |
//! | (worker: report, Job ends)          | `Ended`                                     | writes result and end of run in one write  |
//! | status (result)                     | `Settled`: the end of this run is recorded  | removes leftovers of other runs            |
//! | some leftovers removed              | fewer leftovers                             | removes the rest                           |
//! | status (failed), later              | `Settled` until the pause is over           | plans the next try, which has its own name |
//!
//! An Event that is lost on the way is not told again.

use millrace_contract::worker::{Outcome, PreparedDataset, WorkerReport};

use super::{desired::Plan, observe::Observed};
use crate::run_state::{Problem, Reported, RunState};

/// How far the planned run is.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// It should be there and is not.
    Wanted,
    /// It runs.
    Running {
        /// What keeps it from going on, if anything does.
        problem: Option<Trouble>,
    },
    /// It has ended, and status does not know yet.
    Ended(Ending),
    /// It has ended, and status knows.
    Settled,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// The worker did its work; the data may still not be accepted.
    Prepared(Box<PreparedDataset>),
    /// It could not be done.
    Failed(Trouble),
}

/// What is wrong, as a condition says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Reason of the condition.
    pub reason: &'static str,
    /// Message of the condition.
    pub message: String,
}

/// Reason: the worker ended well and said nothing.
const NO_REPORT: &str = "NoReport";
/// Reason: the worker's report is none.
const INVALID_REPORT: &str = "InvalidReport";

/// How far the planned run is.
pub fn phase(plan: &Plan, observed: &Observed) -> Phase {
    let is_recorded = plan.recorded.as_ref().is_some_and(|run| run.end_time.is_some());
    if is_recorded {
        return Phase::Settled;
    }
    phase_of(&observed.state, &observed.reported)
}

fn phase_of(state: &RunState, reported: &Reported) -> Phase {
    match (state, ending(reported)) {
        (RunState::Running { problem }, _) => Phase::Running { problem: problem.as_ref().map(trouble).or_else(|| retrying(reported)) },
        // The Job's exit is what makes a report final; a Job that is gone (its time to live is over) has ended.
        (RunState::Succeeded | RunState::Absent | RunState::Failed(_), Some(ending)) => Phase::Ended(ending),
        (RunState::Absent, None) => Phase::Wanted,
        (RunState::Succeeded, None) => Phase::Ended(Ending::Failed(Trouble {
            reason: NO_REPORT,
            message: "the worker ended without a report; it is run again".to_owned(),
        })),
        (RunState::Failed(problem), None) => {
            Phase::Ended(Ending::Failed(retrying(reported).unwrap_or_else(|| trouble(problem))))
        }
    }
}

/// What a report says about the end, if it does.
fn ending(reported: &Reported) -> Option<Ending> {
    match reported {
        Reported::Nothing => None,
        Reported::Unreadable(message) => {
            Some(Ending::Failed(Trouble { reason: INVALID_REPORT, message: message.clone() }))
        }
        Reported::Report(report) => match &report.outcome {
            Outcome::Prepared(prepared) => Some(Ending::Prepared(Box::new(prepared.clone()))),
            Outcome::Failed(failure) => {
                Some(Ending::Failed(Trouble { reason: failure.reason.as_str(), message: failure.message.clone() }))
            }
            Outcome::Retrying(_) => None,
            Outcome::Training(_) | Outcome::Trained(_) | Outcome::Evaluated(_) => Some(Ending::Failed(Trouble {
                reason: INVALID_REPORT,
                message: "the worker reports other work than preparing data: worker and operator do not belong together".to_owned(),
            })),
        },
    }
}

/// What a worker that will try again says is in its way.
fn retrying(reported: &Reported) -> Option<Trouble> {
    match reported {
        Reported::Nothing | Reported::Unreadable(_) => None,
        Reported::Report(report) => match report.as_ref() {
            WorkerReport { outcome: Outcome::Retrying(failure), .. } => {
                Some(Trouble { reason: failure.reason.as_str(), message: failure.message.clone() })
            }
            WorkerReport { .. } => None,
        },
    }
}

fn trouble(problem: &Problem) -> Trouble {
    Trouble { reason: problem.reason.as_str(), message: problem.message.clone() }
}
