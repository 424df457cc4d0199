//! Tests of the users' own checks.

use millrace_contract::decision::Verdict;
use millrace_crds::inference_service::InferenceServiceStatus;
use serde_json::{Value, json};

use super::*;
use crate::inference_service::fixtures::{approved, at, rolling_out};

fn metric(more: Value) -> Metric {
    let mut metric = json!({"name": "recall"});
    metric.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(metric).unwrap()
}

fn query(more: Value) -> Metric {
    let mut query = json!({"prometheus": {"address": "http://p", "query": "x{a=\"{{service}}\",r=\"{{canary}}\"} / {{stable}} {{namespace}}"}});
    query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    metric(query)
}

fn by_job(more: Value) -> Metric {
    let mut job = json!({"job": {"image": "smoke:1"}});
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    metric(job)
}

fn status(weight: i32) -> InferenceServiceStatus {
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), weight);
    if let Some(rollout) = &mut status.rollout {
        rollout.step_start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    }
    status
}

fn asked(metrics: &[Metric], measured: &Measurements, weight: i32, second: i64) -> Vec<(String, Ask)> {
    let status = status(weight);
    let pair = Pair::of(&status).unwrap();
    due(metrics, measured, Subject { service: ("shop", "fraud"), pair: &pair }, at(second))
}

/// The measurement that a check is at, and whether its Job is to be there.
fn run_at(metrics: &[Metric], measured: &Measurements, status: &InferenceServiceStatus, second: i64) -> (Run, bool) {
    let pair = Pair::of(status).unwrap();
    let subject = Subject { service: ("shop", "fraud"), pair: &pair };
    let run = runs(metrics, measured, subject).remove(0);
    let due = due_runs(metrics, measured, subject, at(second));
    assert!(due.is_empty() || due == [run.clone()], "{due:?}");
    (run, !due.is_empty())
}

fn counted(metrics: &[Metric], answers: &[Answer]) -> Measurements {
    let mut measured = Measurements::new();
    for answer in answers {
        count(metrics, &mut measured, 5, &[("recall".to_owned(), answer.clone())], at(10));
    }
    measured
}

#[test]
fn a_query_names_the_revisions_and_a_webhook_is_told_them() {
    let status = status(5);
    let (canary, stable) = (status.canary.unwrap().revision, status.stable.unwrap().revision);
    let expected = Ask::Query {
        address: "http://p".to_owned(),
        query: format!("x{{a=\"fraud\",r=\"{canary}\"}} / {stable} shop"),
        seconds: 2,
    };
    assert_eq!(asked(&[query(json!({"max": 1.0}))], &Measurements::new(), 5, 0), [("recall".to_owned(), expected)]);
    let webhook = metric(json!({"webhook": {"url": "http://w/x", "timeoutSeconds": 3}}));
    let (_, ask) = asked(&[webhook], &Measurements::new(), 5, 0).remove(0);
    let Ask::Post { url, body, seconds } = ask else { panic!("{ask:?}") };
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((url.as_str(), seconds), ("http://w/x", 3));
    assert_eq!(
        (&body["canary"], &body["weight"], &body["modelVersion"]),
        (&json!(canary), &json!(5), &json!("fraud-2"))
    );
}

#[test]
fn it_is_asked_when_its_pause_is_over_and_at_once_at_a_new_share() {
    let metrics = [query(json!({"max": 1.0, "intervalSeconds": 30}))];
    let measured = counted(&metrics, &[Ok(0.5)]);
    let cases = [(5, 39, 0), (5, 40, 1), (20, 11, 1)];
    for (weight, second, expected) in cases {
        assert_eq!(asked(&metrics, &measured, weight, second).len(), expected, "{weight} % at {second}");
    }
}

