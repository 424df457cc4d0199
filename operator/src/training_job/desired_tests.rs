//! The children, written by hand.

use millrace_contract::Digest;
use serde_json::json;

use super::*;
use crate::training_job::fixtures::*;

const NAME: &str = "nightly-train-0a1b2c3d";

fn settings() -> Settings {
    use clap::Parser;
    Settings::parse_from(["operator", "--worker-image=worker:1", "--server-image=s", "--router-image=r"])
}

fn children_of(spec: Value) -> Children {
    let job = started(spec);
    let resolved = job.status.clone().unwrap().resolved.unwrap();
    children(&job, &resolved, NAME, &settings(), start(0)).unwrap()
}

/// Seconds after the fixture's start.
fn start(seconds: i64) -> Timestamp {
    "2026-01-01T11:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds)
}

fn pod_of(children: &Children) -> Value {
    serde_json::to_value(children.job.spec.as_ref().unwrap().template.spec.as_ref().unwrap()).unwrap()
}

#[test]
fn the_job_but_for_its_pod() {
    let children = children_of(json!({"restarts": {"max": 5}, "activeDeadlineSeconds": 60, "suspend": true}));
    let mut job = serde_json::to_value(&children.job).unwrap();
    job["spec"]["template"]["spec"] = json!("the pod");
    let labels = json!({
        "app.kubernetes.io/managed-by": "millrace", "millrace.dev/component": "trainer", "millrace.dev/model": "flights",
        "millrace.dev/training-job": "nightly",
    });
    assert_eq!(
        job,
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": NAME, "namespace": "team", "labels": labels},
            "spec": {
                "completionMode": "Indexed", "completions": 1, "parallelism": 1, "backoffLimit": 5,
                "activeDeadlineSeconds": 60, "suspend": true, "podReplacementPolicy": "Failed",
                "podFailurePolicy": {"rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {"action": "FailJob", "onExitCodes": {"containerName": "fetch", "operator": "In", "values": [3]}},
                    {"action": "Ignore", "onExitCodes": {"containerName": "fetch", "operator": "In", "values": [2]}},
                ]},
                "template": {"metadata": {"labels": labels}, "spec": "the pod"},
            },
        })
    );
    assert_eq!(children.service, None, "one pod needs nobody to find it");
}

#[test]
fn only_the_workers_get_credentials_and_the_token() {
    let pod = pod_of(&children_of(json!({})));
    let trainer = &pod["containers"][0];
    assert_eq!(trainer["envFrom"], Value::Null);
    let mounts: Vec<_> =
        trainer["volumeMounts"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(mounts, ["millrace", "trainer-tmp"]);
    assert_eq!(pod["automountServiceAccountToken"], json!(false));
    for worker in pod["initContainers"].as_array().unwrap() {
        assert_eq!(
            worker["envFrom"],
            json!([{"prefix": "STORE_", "secretRef": {"name": "millrace-store", "optional": false}}])
        );
        assert!(worker["volumeMounts"].as_array().unwrap().iter().any(|mount| mount["name"] == "token"));
    }
}

#[test]
fn every_container_passes_the_restricted_standard() {
    let pod = pod_of(&children_of(json!({})));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
    assert_eq!(pod["securityContext"]["runAsUser"], json!(65_532));
    assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}));
    let containers = pod["initContainers"].as_array().unwrap().iter().chain(pod["containers"].as_array().unwrap());
    for container in containers {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], json!(false));
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        let is_ours = container["name"] != "trainer";
        assert_eq!(context["readOnlyRootFilesystem"].as_bool(), is_ours.then_some(true));
    }
}

