//! Tests of drift and of the training that follows, in the whole decision.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::Time};
use millrace_contract::{
    Digest,
    decision::Decision,
    sketch::{Bins, Counts, FieldSketch},
};
use millrace_crds::{InferenceService, conditions::DRIFTED, labels::CREATED_BECAUSE};
use serde_json::{Value, json};

use super::*;
use crate::{
    conditions::find,
    inference_service::{
        decide::{Decided, decide, tests::observed},
        fixtures::{approved, at, service, serving, settings, spec},
        observe::Observed,
        replay::replay,
        retraining::Sources,
    },
};

/// `fraud-1` serves and is watched; what was written is read by the next look.
struct Watch {
    service: InferenceService,
    observed: Observed,
    /// Rows served so far, by the bins of their only feature.
    served: [u64; 2],
}

impl Watch {
    fn new() -> Self {
        let mut spec = spec("fraud");
        spec.monitoring = serde_json::from_value(json!({"drift": {"windowSeconds": 60, "minSamples": 100}})).unwrap();
        spec.retraining =
            serde_json::from_value(json!({"from": {"trainingJob": "template"}, "triggers": ["Drift"]})).unwrap();
        let mut service = service("svc", spec);
        let status = serving(&approved("fraud", 1));
        let alone = vec![approved("fraud", 1)];
        let observed = Observed { versions: alone.clone(), recorded: alone, sources: sources(), ..observed(&status) };
        service.status = Some(status);
        Self { service, observed, served: [0, 0] }
    }

    fn look(&mut self, second: i64) -> Decided {
        let sketches = self.observed.pods[0].sketches.as_mut().unwrap();
        sketches.rows = self.served.iter().sum();
        sketches.features = vec![FieldSketch {
            name: "amount".to_owned(),
            bins: Bins::Numeric { edges: vec![0.0] },
            reference: Some(Counts { bins: vec![5_000, 5_000], missing: 0 }),
            current: Counts { bins: self.served.to_vec(), missing: 0 },
        }];
        let decided = decide(&self.service, &self.observed, &settings(), at(second));
        if let Some(text) = decided.monitoring.clone() {
            self.observed.monitoring = Some(map(BTreeMap::from([(MONITORING_KEY.to_owned(), text)])));
        }
        if let Some(records) = decided.records.clone() {
            self.observed.records = Some(map(records));
        }
        self.service.status = Some(decided.status.clone());
        decided
    }

    /// Changes what is stored of the windows.
    fn store(&mut self, change: impl FnOnce(&mut Value)) {
        let data = self.observed.monitoring.as_mut().unwrap().data.as_mut().unwrap();
        let mut windows: Value = serde_json::from_str(&data[MONITORING_KEY]).unwrap();
        change(&mut windows);
        data.insert(MONITORING_KEY.to_owned(), windows.to_string());
    }

    /// A window with these rows; the look after which it is closed.
    fn window(&mut self, number: i64, rows: [u64; 2]) -> Decided {
        self.served = [self.served[0] + rows[0], self.served[1] + rows[1]];
        self.look(number * 60 + 30);
        self.look(number * 60 + 60)
    }
}

fn map(data: BTreeMap<String, String>) -> ConfigMap {
    ConfigMap { data: Some(data), ..ConfigMap::default() }
}

/// There is a template, and newer data than the model was trained on.
fn sources() -> Sources {
    let digest = Digest::of("newer");
    let current = json!({
        "version": 2, "contentDigest": digest, "manifestDigest": digest, "uri": "s3://b/tx", "rows": 1, "bytes": 1,
        "createdTime": "2026-01-01T00:00:00Z",
    });
    Sources {
        template: serde_json::from_value(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "template"},
            "spec": {
                "model": "fraud", "dataset": {"name": "tx"}, "trainer": {"image": "trainer:1"},
                "modelVersion": {"task": "Classification"},
            },
        }))
        .unwrap(),
        dataset: serde_json::from_value(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "tx"},
            "spec": {"source": {"files": {"uri": "s3://b/raw/", "format": "CSV"}}},
            "status": {"observedGeneration": 1, "current": current},
        }))
        .unwrap(),
        serving: Some(approved("fraud", 1)),
        ..Sources::default()
    }
}

