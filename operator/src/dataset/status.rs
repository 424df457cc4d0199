//! The status that follows from what was seen, and what to tell about it. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_contract::{
    dataset::{ExpectationResult, Severity},
    worker::PreparedDataset,
};
use millrace_crds::{
    DatasetStatus,
    common::RunStatus,
    conditions::{EXPECTATIONS_MET, READY},
    dataset::{DatasetPhase, DatasetVersion, ExpectationSummary, PastVersion},
};

use super::{
    desired::Plan,
    phase::{Ending, Phase},
    refresh::Due,
};
use crate::{
    bug::{Bugs, SeededBug},
    conditions::{Conditions, Is, Summary, find, whole_seconds},
    events::{Kind, Reason, Told},
    run_state::Trouble,
};

/// Earlier versions kept in status.
const HISTORY: usize = 10;
/// Failed expectations kept in status.
const RESULTS: usize = 16;

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
        Phase::Settled => None,
    };
    look_again(&mut status, seen);
    (status, told)
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

fn failure_sentence(result: &ExpectationResult) -> String {
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

fn summary(results: &[ExpectationResult]) -> ExpectationSummary {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let failed: Vec<_> = results.iter().filter(|result| !result.success).cloned().collect();
    ExpectationSummary {
        evaluated: count(results.len()),
        passed: count(results.len() - failed.len()),
        failed: count(failed.len()),
        results: failed.into_iter().take(RESULTS).collect(),
    }
}

fn summary_sentence(prepared: &PreparedDataset) -> String {
    let failed = prepared.expectations.iter().filter(|result| !result.success).count();
    match (prepared.expectations.len(), failed) {
        (0, _) => "nothing is expected of the data".to_owned(),
        (all, 0) => format!("all {all} expectations hold"),
        (all, failed) => format!("{failed} of {all} expectations do not hold; none of them blocks"),
    }
}

fn described(version: &DatasetVersion) -> String {
    format!("version {}: {} rows, digest {}", version.version, version.rows, version.content_digest.short())
}

#[cfg(test)]
mod tests {
    use millrace_contract::{
        Digest,
        dataset::{ExpectationName, Schema},
        worker::WorkerTask,
    };
    use millrace_crds::conditions::{RECONCILING, STALLED};

    use super::*;

    const NOON: &str = "2026-01-01T12:00:00Z";

    fn plan(name: &str) -> Plan {
        let task = serde_json::json!({
            "kind": "prepare", "run": "r", "dataset": "tx", "split": {}, "source": {"uri": "s3://a/", "format": "CSV"},
        });
        let task: WorkerTask = serde_json::from_value(task).unwrap();
        let (name, refresh) = (name.to_owned(), "refresh".to_owned());
        Plan { name, id: "r".to_owned(), attempt: 0, refresh, recorded: None, retry_at: None, task }
    }

    fn after(
        former: &DatasetStatus,
        run: &str,
        generation: i64,
        phase: &Phase,
    ) -> (DatasetStatus, Option<DatasetReason>) {
        after_with(former, run, generation, phase, None)
    }

    fn after_with(
        former: &DatasetStatus,
        run: &str,
        generation: i64,
        phase: &Phase,
        problem: Option<&str>,
    ) -> (DatasetStatus, Option<DatasetReason>) {
        let due = Due { key: "refresh".to_owned(), next: None, problem: problem.map(str::to_owned) };
        let now = NOON.parse().unwrap();
        let plan = plan(run);
        let (status, told) =
            next(former, &Seen { generation, due: &due, plan: &plan, phase, now, bugs: Bugs::default() });
        (status, told.map(|told| told.reason))
    }

    fn prepared(content: &str, accepted: bool) -> Phase {
        Phase::Ended(Ending::Prepared(Box::new(PreparedDataset {
            accepted,
            unchanged: false,
            content_digest: Digest::of(content),
            manifest_digest: accepted.then(|| Digest::of("manifest")),
            uri: accepted.then(|| format!("s3://store/{content}/")),
            rows: 10,
            split_rows: [].into(),
            bytes: 100,
            schema: Schema::default(),
            expectations: vec![ExpectationResult {
                name: ExpectationName::ColumnValuesToNotBeNull,
                column: Some("amount".to_owned()),
                severity: Severity::Block,
                success: accepted,
                element_count: 10,
                unexpected_count: if accepted { 0 } else { 3 },
                examples: Vec::new(),
                message: String::new(),
            }],
        })))
    }

    fn failed() -> Phase {
        Phase::Ended(Ending::Failed(Trouble { reason: "SourceNotFound", message: "create the bucket".to_owned() }))
    }

    fn shown(status: &DatasetStatus) -> Vec<(&str, &str, &str)> {
        status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect()
    }

    fn current(status: &DatasetStatus) -> Option<i64> {
        status.current.as_ref().map(|version| version.version)
    }

    fn ready() -> DatasetStatus {
        after(&DatasetStatus::default(), "run-1", 1, &prepared("one", true)).0
    }

    #[test]
    fn the_first_good_content_is_version_one() {
        let (status, told) = after(&DatasetStatus::default(), "run-1", 1, &prepared("one", true));
        assert_eq!((current(&status), status.phase), (Some(1), Some(DatasetPhase::Ready)));
        assert_eq!(shown(&status), [(READY, "True", "VersionCreated"), (EXPECTATIONS_MET, "True", "ExpectationsMet")]);
        assert_eq!(told, Some(DatasetReason::VersionCreated));
        assert_eq!((status.observed_generation, status.handled_refresh.as_deref()), (1, Some("refresh")));
    }

    #[test]
    fn equal_content_is_no_new_version() {
        let (status, told) = after(&ready(), "run-2", 1, &prepared("one", true));
        assert_eq!((current(&status), status.history.len()), (Some(1), 0));
        assert_eq!(told, Some(DatasetReason::ContentUnchanged));
    }

    #[test]
    fn new_content_retires_the_former_version_and_history_is_bounded() {
        let mut status = ready();
        for n in 2..=15 {
            status = after(&status, &format!("run-{n}"), 1, &prepared(&format!("content {n}"), true)).0;
        }
        assert_eq!(current(&status), Some(15));
        let past: Vec<i64> = status.history.iter().map(|past| past.version).collect();
        assert_eq!(past, [14, 13, 12, 11, 10, 9, 8, 7, 6, 5]);
    }

    #[test]
    fn a_blocked_content_keeps_the_former_version_and_says_what_is_wrong_and_where() {
        let (status, told) = after(&ready(), "run-2", 1, &prepared("two", false));
        assert_eq!((current(&status), status.phase), (Some(1), Some(DatasetPhase::Blocked)));
        assert_eq!(
            shown(&status),
            [
                (READY, "False", "ExpectationsFailed"),
                (EXPECTATIONS_MET, "False", "ExpectationsFailed"),
                (STALLED, "True", "ExpectationsFailed")
            ]
        );
        assert_eq!(
            status.conditions[0].message,
            "1 of 1 expectations block: column_values_to_not_be_null of column amount fails for 3 of 10; version 1 stays current. Correct the data and refresh, or correct the expectation"
        );
        assert_eq!(told, Some(DatasetReason::ExpectationsFailed));
    }

    #[test]
    fn a_failed_run_keeps_the_former_version_and_names_the_remedy() {
        let (status, _) = after(&ready(), "run-2", 1, &failed());
        assert_eq!((current(&status), status.phase), (Some(1), Some(DatasetPhase::Failed)));
        assert_eq!(find(&status.conditions, STALLED).map(|c| c.message.as_str()), Some("create the bucket"));
    }

    #[test]
    fn a_refresh_leaves_a_ready_dataset_ready_and_a_new_spec_does_not() {
        let (refreshed, told) = after(&ready(), "run-2", 1, &Phase::Wanted);
        assert_eq!((refreshed.phase, told), (Some(DatasetPhase::Preparing), Some(DatasetReason::Preparing)));
        assert_eq!(shown(&refreshed)[0], (READY, "True", "VersionCreated"));
        let (changed, _) = after(&ready(), "run-2", 2, &Phase::Wanted);
        assert_eq!(shown(&changed)[0], (READY, "False", "Preparing"));
        assert!(find(&changed.conditions, RECONCILING).is_some());
    }

    #[test]
    fn looking_again_at_a_running_or_settled_run_changes_nothing() {
        let (running, _) = after(&ready(), "run-2", 2, &Phase::Wanted);
        assert_eq!(after(&running, "run-2", 2, &Phase::Running { problem: None }), (running.clone(), None));
        assert_eq!(after(&ready(), "run-1", 1, &Phase::Settled), (ready(), None));
    }

    #[test]
    fn a_wrong_schedule_shows_without_touching_the_version_and_heals() {
        let (wrong, _) = after_with(&ready(), "run-1", 2, &Phase::Settled, Some("no cron expression"));
        assert_eq!(shown(&wrong)[0], (READY, "False", "InvalidSchedule"));
        assert_eq!((current(&wrong), wrong.phase), (Some(1), Some(DatasetPhase::Ready)));
        let (healed, _) = after(&wrong, "run-1", 3, &Phase::Settled);
        assert_eq!(shown(&healed)[0], (READY, "True", "VersionCreated"));
    }
}
