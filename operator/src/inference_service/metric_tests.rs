//! Tests of the users' own checks.

use millrace_crds::inference_service::InferenceServiceStatus;
use serde_json::Value;

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
        (metric(json!({"webhook": {"url": "http://w"}})), vec![Ok(1.0)], Verdict::Pass),
        (metric(json!({"webhook": {"url": "http://w"}})), vec![Ok(0.0)], Verdict::Fail),
    ];
    for (metric, answers, expected) in cases {
        let metrics = [metric];
        let check = checks(&metrics, &counted(&metrics, &answers), 5).remove(0);
        assert_eq!(check.verdict, expected, "{answers:?}: {}", check.message);
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
