//! The status that follows from what was seen, and what to tell about it. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_contract::{dataset::Severity, worker::PreparedDataset};
use millrace_crds::{
    Dataset, DatasetStatus,
    common::RunStatus,
    conditions::{EXPECTATIONS_MET, READY},
    dataset::{DatasetPhase, DatasetVersion, PastVersion},
};

use super::{
    desired::Plan,
    expectations::{failure_sentence, summary, summary_sentence},
    phase::{Ending, Phase},
    refresh::Due,
};
use crate::{
    Error,
    bug::{Bugs, SeededBug},
    conditions::{CHILD_REFUSED, Conditions, Is, Summary, find, whole_seconds},
    events::{Kind, Reason, Told},
    run_state::Trouble,
};

/// Earlier versions kept in status.
const HISTORY: usize = 10;

/// Reasons of Events and conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetReason {
    /// A run was started.
    Preparing,
    /// A new version is current.
    VersionCreated,
    /// The content is that of the current version.
    ContentUnchanged,
    /// A blocking expectation does not hold.
    ExpectationsFailed,
    /// The run failed; the condition's reason says how.
    RunFailed,
}

impl Reason for DatasetReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "Preparing",
            Self::VersionCreated => "VersionCreated",
            Self::ContentUnchanged => "ContentUnchanged",
            Self::ExpectationsFailed => "ExpectationsFailed",
            Self::RunFailed => "RunFailed",
        }
    }

    fn action(self) -> &'static str {
        "Prepare"
    }
}

/// Reason of Ready while the schedule can't be followed.
const INVALID_SCHEDULE: &str = "InvalidSchedule";

/// What is looked at to make a status.
pub struct Seen<'a> {
    /// Generation of the spec that was looked at.
    pub generation: i64,
    /// The refresh that is due.
    pub due: &'a Due,
    /// The planned run.
    pub plan: &'a Plan,
    /// How far it is.
    pub phase: &'a Phase,
    /// Now.
    pub now: Timestamp,
    /// Known mistakes.
    pub bugs: Bugs,
}

/// The next status, and what to tell once it is written.
pub fn next(former: &DatasetStatus, seen: &Seen<'_>) -> (DatasetStatus, Option<Told<DatasetReason>>) {
    let mut status = former.clone();
    if seen.bugs.has(SeededBug::MoveTransitionTime) {
        status.conditions.clear();
    }
    let told = match seen.phase {
        Phase::Wanted => started(&mut status, seen, None),
        Phase::Running { problem } => started(&mut status, seen, problem.as_ref()),
        Phase::Ended(ending) => ended(&mut status, seen, ending),
        Phase::Settled => {
            uncover(&mut status, seen);
            None
        }
    };
    look_again(&mut status, seen);
    (status, told)
}

/// What helps where the spec asks for a child that can't be.
const REMEDY: &str = "correct the spec, unless it is a policy of the cluster that refuses it and is changed";

/// The status when a child of the run could not be written. What a run that has ended left is kept: its failure is what the next try is counted from.
pub fn refused(dataset: &Dataset, error: &Error, now: Timestamp) -> DatasetStatus {
    let mut status = dataset.status.clone().unwrap_or_default();
    let generation = dataset.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    status.phase = Some(match status.phase {
        // The version that is current is not of this spec, or not of this refresh.
        None | Some(DatasetPhase::Pending | DatasetPhase::Ready) => DatasetPhase::Pending,
        Some(other @ (DatasetPhase::Preparing | DatasetPhase::Blocked | DatasetPhase::Failed)) => other,
    });
    Conditions::new(&mut status.conditions, generation, now).child_refused(error, REMEDY);
    status
}

