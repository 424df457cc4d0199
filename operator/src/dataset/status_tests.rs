//! Tests of the status.

use millrace_contract::{
    Digest,
    dataset::{ExpectationName, ExpectationResult, Schema},
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

fn after(former: &DatasetStatus, run: &str, generation: i64, phase: &Phase) -> (DatasetStatus, Option<DatasetReason>) {
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
    let (status, told) = next(former, &Seen { generation, due: &due, plan: &plan, phase, now, bugs: Bugs::default() });
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

#[test]
fn a_refused_child_shows_until_it_is_written_or_nobody_asks_for_it_any_more() {
    let ended = |phase: &Phase| after(&ready(), "run-2", 1, phase).0;
    for (former, run, phase, reason) in [
        (ready(), "run-1", DatasetPhase::Pending, "VersionCreated"),
        (ended(&prepared("two", false)), "run-2", DatasetPhase::Blocked, "ExpectationsFailed"),
        // When the next try is due is told from this phase.
        (ended(&failed()), "run-2", DatasetPhase::Failed, "RunFailed"),
    ] {
        let mut dataset = Dataset::new("tx", serde_json::from_value(spec()).unwrap());
        dataset.metadata.generation = Some(2);
        dataset.status = Some(former.clone());
        let covered = refused(&dataset, &Error::Blocked("exceeded quota".to_owned()), NOON.parse().unwrap());
        assert_eq!((covered.phase, covered.observed_generation, current(&covered)), (Some(phase), 2, Some(1)));
        assert_eq!(shown(&covered)[0], (READY, "False", "ChildRefused"));
        assert_eq!(find(&covered.conditions, RECONCILING).map(|c| c.message.as_str()), Some("exceeded quota"));
        let (written, _) = after(&covered, "run-3", 2, &Phase::Wanted);
        assert_eq!(shown(&written)[0], (READY, "False", "Preparing"));
        let (back, told) = after(&covered, run, 3, &Phase::Settled);
        assert_eq!((back.phase, told), (former.phase, None));
        assert_eq!(shown(&back)[0].2, reason);
        assert!(find(&back.conditions, RECONCILING).is_none());
    }
}

fn spec() -> serde_json::Value {
    serde_json::json!({"source": {"files": {"uri": "s3://lake/tx/", "format": "CSV"}}})
}