fn about(decided: &Decided, question: Question) -> Vec<&Decision> {
    decided.decisions.iter().filter(|decision| decision.question == question).collect()
}

#[test]
fn a_verdict_about_drift_is_recorded_when_it_changes_and_can_be_computed_again() {
    let (good, bad) = ([100, 100], [10, 190]);
    let cases = [
        (good, Some((Verdict::Pass, "NoDrift"))),
        (good, None),
        (bad, None),
        (bad, Some((Verdict::Fail, "InputsDrifted"))),
        (bad, None),
        (good, Some((Verdict::Pass, "NoDrift"))),
    ];
    let mut watch = Watch::new();
    watch.look(0);
    for (number, (rows, expected)) in (0..).zip(cases) {
        let decided = watch.window(number, rows);
        let made = about(&decided, Question::Drift);
        let said: Vec<_> = made.iter().map(|made| (made.verdict, made.reason.as_str())).collect();
        assert_eq!(said, Vec::from_iter(expected), "window {number}");
        let Some(decision) = made.first() else { continue };
        let again = replay(decision, &decided.records.as_ref().unwrap()[&decision.id.to_string()]).unwrap();
        assert_eq!((again.verdict, again.differences), (decision.verdict, Vec::new()), "window {number}");
        let condition = find(&decided.status.conditions, DRIFTED).unwrap();
        let names_it = condition.message.contains(&format!("since decision {}", decision.id));
        assert!(names_it, "window {number}: {}", condition.message);
    }
}

#[test]
fn a_training_for_drift_names_the_decision_that_says_so() {
    let mut watch = Watch::new();
    watch.look(0);
    watch.window(0, [10, 190]);
    let raised = watch.window(1, [10, 190]);
    let decision = about(&raised, Question::Drift)[0].id;
    assert_eq!(raised.job, None, "the status does not have the decision yet");
    let started = watch.look(121);
    let job = started.job.as_ref().unwrap();
    let named = format!("(decision {decision})");
    let because = &job.metadata.annotations.as_ref().unwrap()[CREATED_BECAUSE];
    assert!(because.contains(&named), "{because}");
    let told = about(&started, Question::Retrain)[0];
    assert!(told.reason == "Started" && told.message.contains(&named), "{told:?}");
}

#[test]
fn a_verdict_that_a_crash_kept_from_the_status_is_told_by_the_next_look() {
    let mut watch = Watch::new();
    watch.look(0);
    watch.window(0, [10, 190]);
    watch.served = [20, 380];
    watch.look(90);
    let status = watch.service.status.clone();
    let lost = watch.look(120);
    watch.service.status = status;
    let told = watch.look(121);
    let (lost, again) = (about(&lost, Question::Drift), about(&told, Question::Drift));
    assert_eq!((lost.len(), again.len()), (1, 1));
    assert_eq!((again[0].id, &again[0].checks), (lost[0].id, &lost[0].checks));
    assert_eq!(told.told.iter().filter(|told| told.reason == Happened::Drifted).count(), 1);
    let inputs = &watch.observed.records.as_ref().unwrap().data.as_ref().unwrap()[&again[0].id.to_string()];
    assert_eq!(replay(again[0], inputs).unwrap().differences, Vec::<String>::new());
    assert!(about(&watch.look(122), Question::Drift).is_empty(), "it is told once");
}

/// Drift is raised and recorded, and no verdict is kept of it: as an earlier release left it.
fn raised_by_an_earlier_release() -> Watch {
    let mut watch = Watch::new();
    watch.look(0);
    watch.window(0, [10, 190]);
    watch.window(1, [10, 190]);
    watch.store(|windows| assert!(windows.as_object_mut().unwrap().remove("verdict").is_some()));
    watch.service.status.as_mut().unwrap().retraining = None;
    watch.observed.records = None;
    watch
}

/// As that, and the history does not tell of it any more.
fn raised_and_forgotten() -> Watch {
    let mut watch = raised_by_an_earlier_release();
    watch.service.status.as_mut().unwrap().history.clear();
    watch
}