/// What was said of a run that has ended, where a child of another run was refused since which nobody asks for any more.
fn uncover(status: &mut DatasetStatus, seen: &Seen<'_>) {
    if find(&status.conditions, READY).is_none_or(|ready| ready.reason != CHILD_REFUSED) {
        return;
    }
    let (phase, summary, reason, message) = match status.phase {
        Some(DatasetPhase::Blocked) => {
            let message = find(&status.conditions, EXPECTATIONS_MET).map(|met| met.message.clone());
            let reason = DatasetReason::ExpectationsFailed;
            (DatasetPhase::Blocked, Summary::Stuck, reason, message.unwrap_or_default())
        }
        Some(DatasetPhase::Failed) => {
            let message = "the last run failed; it is tried again, and then says why if it fails again".to_owned();
            (DatasetPhase::Failed, Summary::Stuck, DatasetReason::RunFailed, message)
        }
        None | Some(DatasetPhase::Pending | DatasetPhase::Preparing | DatasetPhase::Ready) => {
            let message = status.current.as_ref().map(described).unwrap_or_default();
            (DatasetPhase::Ready, Summary::Done, DatasetReason::VersionCreated, message)
        }
    };
    status.phase = Some(phase);
    conditions(status, seen).summarise(summary, reason.as_str(), &message);
}

/// What every look brings up to date, whatever the run does.
fn look_again(status: &mut DatasetStatus, seen: &Seen<'_>) {
    let is_first_look = status.observed_generation < 0;
    if is_first_look || !seen.bugs.has(SeededBug::ForgetObservedGeneration) {
        status.observed_generation = seen.generation;
        for condition in &mut status.conditions {
            condition.observed_generation = Some(seen.generation);
        }
    }
    status.next_refresh_time = seen.due.next.map(Time);
    let summarised = find(&status.conditions, READY).map(|ready| ready.reason.clone()).unwrap_or_default();
    let is_settled_well = status.phase == Some(DatasetPhase::Ready);
    match &seen.due.problem {
        Some(problem) if is_settled_well => {
            conditions(status, seen).summarise(Summary::Stuck, INVALID_SCHEDULE, problem);
        }
        Some(_) => {}
        None if is_settled_well && summarised == INVALID_SCHEDULE => {
            let message = status.current.as_ref().map(described).unwrap_or_default();
            conditions(status, seen).summarise(Summary::Done, DatasetReason::VersionCreated.as_str(), &message);
        }
        None => {}
    }
}

fn conditions<'a>(status: &'a mut DatasetStatus, seen: &Seen<'_>) -> Conditions<'a> {
    Conditions::new(&mut status.conditions, seen.generation, seen.now)
}

fn started(status: &mut DatasetStatus, seen: &Seen<'_>, problem: Option<&Trouble>) -> Option<Told<DatasetReason>> {
    let Plan { name, attempt, refresh, .. } = seen.plan;
    let is_new = status.run.as_ref().is_none_or(|run| run.job != *name);
    if is_new {
        let start_time = Time(whole_seconds(seen.now));
        status.run = Some(RunStatus { job: name.clone(), attempt: *attempt, start_time, end_time: None });
        status.handled_refresh = Some(refresh.clone());
    }
    // A scheduled look at the same spec does not make a good version bad while it goes on.
    let is_ready = find(&status.conditions, READY)
        .is_some_and(|ready| ready.status == "True" && ready.observed_generation == Some(seen.generation));
    status.phase = Some(DatasetPhase::Preparing);
    match problem {
        Some(Trouble { reason, message }) => {
            conditions(status, seen).summarise(Summary::Stuck, reason, message);
        }
        None if is_ready => {}
        None => {
            let message = "a worker reads, checks and stores the data";
            conditions(status, seen).summarise(Summary::Working, DatasetReason::Preparing.as_str(), message);
        }
    }
    let note = format!("run {name} was started for the refresh {refresh}, try {}", attempt + 1);
    is_new.then_some(Told { kind: Kind::Normal, reason: DatasetReason::Preparing, note })
}

fn ended(status: &mut DatasetStatus, seen: &Seen<'_>, ending: &Ending) -> Option<Told<DatasetReason>> {
    // A run may have started and ended since the last look.
    let _ = started(status, seen, None);
    if let Some(run) = &mut status.run
        && !seen.bugs.has(SeededBug::CountTwice)
    {
        run.end_time = Some(Time(whole_seconds(seen.now)));
    }
    match ending {
        Ending::Failed(trouble) => Some(failed(status, seen, trouble)),
        Ending::Prepared(prepared) => {
            status.expectations = Some(summary(&prepared.expectations));
            if prepared.accepted {
                Some(accepted(status, seen, prepared))
            } else {
                Some(blocked(status, seen, prepared))
            }
        }
    }
}

