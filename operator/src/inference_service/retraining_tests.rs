//! Tests of the decision to train.

use serde_json::{Value, json};

use super::*;
use crate::inference_service::fixtures::{approved, at};

fn digest(of: &str) -> Digest {
    Digest::of(of)
}

fn training_job(name: &str, uid: &str) -> TrainingJob {
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {
            "name": name, "namespace": "default", "uid": uid,
            "labels": {"argocd.argoproj.io/instance": "app"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "spec": {
            "model": "fraud", "dataset": {"name": "tx"}, "trainer": {"image": "trainer:1"},
            "hyperparameters": {"depth": "6"}, "suspend": true,
            "modelVersion": {"task": "Classification"},
        },
    }))
    .unwrap()
}

fn dataset(current: Option<&str>) -> Dataset {
    let current = current.map(|content| {
        json!({
            "version": 1, "contentDigest": digest(content), "manifestDigest": digest(content), "uri": "s3://b/tx",
            "rows": 1, "bytes": 1, "createdTime": "2026-01-01T00:00:00Z",
        })
    });
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "tx"},
        "spec": {"source": {"files": {"uri": "s3://b/raw/", "format": "CSV"}}},
        "status": {"observedGeneration": 1, "current": current},
    }))
    .unwrap()
}

/// `fraud-1` serves; the job `train` made it from the content "data", with the spec of the template.
fn sources(current: Option<&str>) -> Sources {
    Sources {
        template: Some(training_job("template", "t0")),
        dataset: Some(dataset(current)),
        jobs: Vec::new(),
        serving: Some(approved("fraud", 1)),
        source: Some(training_job("train", "t1")),
    }
}

fn retraining(triggers: Value) -> Retraining {
    serde_json::from_value(json!({"from": {"trainingJob": "template"}, "triggers": triggers, "cooldownSeconds": 100}))
        .unwrap()
}

fn answer(
    triggers: Value,
    sources: &Sources,
    drifted: Option<&str>,
    status: Option<&RetrainingStatus>,
    now: i64,
) -> Answer {
    let spec = retraining(triggers);
    decide(&Question { service: ("default", "svc"), spec: &spec, status, sources, drifted, now: at(now) })
}

fn word(answer: &Answer) -> &str {
    match answer {
        Answer::Idle => "idle",
        Answer::Skip { reason, .. } => reason,
        Answer::Start { .. } => "start",
    }
}

fn ended(name: &str, phase: &str, version: Option<&str>) -> TrainingJob {
    let mut job = training_job(name, "t9");
    job.status = Some(serde_json::from_value(json!({"phase": phase, "modelVersion": version})).unwrap());
    job
}

#[test]
fn a_trigger_starts_a_training_only_where_there_is_something_to_learn() {
    let both = || json!(["Drift", "Dataset"]);
    let (old, new, none) = (sources(Some("data")), sources(Some("newer")), sources(None));
    let cases = [
        ("new data", json!(["Dataset"]), &new, None, "start"),
        ("the same data", json!(["Dataset"]), &old, None, "idle"),
        ("drift, new data", json!(["Drift"]), &new, Some("amount"), "start"),
        ("drift, the same data", both(), &old, Some("amount"), "NothingChanged"),
        ("new data is no trigger", json!(["Drift"]), &new, None, "idle"),
        ("drift is no trigger", json!(["Dataset"]), &old, Some("amount"), "idle"),
        ("no data yet", both(), &none, Some("amount"), "DatasetNotReady"),
    ];
    for (case, triggers, sources, drifted, expected) in cases {
        assert_eq!(word(&answer(triggers, sources, drifted, None, 0)), expected, "{case}");
    }
}

#[test]
fn what_keeps_retraining_from_working_is_a_condition() {
    let without_template = Sources { template: None, ..sources(Some("newer")) };
    let mut external = sources(Some("newer"));
    if let Some(serving) = &mut external.serving {
        serving.spec.source.training_job = None;
    }
    let cases = [
        ("no template", json!(["Dataset"]), without_template, ("False", "TemplateNotFound", "create it")),
        ("no version", json!(["Drift"]), sources(None), ("False", "DatasetNotReady", "no version yet")),
        ("made elsewhere", json!(["Dataset"]), external.clone(), ("False", "ExternalModel", "can't fire")),
        ("made elsewhere, by drift only", json!(["Drift"]), external, ("True", "Ready", "")),
        ("all is there", json!(["Dataset"]), sources(Some("data")), ("True", "Ready", "")),
    ];
    for (case, triggers, sources, expected) in cases {
        let told = status(None, &answer(triggers, &sources, None, None, 0), &[], at(0));
        let found = said(Some(&told)).unwrap();
        let (is, reason, words) = expected;
        assert_eq!((found.0.as_str(), found.1.as_str()), (is, reason), "{case}");
        assert!(found.2.contains(words), "{case}: {}", found.2);
    }
    assert_eq!(said(None), None);
}

