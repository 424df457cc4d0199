//! How far the planned run is. Pure.
//!
//! Crash table: what the next reconcile sees when the process dies right after a write, and what it does.
//!
//! | after the write of                  | the next reconcile sees                     | and does                                   |
//! |-------------------------------------|---------------------------------------------|--------------------------------------------|
//! | ServiceAccount … RoleBinding        | some children, no Job: `Wanted`             | applies the missing ones; names are fixed  |
//! | Job                                 | a running Job, status of before: `Running`  | writes the status; the Job is not doubled  |
//! | status (a child is refused)         | `Wanted`; the end of a former run is kept   | tries again after a pause, or when the spec changes |
//! | status (preparing)                  | `Running`                                   | nothing, or removes leftovers              |
//! | (worker: report, Job ends)          | `Ended`                                     | writes result and end of run in one write  |
//! | status (result)                     | `Settled`: the end of this run is recorded  | removes leftovers of other runs            |
//! | some leftovers removed              | fewer leftovers                             | removes the rest                           |
//! | status (failed), later              | `Settled` until the pause is over           | plans the next try, which has its own name |
//!
//! An Event that is lost on the way is not told again.

use millrace_contract::worker::{Outcome, PreparedDataset, WorkerReport};

use super::{desired::Plan, observe::Observed};
use crate::run_state::{Reported, RunState, Trouble};

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
        (RunState::Running { problem }, _) => {
            Phase::Running { problem: problem.clone().map(Trouble::from).or_else(|| retrying(reported)) }
        }
        // The Job's exit is what makes a report final; a Job that is gone (its time to live is over) has ended.
        (RunState::Succeeded | RunState::Absent | RunState::Failed(_), Some(ending)) => Phase::Ended(ending),
        (RunState::Absent, None) => Phase::Wanted,
        (RunState::Succeeded, None) => Phase::Ended(Ending::Failed(Trouble {
            reason: NO_REPORT,
            message: "the worker ended without a report; it is run again".to_owned(),
        })),
        (RunState::Failed(problem), None) => {
            Phase::Ended(Ending::Failed(retrying(reported).unwrap_or_else(|| problem.clone().into())))
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
            Outcome::Failed(failure) => Some(Ending::Failed(failure.into())),
            Outcome::Retrying(_) => None,
            Outcome::Training(_) | Outcome::Trained(_) | Outcome::Evaluated(_) => Some(Ending::Failed(Trouble {
                reason: INVALID_REPORT,
                message:
                    "the worker reports other work than preparing data: worker and operator do not belong together"
                        .to_owned(),
            })),
        },
    }
}

/// What a worker that will try again says is in its way.
fn retrying(reported: &Reported) -> Option<Trouble> {
    match reported {
        Reported::Nothing | Reported::Unreadable(_) => None,
        Reported::Report(report) => match report.as_ref() {
            WorkerReport { outcome: Outcome::Retrying(failure), .. } => Some(failure.into()),
            WorkerReport { .. } => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use millrace_contract::worker::{Failure, FailureReason};

    use super::*;
    use crate::run_state::{Problem, ProblemReason};

    fn reported(outcome: Outcome) -> Reported {
        Reported::Report(Box::new(WorkerReport { run: "r".to_owned(), worker_version: "1".to_owned(), outcome }))
    }

    fn failure(reason: FailureReason) -> Failure {
        Failure { reason, message: "why".to_owned() }
    }

    fn out_of_memory() -> Problem {
        Problem { reason: ProblemReason::OutOfMemory, message: "why".to_owned() }
    }

    fn failed(reason: &'static str) -> Phase {
        Phase::Ended(Ending::Failed(Trouble { reason, message: "why".to_owned() }))
    }

    #[test]
    fn without_a_job_and_without_a_report_the_run_is_wanted() {
        assert_eq!(phase_of(&RunState::Absent, &Reported::Nothing), Phase::Wanted);
    }

    #[test]
    fn a_report_counts_once_the_job_has_ended_even_if_the_job_is_gone() {
        let report = reported(Outcome::Failed(failure(FailureReason::EmptySource)));
        assert_eq!(phase_of(&RunState::Running { problem: None }, &report), Phase::Running { problem: None });
        for ended in [RunState::Succeeded, RunState::Absent, RunState::Failed(out_of_memory())] {
            assert_eq!(phase_of(&ended, &report), failed("EmptySource"), "{ended:?}");
        }
    }

    #[test]
    fn a_job_that_gave_up_says_what_its_worker_said_else_what_its_pod_died_of() {
        let report = reported(Outcome::Retrying(failure(FailureReason::StoreUnavailable)));
        assert_eq!(phase_of(&RunState::Failed(out_of_memory()), &report), failed("StoreUnavailable"));
        assert_eq!(phase_of(&RunState::Failed(out_of_memory()), &Reported::Nothing), failed("OutOfMemory"));
    }

    #[test]
    fn a_worker_that_says_nothing_or_nonsense_has_failed() {
        let Phase::Ended(Ending::Failed(silent)) = phase_of(&RunState::Succeeded, &Reported::Nothing) else {
            panic!("a silent worker has not done its work")
        };
        assert_eq!(silent.reason, NO_REPORT);
        let nonsense = Reported::Unreadable("why".to_owned());
        assert_eq!(phase_of(&RunState::Succeeded, &nonsense), failed(INVALID_REPORT));
    }

    #[test]
    fn a_run_that_can_not_go_on_says_why_while_it_waits() {
        let problem = Problem { reason: ProblemReason::SecretNotFound, message: "why".to_owned() };
        let trouble = Trouble { reason: "SecretNotFound", message: "why".to_owned() };
        let state = RunState::Running { problem: Some(problem) };
        assert_eq!(phase_of(&state, &Reported::Nothing), Phase::Running { problem: Some(trouble) });
    }
}