#[test]
fn good_and_bad_measurements_decide_and_no_data_does_not() {
    let nothing: Answer = Err("the query returns nothing".to_owned());
    let good_twice = json!({"min": 0.9, "max": 1.0, "successCount": 2, "failureLimit": 1});
    let cases = [
        (query(good_twice.clone()), vec![], Verdict::Unknown),
        (query(good_twice.clone()), vec![Ok(0.95)], Verdict::Unknown),
        (query(good_twice.clone()), vec![Ok(0.9), Ok(1.0)], Verdict::Pass),
        (query(good_twice.clone()), vec![Ok(0.95), Ok(0.95), Ok(0.5)], Verdict::Unknown),
        (query(good_twice.clone()), vec![Ok(0.95), Ok(0.95), nothing.clone()], Verdict::Unknown),
        (query(good_twice.clone()), vec![Ok(0.5), Ok(1.5)], Verdict::Fail),
        (query(good_twice), vec![Ok(f64::NAN), nothing, Ok(f64::NAN)], Verdict::Unknown),
        (query(json!({"max": 1.0})), vec![Ok(f64::INFINITY)], Verdict::Fail),
        (query(json!({"min": 1.0})), vec![Ok(f64::INFINITY)], Verdict::Unknown),
        (query(json!({"min": 1.0})), vec![Ok(2.0), Ok(f64::INFINITY)], Verdict::Unknown),
        (metric(json!({"webhook": {"url": "http://w"}})), vec![Ok(1.0)], Verdict::Pass),
        (metric(json!({"webhook": {"url": "http://w"}})), vec![Ok(0.0)], Verdict::Fail),
        (by_job(json!({})), vec![Ok(1.0)], Verdict::Pass),
        (by_job(json!({})), vec![Ok(0.0)], Verdict::Fail),
    ];
    for (metric, answers, expected) in cases {
        let metrics = [metric];
        let measured = counted(&metrics, &answers);
        let check = checks(&metrics, &measured, 5).remove(0);
        assert_eq!(check.verdict, expected, "{answers:?}: {}", check.message);
        let stored: Measurements = serde_json::from_str(&serde_json::to_string(&measured).unwrap()).unwrap();
        assert_eq!(checks(&metrics, &stored, 5), [check], "what is stored says the same");
    }
}

#[test]
fn a_dry_run_is_shown_and_a_check_that_left_the_spec_forgotten() {
    let dry = [query(json!({"max": 1.0, "dryRun": true}))];
    let mut measured = counted(&dry, &[Ok(2.0)]);
    let check = checks(&dry, &measured, 5).remove(0);
    assert_eq!(
        check.message,
        "dry run, decides nothing: 2.0000, at most 1 is good; 0 good of 1 at this share, 1 bad in all"
    );
    count(&[], &mut measured, 5, &[], at(11));
    assert!(measured.is_empty());
}

#[test]
fn a_job_is_told_what_it_measures_and_the_operator_asks_nobody() {
    let metrics = [by_job(json!({"job": {"image": "smoke:1", "timeoutSeconds": 60}}))];
    let status = status(5);
    let (run, is_due) = run_at(&metrics, &Measurements::new(), &status, 0);
    let (canary, stable) = (status.canary.unwrap(), status.stable.unwrap());
    let expected = Run {
        name: run.name.clone(),
        check: "recall".to_owned(),
        job: metrics[0].job.clone().unwrap(),
        canary: canary.revision,
        stable: stable.revision,
        model_version: "fraud-2".to_owned(),
        weight: 5,
    };
    assert_eq!((&run, is_due), (&expected, true));
    assert!(run.name.starts_with("fraud-check-") && run.name.len() == 20, "{}", run.name);
    assert!(asked(&metrics, &Measurements::new(), 5, 0).is_empty());
}

#[test]
fn a_job_keeps_its_name_until_it_is_counted_and_no_other_has_it() {
    let metrics = [by_job(json!({}))];
    let mut measured = Measurements::new();
    let (first, _) = run_at(&metrics, &measured, &status(5), 0);
    count_runs(&metrics, &mut measured, 5, &[(first.clone(), Found::Runs(None))], at(1));
    assert_eq!(run_at(&metrics, &measured, &status(5), 2).0, first, "the operator was killed, and made it before");
    let mut again = status(5);
    again.rollout.as_mut().unwrap().start_time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(9));
    let corrected = [by_job(json!({"job": {"image": "smoke:2"}}))];
    let renamed = [by_job(json!({"name": "precision"}))];
    let mut names = vec![
        first.name.clone(),
        run_at(&metrics, &measured, &status(20), 2).0.name,
        run_at(&metrics, &measured, &again, 2).0.name,
        run_at(&corrected, &measured, &status(5), 2).0.name,
        run_at(&renamed, &measured, &status(5), 2).0.name,
    ];
    count_runs(&metrics, &mut measured, 5, &[(first, Found::Ended(Ok(1.0)))], at(3));
    names.push(run_at(&metrics, &measured, &status(5), 4).0.name);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 6);
}