#[test]
fn the_same_data_with_another_template_is_a_change() {
    let mut sources = sources(Some("data"));
    if let Some(template) = &mut sources.template {
        template.spec.hyperparameters.insert("depth".to_owned(), "7".to_owned());
    }
    assert_eq!(word(&answer(json!(["Drift"]), &sources, Some("amount"), None, 0)), "start");
}

#[test]
fn suspending_or_pinning_the_template_is_no_change() {
    let mut sources = sources(Some("data"));
    if let Some(template) = &mut sources.template {
        template.spec.suspend = false;
        template.spec.dataset.content_digest = Some(digest("elsewhere"));
    }
    assert_eq!(word(&answer(json!(["Drift"]), &sources, Some("amount"), None, 0)), "NothingChanged");
}

#[test]
fn where_the_job_that_trained_it_is_gone_its_hyperparameters_stand_for_it() {
    let mut sources = Sources { source: None, ..sources(Some("data")) };
    assert_eq!(word(&answer(json!(["Drift"]), &sources, Some("amount"), None, 0)), "start");
    if let Some(trained) = sources.serving.as_mut().and_then(|version| version.spec.source.training_job.as_mut()) {
        trained.hyperparameters.insert("depth".to_owned(), "6".to_owned());
    }
    assert_eq!(word(&answer(json!(["Drift"]), &sources, Some("amount"), None, 0)), "NothingChanged");
}

#[test]
fn one_training_at_a_time_and_none_twice() {
    let Answer::Start { job, .. } = answer(json!(["Dataset"]), &sources(Some("newer")), None, None, 0) else {
        panic!("starts")
    };
    let name = job.name_any();
    let with = |job: TrainingJob| Sources { jobs: vec![job], ..sources(Some("newer")) };
    let mut leaving = ended("svc-r0", "Running", None);
    leaving.metadata.deletion_timestamp = Some(Time(at(0)));
    let cases = [
        ("one runs", with(ended("svc-r0", "Running", None)), "Running"),
        ("one has just been made", with(training_job("svc-r0", "t9")), "Running"),
        ("another one ended", with(ended("svc-r0", "Succeeded", Some("fraud-2"))), "start"),
        ("another one is being deleted", with(leaving), "start"),
        ("this one ended well", with(ended(&name, "Succeeded", Some("fraud-2"))), "AlreadyTrained"),
        ("this one failed", with(ended(&name, "Failed", None)), "AlreadyTrained"),
    ];
    for (case, sources, expected) in cases {
        let told = status(None, &Answer::Idle, &sources.jobs, at(0));
        let told = RetrainingStatus { last_start_time: None, ..told };
        assert_eq!(word(&answer(json!(["Dataset"]), &sources, None, Some(&told), 0)), expected, "{case}");
    }
}

#[test]
fn after_a_start_there_is_a_pause() {
    let started = RetrainingStatus { last_start_time: Some(Time(at(0))), ..RetrainingStatus::default() };
    let cooling = answer(json!(["Dataset"]), &sources(Some("newer")), None, Some(&started), 99);
    assert!(
        matches!(cooling, Answer::Skip { reason: "CoolingDown", until: Some(until), .. } if until == at(100)),
        "{cooling:?}"
    );
    assert_eq!(word(&answer(json!(["Dataset"]), &sources(Some("newer")), None, Some(&started), 100)), "start");
}

