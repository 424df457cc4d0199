//! Tests of the Jobs of checks.

use serde_json::{Value, json};

use super::*;
use crate::inference_service::fixtures::{at, service, settings, spec};

fn run() -> Run {
    let job = json!({"image": "smoke:1", "args": ["--url=$(MILLRACE_CANARY_URL)"], "timeoutSeconds": 60});
    Run {
        name: "fraud-check-0a1b2c3d".to_owned(),
        check: "smoke".to_owned(),
        job: serde_json::from_value(job).unwrap(),
        canary: "bbbb".to_owned(),
        stable: "aaaa".to_owned(),
        model_version: "fraud-2".to_owned(),
        weight: 5,
    }
}

fn made(run: &Run) -> Value {
    serde_json::to_value(job(&service("fraud", spec("fraud")), run, &settings())).unwrap()
}

#[test]
fn a_check_is_run_once_and_an_exit_code_ends_it_unless_it_was_killed() {
    let job = made(&run());
    let labels = json!({
        "millrace.dev/inference-service": "fraud", "millrace.dev/check": "smoke", "millrace.dev/component": "check",
        "app.kubernetes.io/managed-by": "millrace",
    });
    assert_eq!(job["metadata"], json!({"name": "fraud-check-0a1b2c3d", "namespace": "default", "labels": labels}));
    let mut spec = job["spec"].clone();
    assert_eq!(spec["template"]["metadata"], json!({"labels": labels}));
    spec["template"] = json!({});
    let disrupted = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    let answered = json!({
        "action": "FailJob", "onExitCodes": {"containerName": "check", "operator": "NotIn", "values": [137, 143]},
    });
    assert_eq!(
        spec,
        json!({
            "backoffLimit": 0, "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 120,
            "podFailurePolicy": {"rules": [disrupted, answered]}, "template": {},
        })
    );
}

#[test]
fn its_pod_passes_the_restricted_standard_has_no_rights_and_is_told_what_it_is_about() {
    let pod = made(&run())["spec"]["template"]["spec"].clone();
    let env = |name: &str, value: &str| json!({"name": name, "value": value});
    let container = json!({
        "name": "check", "image": "smoke:1", "args": ["--url=$(MILLRACE_CANARY_URL)"],
        "env": [
            env("MILLRACE_SERVICE", "fraud"), env("MILLRACE_NAMESPACE", "default"),
            env("MILLRACE_CANARY", "bbbb"), env("MILLRACE_STABLE", "aaaa"),
            env("MILLRACE_MODEL_VERSION", "fraud-2"), env("MILLRACE_WEIGHT", "5"),
            env("MILLRACE_CHECK", "smoke"), env("MILLRACE_CANARY_URL", "http://fraud-preview.default.svc"),
            env("HOME", "/tmp"),
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    });
    assert_eq!(
        pod,
        json!({
            "automountServiceAccountToken": false, "enableServiceLinks": false, "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container], "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        })
    );
}

#[test]
fn resources_of_the_spec_take_the_place_of_the_small_ones() {
    let mut run = run();
    run.job.resources = Some(serde_json::from_value(json!({"requests": {"cpu": 2}})).unwrap());
    let container = made(&run)["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container["resources"], json!({"requests": {"cpu": "2"}}));
}

/// What there is where the Job has this condition, and the container of its pod this state. Another Job's pod is there, too.
fn found(condition: Option<(&str, &str)>, state: Value) -> Found {
    let conditions: Vec<Value> = condition
        .into_iter()
        .map(|(kind, reason)| json!({"type": kind, "status": "True", "reason": reason, "message": "m"}))
        .collect();
    let pod = |uid: &str, state: Value| -> Pod {
        let container = json!({
            "name": "check", "image": "smoke:1", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        });
        let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": uid, "controller": true});
        serde_json::from_value(json!({
            "metadata": {"name": "p", "ownerReferences": [owner]}, "status": {"containerStatuses": [container]},
        }))
        .unwrap()
    };
    let job = json!({"metadata": {"name": run().name, "uid": "j1"}, "status": {"conditions": conditions}});
    let never_began = json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "another's"}});
    let there = CheckJobs {
        jobs: vec![serde_json::from_value(job).unwrap()],
        pods: vec![pod("j1", state), pod("j2", never_began)],
    };
    there.found(vec![run()], at(0)).remove(0).1
}