#[test]
fn fetch_ends_before_the_trainer_and_publish_lives_beside_it() {
    let pod = pod_of(&children_of(json!({})));
    let order: Vec<_> = pod["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].as_str().unwrap(), c["args"].clone(), c["restartPolicy"].as_str()))
        .collect();
    assert_eq!(order, [("fetch", json!(["fetch"]), None), ("publish", json!(["publish"]), Some("Always"))]);
}

fn variables(spec: Value) -> BTreeMap<String, String> {
    let pod = pod_of(&children_of(spec));
    let all = pod["containers"][0]["env"].as_array().unwrap().clone();
    let value = |v: &Value| v["value"].as_str().map_or_else(|| "index".to_owned(), str::to_owned);
    let named: BTreeMap<_, _> = all.iter().map(|v| (v["name"].as_str().unwrap().to_owned(), value(v))).collect();
    assert_eq!(named.len(), all.len(), "a name occurs twice");
    named
}

fn expected(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_single_trainer_finds_itself() {
    assert_eq!(
        variables(json!({"hyperparameters": {"learning-rate": "0.1", "note": "costs $(HOME)"}})),
        expected(&[
            ("HOME", "/tmp"),
            ("MASTER_ADDR", "localhost"),
            ("MASTER_PORT", "29500"),
            ("MILLRACE_HP_LEARNING_RATE", "0.1"),
            ("MILLRACE_HP_NOTE", "costs $$(HOME)"),
            ("NODE_RANK", "index"),
            ("PET_MASTER_ADDR", "localhost"),
            ("PET_MASTER_PORT", "29500"),
            ("PET_NNODES", "1"),
            ("PET_NODE_RANK", "index"),
            ("PET_NPROC_PER_NODE", "1"),
            ("RANK", "index"),
            ("WORLD_SIZE", "1"),
        ])
    );
}

#[test]
fn several_trainers_find_the_first_and_the_launcher_ranks_processes() {
    let spec = json!({"trainer": {"image": "t", "nodes": 3, "processesPerNode": 4, "env": [{"name": "HOME", "value": "/home"}]}});
    let found = variables(spec.clone());
    assert_eq!(found["MASTER_ADDR"], format!("{NAME}-0.{NAME}"));
    assert_eq!(
        (found["WORLD_SIZE"].as_str(), found["PET_NNODES"].as_str(), found["HOME"].as_str()),
        ("12", "3", "/home")
    );
    assert!(!found.contains_key("RANK"), "a pod of four processes has no one rank");
    let children = children_of(spec);
    let service = serde_json::to_value(children.service.as_ref().unwrap().spec.as_ref().unwrap()).unwrap();
    assert_eq!(
        service,
        json!({
            "clusterIP": "None", "publishNotReadyAddresses": true,
            "selector": {"batch.kubernetes.io/job-name": NAME}, "ports": [{"name": "master", "port": 29500}],
        })
    );
    assert_eq!(pod_of(&children)["subdomain"], json!(NAME));
}

#[test]
fn gpus_are_limit_and_request_alike() {
    let trainer = json!({"image": "t", "gpu": {"count": 2}, "resources": {"requests": {"cpu": "1"}}});
    let pod = pod_of(&children_of(json!({"trainer": trainer})));
    assert_eq!(
        pod["containers"][0]["resources"],
        json!({"limits": {"nvidia.com/gpu": "2"}, "requests": {"cpu": "1", "nvidia.com/gpu": "2"}})
    );
}

#[test]
fn the_workers_are_asked_with_typed_hyperparameters() {
    let job = started(
        json!({"hyperparameters": {"depth": "6", "rate": "0.1", "fast": "true", "name": "null", "list": "[1]"}}),
    );
    let asked = task(&job, job.status.as_ref().unwrap().resolved.as_ref().unwrap());
    assert_eq!(asked.run, "job-uid");
    assert_eq!(asked.dataset.content_digest, Digest::of("now"));
    let typed = serde_json::to_value(&asked.hyperparameters).unwrap();
    assert_eq!(typed, json!({"depth": 6, "rate": 0.1, "fast": true, "name": "null", "list": "[1]"}));
}

#[test]
fn a_stored_job_is_only_changed_where_the_spec_may_change() {
    let stored = batch_job(&[]);
    assert_eq!(job_change(&started(json!({})), &stored, start(0)), None);
    let paused = started(json!({"suspend": true, "activeDeadlineSeconds": 9}));
    assert_eq!(
        job_change(&paused, &stored, start(0)),
        Some(json!({"spec": {"suspend": true, "activeDeadlineSeconds": 9}}))
    );
}

/// A Job that is suspended or not, of this deadline, and as its controller sees it.
fn stored(suspend: bool, deadline: i64, status: Value) -> Job {
    let spec = json!({"suspend": suspend, "activeDeadlineSeconds": deadline, "template": {}});
    serde_json::from_value(json!({"metadata": {"name": NAME}, "spec": spec, "status": status})).unwrap()
}

#[test]
fn a_deadline_counts_from_the_first_start_whatever_was_suspended_since() {
    let job = started(json!({"activeDeadlineSeconds": 1_000}));
    let running = json!({"startTime": "2026-01-01T11:00:02Z"});
    assert_eq!(job_change(&job, &stored(false, 1_000, running.clone()), start(500)), None, "it started at once");
    // Suspended at 400 and resumed at 700: 300 s are left.
    let held = json!({"startTime": "2026-01-01T11:00:02Z", "conditions": [{"type": "Suspended", "status": "True"}]});
    let resumed = Some(json!({"spec": {"suspend": false, "activeDeadlineSeconds": 300}}));
    assert_eq!(job_change(&job, &stored(true, 1_000, held.clone()), start(700)), resumed);
    // The Job controller has not seen it; then it has, a little later.
    assert_eq!(job_change(&job, &stored(false, 300, held), start(701)), None);
    let goes_on = json!({"startTime": "2026-01-01T11:11:42Z"});
    assert_eq!(job_change(&job, &stored(false, 300, goes_on), start(703)), None);
    // Made again, after somebody deleted it; and when all the time is over.
    assert_eq!(deadline(&job, start(900)), Some(100));
    assert_eq!(deadline(&job, start(9_000)), Some(1));
    // A longer one is given to the Job that runs.
    let longer = started(json!({"activeDeadlineSeconds": 5_000}));
    let change = Some(json!({"spec": {"suspend": false, "activeDeadlineSeconds": 4_998}}));
    assert_eq!(job_change(&longer, &stored(false, 1_000, running), start(500)), change);
}