#[test]
fn the_job_says_why_it_exists_and_copies_nobodys_marks() {
    let Answer::Start { job, because } =
        answer(json!(["Drift"]), &sources(Some("newer")), Some("amount (PSI 0.31)"), None, 0)
    else {
        panic!("starts")
    };
    assert_eq!(because, "inputs of svc drifted: amount (PSI 0.31)");
    let TrainingJob { metadata, spec, .. } = *job;
    let text = |pairs: &[(&str, &str)]| Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    assert_eq!(
        metadata.labels,
        text(&[("millrace.dev/inference-service", "svc"), ("app.kubernetes.io/managed-by", "millrace")])
    );
    assert_eq!(
        metadata.annotations,
        text(&[("millrace.dev/retraining-for", "svc"), ("millrace.dev/created-because", because.as_str())])
    );
    assert_eq!(metadata.owner_references, None);
    assert!(!spec.suspend);
    assert_eq!(spec.dataset.content_digest, Some(digest("newer")));
    assert_eq!(spec.trainer.image, "trainer:1");
}

#[test]
fn the_name_tells_the_data_and_the_template_and_fits() {
    let template = training_job("template", "t0");
    let name = job_name("svc", &template, &digest("newer"));
    assert!(name.starts_with("svc-r") && name.len() == 13, "{name}");
    assert_eq!(name, job_name("svc", &template, &digest("newer")));
    assert_ne!(name, job_name("svc", &template, &digest("other")));
    let mut other = template.clone();
    other.spec.trainer.image = "trainer:2".to_owned();
    assert_ne!(name, job_name("svc", &other, &digest("newer")));
    let long = job_name(&"s".repeat(40), &template, &digest("newer"));
    assert_eq!(long.len(), MAX_NAME);
    assert_ne!(long, job_name(&format!("{}t", "s".repeat(39)), &template, &digest("newer")));
}

#[test]
fn the_status_keeps_the_last_job_and_tells_the_last_answer() {
    let started = answer(json!(["Dataset"]), &sources(Some("newer")), None, None, 0);
    let first = status(None, &started, &[], at(5));
    assert_eq!((first.reason.as_deref(), first.last_start_time.clone()), (Some("Started"), Some(Time(at(5)))));
    let then = status(Some(&first), &Answer::Idle, &[], at(9));
    assert_eq!((then.reason.as_deref(), &then.training_job), (Some("Idle"), &first.training_job));
}

#[test]
fn a_start_that_a_crash_kept_from_being_told_is_told_once() {
    let Answer::Start { job: made, because } = answer(json!(["Dataset"]), &sources(Some("newer")), None, None, 0)
    else {
        panic!("starts")
    };
    // The Dataset has moved on since.
    let sources = Sources { jobs: vec![(*made).clone()], ..sources(Some("newest")) };
    let again = answer(json!(["Dataset"]), &sources, None, None, 5);
    assert_eq!(again, Answer::Start { job: made, because });
    let told = status(None, &again, &sources.jobs, at(5));
    assert_eq!(word(&answer(json!(["Dataset"]), &sources, None, Some(&told), 6)), "Running");
}

#[test]
fn of_two_jobs_of_one_second_the_one_that_runs_is_the_newest_and_stays_it() {
    let (failed, mut second) = (ended("svc-r9", "Failed", None), ended("svc-r1", "Running", None));
    let told = |jobs: &[TrainingJob], former: &RetrainingStatus| status(Some(former), &Answer::Idle, jobs, at(0));
    let first = told(std::slice::from_ref(&failed), &RetrainingStatus::default());
    assert_eq!(first.training_job.as_deref(), Some("svc-r9"));
    let runs = told(&[second.clone(), failed.clone()], &first);
    assert_eq!(runs.training_job.as_deref(), Some("svc-r1"));
    second = ended("svc-r1", "Succeeded", Some("fraud-2"));
    assert_eq!(told(&[second, failed], &runs).training_job.as_deref(), Some("svc-r1"));
}

#[test]
fn a_job_whose_start_was_never_told_still_counts() {
    let mut made = ended("svc-r0", "Succeeded", Some("fraud-2"));
    made.metadata.creation_timestamp = Some(Time(at(10)));
    let sources = Sources { jobs: vec![made], ..sources(Some("newer")) };
    assert_eq!(word(&answer(json!(["Dataset"]), &sources, None, None, 109)), "CoolingDown");
    assert_eq!(word(&answer(json!(["Dataset"]), &sources, None, None, 110)), "start");
    let told = status(None, &Answer::Idle, &sources.jobs, at(50));
    assert_eq!((told.training_job.as_deref(), told.last_start_time), (Some("svc-r0"), Some(Time(at(10)))));
}