#[test]
fn only_an_exit_code_of_the_check_itself_is_an_answer() {
    let ended = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason, "message": "oh"}});
    let waits = || json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
    let by_rule = Some(("Failed", "PodFailurePolicy"));
    let given_up = Some(("Failed", "BackoffLimitExceeded"));
    let no_answer = |why: &str| Found::Ended(Err(format!("the Job fraud-check-0a1b2c3d {why}")));
    let cases = [
        (None, json!({"running": {}}), Found::Runs(None)),
        (
            None,
            waits(),
            Found::Runs(Some(
                "image smoke:1 of container check can't be pulled (no such image): correct its name, push it, or add pull secrets"
                    .to_owned(),
            )),
        ),
        (Some(("FailureTarget", "DeadlineExceeded")), waits(), Found::Ends),
        (Some(("Complete", "CompletionsReached")), ended(0, "Completed"), Found::Ended(Ok(1.0))),
        (by_rule, ended(1, "Error"), Found::Ended(Ok(0.0))),
        (by_rule, ended(128, "StartError"), no_answer("can't run its command: oh")),
        (Some(("Failed", "DeadlineExceeded")), ended(143, "Error"), no_answer("had no answer within 60 s")),
        (
            given_up,
            ended(137, "OOMKilled"),
            no_answer(
                "was ended before it had an answer: container check used more memory than its limit: raise resources.limits.memory",
            ),
        ),
        (
            given_up,
            ended(143, "Error"),
            no_answer("was ended before it had an answer: container check ended with exit code 143: oh"),
        ),
    ];
    for (condition, state, expected) in cases {
        assert_eq!(found(condition, state.clone()), expected, "{condition:?} {state}");
    }
}

#[test]
fn a_measurement_without_a_job_is_absent() {
    assert_eq!(CheckJobs::default().found(vec![run()], at(0)), [(run(), Found::Absent)]);
}

#[test]
fn a_job_that_runs_for_nobody_is_left_over_and_one_that_has_ended_is_kept_for_its_log() {
    let job = |name: &str, condition: &str| -> Job {
        let conditions = json!([{"type": condition, "status": "True"}]);
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": conditions}})).unwrap()
    };
    let wanted = run();
    let deleted = json!({"metadata": {"name": "deleted", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let there = CheckJobs {
        jobs: vec![
            job(&wanted.name, "Suspended"),
            job("runs", "Suspended"),
            job("ends", "FailureTarget"),
            job("failed", "Failed"),
            job("met", "SuccessCriteriaMet"),
            job("complete", "Complete"),
            serde_json::from_value(deleted).unwrap(),
        ],
        pods: Vec::new(),
    };
    assert_eq!(there.left(std::slice::from_ref(&wanted)), ["runs"]);
    assert_eq!(there.left(&[]), [wanted.name.as_str(), "runs"]);
}

#[test]
fn what_refuses_a_job_is_told_with_what_helps_and_what_passes_by_itself_is_an_error() {
    let answered = |code: u16| {
        let status = kube::core::Status::failure("exceeded quota: small", "Because").with_code(code);
        refusal(&Error::api("apply Job a/b", kube::Error::Api(status.boxed())), &run())
    };
    let field = "spec.rollout.analysis.metrics[smoke].job: exceeded quota: small";
    let forbidden = format!("the Job fraud-check-0a1b2c3d is forbidden; lift what forbids it, or change {field}");
    let invalid = format!("the Job fraud-check-0a1b2c3d is invalid; correct {field}");
    for (code, expected) in
        [(403, Some(forbidden)), (422, Some(invalid.clone())), (400, Some(invalid)), (409, None), (500, None)]
    {
        assert_eq!(answered(code), expected, "{code}");
    }
    assert_eq!(refusal(&Error::Deadline { doing: "apply".to_owned(), seconds: 15 }, &run()), None);
    let [kind, namespace, name, owner] = ["Job", "a", "b", "nobody"].map(str::to_owned);
    let foreign = refusal(&Error::NotOurs { kind, namespace, name, owner }, &run());
    assert_eq!(foreign.as_deref(), Some("Job a/b exists and belongs to nobody: rename or delete it"));
}

#[test]
fn an_error_that_passes_keeps_no_refusal_of_another_job_from_being_told() {
    let run = run();
    let (made, refused) = (|| Ok(None), |why: &str| Ok(Some(why.to_owned())));
    let passing = |doing: &str| Err(Error::Deadline { doing: doing.to_owned(), seconds: 15 });
    let cases: [(Vec<Outcome>, &[&str], Option<&str>); 5] = [
        (vec![], &[], None),
        (vec![made(), refused("a quota")], &["a quota"], None),
        (vec![passing("one"), refused("a quota")], &["a quota"], Some("one: no answer within 15 s")),
        (
            vec![refused("a quota"), passing("one"), refused("a policy")],
            &["a quota", "a policy"],
            Some("one: no answer within 15 s"),
        ),
        (vec![passing("one"), made(), passing("two")], &[], Some("one: no answer within 15 s")),
    ];
    for (outcomes, expected, error) in cases {
        let (told, passed) = apart(outcomes.into_iter().map(|outcome| (&run, outcome)).collect());
        let told: Vec<&str> = told.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!((told.as_slice(), passed.map(|error| error.to_string()).as_deref()), (expected, error));
    }
}

#[test]
fn no_job_asks_somebody_else_by_the_name_of_the_new_revision() {
    let foreign: Service = serde_json::from_value(json!({"metadata": {"name": "fraud-preview"}})).unwrap();
    assert_eq!(
        without_address(&foreign, &run()),
        "the Job fraud-check-0a1b2c3d has nobody to ask, as Service fraud-preview belongs to nobody: delete that Service"
    );
}
