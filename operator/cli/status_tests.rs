use serde_json::{Value, json};

use super::*;
use crate::fixtures::{condition, dataset, dataset_version, model_version, service, training_job};

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn shown(chain: &Chain, name: Option<&str>) -> String {
    render(chain, name, false, now()).unwrap()
}

fn revision(version: &str, hash: &str, intended: i32, measured: f64) -> Value {
    json!({
        "modelVersion": version, "revision": hash, "image": "server:1", "digest": null, "replicas": 2, "ready": 2, "loaded": 2,
        "weight": {"intended": intended, "accepted": intended, "measured": measured},
    })
}

fn approved() -> Value {
    json!({
        "phase": "Approved", "conditions": [condition("Ready", "True", "GatesPassed", "every gate passed")],
        "gates": [{"name": "accuracy", "verdict": "Pass", "samples": 2000, "message": "0.912 reaches 0.9"}],
    })
}

fn trained(version: &str) -> TrainingJob {
    let mut job = training_job(
        "train",
        json!({
            "phase": "Succeeded", "modelVersion": version, "conditions": [condition("Ready", "True", "Succeeded", "made a model")],
            "progress": {"percent": 100, "step": 300, "checkpoint": 2, "metrics": {"loss": 0.25}}, "restarts": 1,
            "resolved": {"contentDigest": crate::fixtures::digest('1'), "manifestDigest": crate::fixtures::digest('2'), "datasetUri": "s3://b/tx"},
        }),
    );
    job.metadata.uid = Some("t1".to_owned());
    job
}

fn prepared() -> Dataset {
    let status = json!({
        "phase": "Ready", "conditions": [condition("Ready", "True", "Prepared", "version 3 is current")], "current": dataset_version(3, '3'),
        "history": [{"version": 1, "contentDigest": crate::fixtures::digest('1'), "manifestDigest": crate::fixtures::digest('2'), "uri": "s3://b/tx", "rows": 9000, "createdTime": "2026-01-01T00:00:00Z"}],
    });
    dataset("tx", status)
}

fn rolling_out() -> Chain {
    let status = json!({
        "observedGeneration": 1, "phase": "Progressing", "url": "http://flights.team.svc",
        "conditions": [
            condition("Ready", "True", "Serving", "flights-1 serves with 2 ready pods"),
            condition("Drifted", "False", "NoDrift", "no drift in 1200 rows"),
        ],
        "stable": revision("flights-1", "aaaa", 95, 94.8), "canary": revision("flights-2", "bbbb", 5, 5.2),
        "rollout": {
            "startTime": "2026-01-01T00:05:00Z", "step": 0, "verdict": "Unknown",
            "checks": [{"name": "errorRate", "verdict": "Unknown", "samples": 100, "message": "100 of 500 requests"}],
        },
        "nextStep": "waits for 400 more requests",
        "history": [{
            "id": 2, "time": "2026-01-01T00:06:00Z", "question": "Step", "subject": "flights-2", "verdict": "Unknown", "reason": "Paused",
            "message": "flights-2 does not go forward", "decidedBy": "User", "user": "ada",
        }, {
            "id": 1, "time": "2026-01-01T00:05:00Z", "question": "Step", "subject": "flights-2", "verdict": "Pass", "reason": "FirstStep",
            "message": "flights-2 is ready", "decidedBy": "Operator",
        }],
    });
    Chain {
        namespace: "team".to_owned(),
        services: vec![service("flights", "flights", status)],
        versions: vec![
            model_version("flights", 1, approved()),
            model_version("flights", 2, json!({"phase": "Approved"})),
        ],
        jobs: vec![trained("flights-1")],
        datasets: vec![prepared()],
    }
}

#[test]
fn a_rollout_is_shown_from_the_service_down_to_the_data() {
    let expected = "\
InferenceService flights  Progressing  flights-1 serves with 2 ready pods
├─ url  http://flights.team.svc
├─ stable revision aaaa  2/2 pods ready, 2 loaded  weight 95 % intended, 95 % accepted, 94.8 % measured
│  └─ ModelVersion flights-1  Approved  every gate passed
│     ├─ gate accuracy  Pass  0.912 reaches 0.9
│     └─ TrainingJob train  Succeeded  100 %, step 300, checkpoint 2, 1 of 3 restarts used  made a model
│        ├─ the trainer tells: loss 0.2500
│        └─ Dataset tx  Ready  version 1, 11111111, 9000 rows; version 3 is current  version 3 is current
├─ canary revision bbbb  2/2 pods ready, 2 loaded  weight 5 % intended, 5 % accepted, 5.2 % measured
│  └─ ModelVersion flights-2  Approved
│     └─ TrainingJob train  Succeeded  100 %, step 300, checkpoint 2, 1 of 3 restarts used  made a model
│        ├─ the trainer tells: loss 0.2500
│        └─ Dataset tx  Ready  version 1, 11111111, 9000 rows; version 3 is current  version 3 is current
├─ rollout began 5 min ago  step 1 of 3  Unknown
│  └─ check errorRate  Unknown  100 of 500 requests
├─ next:  waits for 400 more requests
├─ drift  NoDrift  no drift in 1200 rows
└─ last decisions
   ├─ 2026-01-01T00:06:00Z Step flights-2  Unknown (Paused, by User ada)  flights-2 does not go forward
   └─ 2026-01-01T00:05:00Z Step flights-2  Pass (FirstStep, by Operator)  flights-2 is ready
";
    assert_eq!(shown(&rolling_out(), None), expected);
}