#[test]
fn a_job_counts_once_when_it_has_ended_and_says_meanwhile_what_it_waits_for() {
    let metrics = [by_job(json!({"intervalSeconds": 30, "failureLimit": 1}))];
    let no_room = || Found::Runs(Some("no node has room".to_owned()));
    let late = Found::Ended(Err("the Job j had no answer within 300 s".to_owned()));
    let (open, pass) = (Verdict::Unknown, Verdict::Pass);
    // What there is, at which second; what is said then, and whether the Job of the next measurement is to be there.
    let steps = [
        (0, Found::Absent, open, true, "was not measured yet; 0 good", 0),
        (2, Found::Runs(None), open, true, "the Job j runs; 0 good", 0),
        (4, no_room(), open, true, "no data: the Job j can't start: no node has room; 0 good", 0),
        (300, late, open, false, "no data: the Job j had no answer within 300 s; no node has room; 0 good", 0),
        (329, Found::Absent, open, false, "no data: the Job j had no answer within 300 s; no node has room; 0 good", 0),
        (330, Found::Absent, open, true, "no data: the Job j had no answer within 300 s; no node has room; 0 good", 0),
        (332, Found::Ended(Ok(1.0)), pass, false, "the Job j says yes; 1 good", 0),
        (362, Found::Runs(None), pass, true, "the Job j says yes; the Job j runs; 1 good", 0),
        (364, no_room(), open, true, "no data: the Job j can't start: no node has room; 1 good", 0),
        (366, Found::Absent, pass, true, "the Job j says yes; 1 good", 0),
        (368, Found::Ended(Ok(0.0)), open, false, "the Job j says no; 1 good", 1),
        (398, Found::Ended(Ok(0.0)), Verdict::Fail, false, "the Job j says no; 1 good", 2),
    ];
    let mut measured = Measurements::new();
    for (second, found, verdict, is_due, said, bad) in steps {
        let (run, _) = run_at(&metrics, &measured, &status(5), second);
        let run = Run { name: "j".to_owned(), ..run };
        count_runs(&metrics, &mut measured, 5, &[(run, found)], at(second));
        // As it is stored between two looks.
        measured = serde_json::from_str(&serde_json::to_string(&measured).unwrap()).unwrap();
        let check = checks(&metrics, &measured, 5).remove(0);
        let message = format!("{said} of 1 at this share, {bad} bad in all");
        assert_eq!((check.verdict, check.message), (verdict, message), "at {second}");
        assert_eq!(run_at(&metrics, &measured, &status(5), second).1, is_due, "at {second}");
    }
}

#[test]
fn evidence_of_an_earlier_release_knows_of_no_job() {
    let stored = json!({"weight": 5, "good": 1, "bad": 0, "value": 1.0, "trouble": null, "time": null});
    let read: Measured = serde_json::from_value(stored).unwrap();
    assert_eq!(read, Measured { weight: 5, good: 1, value: Some(1.0), ..Measured::default() });
}

#[test]
fn a_job_that_is_refused_is_no_data_until_one_is_made_and_is_asked_for_now_and_then() {
    let by = |image: &str, interval: i64| [by_job(json!({"job": {"image": image}, "intervalSeconds": interval}))];
    let (often, seldom, corrected) = (by("smoke:1", 10), by("smoke:1", 3_600), by("smoke:2", 3_600));
    let mut measured = Measurements::new();
    let (passed, _) = run_at(&often, &measured, &status(5), 0);
    count_runs(&often, &mut measured, 5, &[(passed, Found::Ended(Ok(1.0)))], at(0));
    let (run, _) = run_at(&often, &measured, &status(5), 5_000);
    refused(&mut measured, &run, "the Job j is forbidden: exceeded quota", at(5_000));
    // As it is stored between two looks.
    let stored = serde_json::to_string(&measured).unwrap();
    measured = serde_json::from_str(&stored).unwrap();
    let check_of = |measured: &Measurements| {
        let check = checks(&often, measured, 5).remove(0);
        (check.verdict, check.message.split("; ").next().unwrap_or_default().to_owned())
    };
    let told = (Verdict::Unknown, "no data: the Job j is forbidden: exceeded quota".to_owned());
    assert_eq!(check_of(&measured), told, "what passed before does not pass a step now");
    for (metrics, weight, second, is_due) in [
        (&often, 5, 5_009, false),
        (&often, 5, 5_010, true),
        (&seldom, 5, 5_059, false),
        (&seldom, 5, 5_060, true),
        (&corrected, 5, 5_001, true),
        (&often, 20, 5_001, true),
    ] {
        assert_eq!(run_at(metrics, &measured, &status(weight), second).1, is_due, "{weight} % at {second}");
    }
    count_runs(&often, &mut measured, 5, &[(run.clone(), Found::Absent)], at(5_010));
    assert_eq!(check_of(&measured), told, "it was not made yet");
    assert_eq!(run_at(&often, &measured, &status(5), 5_010).0, run, "it was never counted, and keeps its name");
    count_runs(&often, &mut measured, 5, &[(run, Found::Runs(None))], at(5_012));
    assert_eq!(check_of(&measured).0, Verdict::Pass);
}