fn failed(status: &mut DatasetStatus, seen: &Seen<'_>, trouble: &Trouble) -> Told<DatasetReason> {
    status.phase = Some(DatasetPhase::Failed);
    if seen.bugs.has(SeededBug::LoseCurrent) {
        status.current = None;
    }
    let Trouble { reason, message } = trouble;
    conditions(status, seen).summarise(Summary::Stuck, reason, message);
    Told { kind: Kind::Warning, reason: DatasetReason::RunFailed, note: format!("{reason}: {message}") }
}

fn accepted(status: &mut DatasetStatus, seen: &Seen<'_>, prepared: &PreparedDataset) -> Told<DatasetReason> {
    let is_unchanged = status.current.as_ref().is_some_and(|current| current.content_digest == prepared.content_digest);
    let reason = if is_unchanged && !seen.bugs.has(SeededBug::CountTwice) {
        DatasetReason::ContentUnchanged
    } else {
        match version(status, prepared, seen.now) {
            Ok(version) => {
                retire(status);
                status.current = Some(version);
                DatasetReason::VersionCreated
            }
            Err(trouble) => return failed(status, seen, &trouble),
        }
    };
    status.phase = Some(DatasetPhase::Ready);
    let message = status.current.as_ref().map(described).unwrap_or_default();
    let checked = summary_sentence(prepared);
    conditions(status, seen).summarise(Summary::Done, DatasetReason::VersionCreated.as_str(), &message).set(
        EXPECTATIONS_MET,
        Is::True,
        "ExpectationsMet",
        &checked,
    );
    Told { kind: Kind::Normal, reason, note: message }
}

fn version(status: &DatasetStatus, prepared: &PreparedDataset, now: Timestamp) -> Result<DatasetVersion, Trouble> {
    let (Some(manifest_digest), Some(uri)) = (&prepared.manifest_digest, &prepared.uri) else {
        let message =
            "the worker reports a new version without saying where it is: worker and operator do not belong together";
        return Err(Trouble { reason: "InvalidReport", message: message.to_owned() });
    };
    let highest =
        status.history.iter().map(|past| past.version).chain(status.current.as_ref().map(|v| v.version)).max();
    Ok(DatasetVersion {
        version: highest.unwrap_or_default() + 1,
        content_digest: prepared.content_digest.clone(),
        manifest_digest: manifest_digest.clone(),
        uri: uri.clone(),
        rows: prepared.rows,
        split_rows: prepared.split_rows.clone(),
        bytes: prepared.bytes,
        columns: i32::try_from(prepared.schema.fields.len()).unwrap_or(i32::MAX),
        created_time: Time(whole_seconds(now)),
    })
}

/// Puts the version that was current into the history.
fn retire(status: &mut DatasetStatus) {
    let Some(former) = status.current.take() else { return };
    let DatasetVersion { version, content_digest, manifest_digest, uri, rows, created_time, .. } = former;
    status.history.insert(0, PastVersion { version, content_digest, manifest_digest, uri, rows, created_time });
    status.history.truncate(HISTORY);
}

fn blocked(status: &mut DatasetStatus, seen: &Seen<'_>, prepared: &PreparedDataset) -> Told<DatasetReason> {
    status.phase = Some(DatasetPhase::Blocked);
    let failures: Vec<_> =
        prepared.expectations.iter().filter(|r| !r.success && r.severity == Severity::Block).collect();
    let kept = match &status.current {
        Some(current) => format!("version {} stays current", current.version),
        None => "there is no earlier version".to_owned(),
    };
    let which = failures.iter().take(3).map(|result| failure_sentence(result)).collect::<Vec<_>>().join("; ");
    let message = format!(
        "{} of {} expectations block: {which}; {kept}. Correct the data and refresh, or correct the expectation",
        failures.len(),
        prepared.expectations.len()
    );
    conditions(status, seen).summarise(Summary::Stuck, DatasetReason::ExpectationsFailed.as_str(), &message).set(
        EXPECTATIONS_MET,
        Is::False,
        DatasetReason::ExpectationsFailed.as_str(),
        &message,
    );
    Told { kind: Kind::Warning, reason: DatasetReason::ExpectationsFailed, note: message }
}

fn described(version: &DatasetVersion) -> String {
    format!("version {}: {} rows, digest {}", version.version, version.rows, version.content_digest.short())
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