#[test]
fn a_name_shows_what_has_it_and_every_service_that_rests_on_it() {
    let chain = rolling_out();
    let cases = [
        ("flights", vec!["InferenceService flights"]),
        ("tx", vec!["Dataset tx", "InferenceService flights"]),
        ("tj/train", vec!["TrainingJob train", "InferenceService flights"]),
        ("flights-2", vec!["ModelVersion flights-2", "InferenceService flights"]),
    ];
    for (name, expected) in cases {
        let text = shown(&chain, Some(name));
        let roots: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with(char::is_alphabetic))
            .map(|line| line.split("  ").next().unwrap_or_default())
            .collect();
        assert_eq!(roots, expected, "{name}");
    }
    let said = |name: &str| render(&chain, Some(name), false, now()).unwrap_err();
    assert_eq!(said("dset/flights"), "no Dataset flights in namespace team: choose another with -n");
    assert_eq!(said("pod/flights"), "pod is no kind of Millrace: use isvc, mv, tj or dset");
}

#[test]
fn what_no_service_uses_is_shown_too_and_once() {
    let chain = Chain { services: Vec::new(), ..rolling_out() };
    let mut chain = Chain { datasets: vec![prepared(), dataset("alone", json!({}))], ..chain };
    chain.jobs.push(training_job("waits", json!({"phase": "Suspended"})));
    let text = shown(&chain, None);
    let roots: Vec<_> = text.lines().filter(|line| line.starts_with(char::is_alphabetic)).collect();
    assert_eq!(
        roots,
        [
            "ModelVersion flights-1  Approved  every gate passed",
            "ModelVersion flights-2  Approved",
            "TrainingJob waits  Suspended",
            "Dataset alone  New  no version yet",
        ]
    );
}

#[test]
fn a_service_without_anything_says_why() {
    let status = json!({
        "phase": "Pending", "observedGeneration": 0,
        "conditions": [condition("Ready", "False", "NoApprovedVersion", "model flights has no approved version yet")],
        "rejected": [{"modelVersion": "flights-1", "revision": "aaaa", "reason": "ErrorRate", "message": "too many errors", "time": "2026-01-01T00:00:00Z"}],
    });
    let chain = Chain {
        services: vec![service("flights", "flights", status)],
        versions: vec![
            model_version("flights", 1, approved()),
            model_version(
                "flights",
                2,
                json!({"phase": "Rejected", "conditions": [condition("Stalled", "True", "GateFailed", "0.8 is below 0.9")]}),
            ),
        ],
        ..Chain::default()
    };
    let expected = "\
InferenceService flights  Pending  model flights has no approved version yet  the operator has not looked at the newest spec yet
├─ ModelVersion flights-2  Rejected  0.8 is below 0.9
│  └─ TrainingJob train  does not exist any more
│     └─ Dataset tx  does not exist  version 11111111 of it was used
└─ rejected  ErrorRate  flights-1 (revision aaaa), 10 min ago  too many errors
";
    assert_eq!(shown(&chain, None), expected);
}

#[test]
fn a_blocked_dataset_says_which_expectation_failed() {
    let result = json!({
        "name": "column_values_to_not_be_null", "column": "age", "severity": "Block", "success": false, "elementCount": 10, "unexpectedCount": 3,
        "message": "age: 3 of 10 values are null",
    });
    let blocked = dataset(
        "tx",
        json!({
            "phase": "Blocked", "conditions": [condition("Stalled", "True", "ExpectationFailed", "1 expectation failed")],
            "expectations": {"evaluated": 2, "passed": 1, "failed": 1, "results": [result]},
        }),
    );
    let chain = Chain { datasets: vec![blocked], ..Chain::default() };
    let expected = "\
Dataset tx  Blocked  no version yet  1 expectation failed
└─ expectation  Block  age: 3 of 10 values are null
";
    assert_eq!(shown(&chain, None), expected);
}

#[test]
fn an_empty_namespace_says_so() {
    let chain = Chain { namespace: "team".to_owned(), ..Chain::default() };
    assert_eq!(shown(&chain, None), "nothing of Millrace is in namespace team");
}

#[test]
fn numbers_and_ages_are_short() {
    let numbers = [(0.0, "0"), (0.912_34, "0.9123"), (12.345_67, "12.346"), (12_345.6, "12346"), (-0.5, "-0.5000")];
    for (value, expected) in numbers {
        assert_eq!(number(value), expected);
    }
    for (seconds, expected) in
        [(-5, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7_200, "2 h ago"), (172_800, "2 days ago")]
    {
        assert_eq!(ago(now(), Timestamp::from_second(now().as_second() - seconds).unwrap()), expected);
    }
}