#[test]
fn drift_that_an_earlier_release_recorded_keeps_its_decision() {
    let mut watch = raised_by_an_earlier_release();
    let recorded = watch.service.status.as_ref().unwrap().history[0].clone();
    assert_eq!((recorded.question, recorded.verdict), (Question::Drift, Verdict::Fail));
    let first = watch.look(121);
    assert_eq!(about(&first, Question::Drift).len(), 0);
    let because = &first.job.as_ref().unwrap().metadata.annotations.as_ref().unwrap()[CREATED_BECAUSE];
    assert!(because.contains(&format!("(decision {})", recorded.id)), "{because}");
    assert_eq!(about(&watch.look(122), Question::Drift).len(), 0);
}

#[test]
fn a_training_names_its_decision_also_where_the_newest_window_is_too_small_to_name_a_feature() {
    let mut watch = raised_by_an_earlier_release();
    watch.store(|windows| windows["newest"]["features"] = json!([]));
    let started = watch.look(121);
    assert!(about(&started, Question::Retrain)[0].message.starts_with("inputs of svc drifted: (decision "));
}

#[test]
fn a_decision_that_tells_of_something_else_is_none_about_drift_that_was_raised_before() {
    type Change = fn(&mut Decision);
    let cases: [(&str, Change); 4] = [
        ("of an earlier time", |known| known.time = at(59).to_string()),
        ("of another version", |known| "fraud-0".clone_into(&mut known.subject)),
        ("that it is over", |known| known.verdict = Verdict::Pass),
        ("of a training", |known| known.question = Question::Retrain),
    ];
    for (case, change) in cases {
        let mut watch = raised_by_an_earlier_release();
        change(&mut watch.service.status.as_mut().unwrap().history[0]);
        let recorded = [121, 122].map(|second| about(&watch.look(second), Question::Drift).len());
        assert_eq!(recorded, [1, 0], "{case}");
    }
}

#[test]
fn drift_of_a_version_that_serves_no_more_is_neither_recorded_nor_trained_for() {
    let mut watch = raised_and_forgotten();
    let status = serving(&approved("fraud", 2));
    let monitoring = watch.observed.monitoring.take();
    watch.observed = Observed { monitoring, sources: sources(), ..observed(&status) };
    watch.service.status = Some(status);
    for second in [121, 122] {
        let decided = watch.look(second);
        assert_eq!((about(&decided, Question::Drift).len(), decided.job.is_some()), (0, false), "at {second}");
    }
}

#[test]
fn raised_drift_that_the_history_does_not_tell_of_is_recorded_at_once_and_a_training_starts_for_it_once() {
    let mut watch = raised_and_forgotten();
    let first = watch.look(121);
    let told = about(&first, Question::Drift);
    let said: Vec<_> = told.iter().map(|made| (made.verdict, &*made.reason, made.checks.len())).collect();
    assert_eq!(said, [(Verdict::Fail, "InputsDrifted", 0)]);
    assert!(told[0].message.contains(": amount (PSI "), "{}", told[0].message);
    assert_eq!((first.job.is_some(), first.records.is_some()), (false, false), "nothing can be computed again");

    let mut started = watch.look(122);
    let mut job = started.job.take().unwrap();
    let because = &job.metadata.annotations.as_ref().unwrap()[CREATED_BECAUSE];
    assert!(because.contains(&format!("(decision {})", told[0].id)), "{because}");
    job.metadata.creation_timestamp = Some(Time(at(122)));
    watch.observed.sources.jobs = vec![job];
    for second in [123, 124] {
        let later = watch.look(second);
        let again = (about(&later, Question::Drift).len(), about(&later, Question::Retrain).len(), later.job.is_some());
        assert_eq!(again, (0, 0, false), "at {second}");
    }
}

#[test]
fn raised_drift_that_a_crash_kept_from_the_status_once_more_is_recorded_by_the_next_look() {
    let mut watch = raised_and_forgotten();
    let status = watch.service.status.clone();
    watch.look(121);
    watch.service.status = status;
    assert_eq!(about(&watch.look(122), Question::Drift).len(), 1);
    assert_eq!(about(&watch.look(123), Question::Drift).len(), 0);
}
