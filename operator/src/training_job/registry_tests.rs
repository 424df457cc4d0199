//! Numbers and provenance.

use serde_json::json;

use super::*;
use crate::training_job::fixtures::*;

#[test]
fn the_highest_number_counts_versions_and_the_record() {
    let record = new_record("team", "flights", 5);
    let versions = [version("flights", 3, None), version("fraud", 9, None)];
    assert_eq!(highest("flights", &[], None), 0);
    assert_eq!(highest("flights", &versions, None), 3);
    assert_eq!(highest("flights", &versions, Some(&record)), 5);
    assert_eq!(highest("fraud", &versions, Some(&record)), 9);
}

#[test]
fn a_record_that_is_no_number_counts_as_none() {
    let mut record = new_record("team", "flights", 5);
    record.data.as_mut().unwrap().insert("flights".to_owned(), "many".to_owned());
    assert_eq!(recorded("flights", Some(&record)), 0);
}

#[test]
fn its_own_version_is_known_by_the_uid_and_not_by_the_name() {
    let job = started(json!({}));
    let of_namesake = version("flights", 1, Some("another-uid"));
    let own_one = version("flights", 2, Some("job-uid"));
    assert_eq!(own(&job, &[of_namesake.clone(), own_one.clone()]), Some(&own_one));
    assert_eq!(own(&job, &[of_namesake, version("flights", 3, None)]), None);
}

#[test]
fn the_version_tells_all_of_its_provenance() {
    let job = started(json!({
        "hyperparameters": {"depth": "6"},
        "modelVersion": {"task": "Regression", "approval": "Manual", "gates": [{"metric": "rmse", "threshold": 2.5}]},
    }));
    let trained = Trained {
        artifact: artifact(),
        signature: None,
        remark: None,
        image_digest: Some("registry/trainer@sha256:abc".to_owned()),
    };
    let resolved = job.status.as_ref().unwrap().resolved.as_ref().unwrap();
    let made = serde_json::to_value(model_version(&job, resolved, &trained, 4)).unwrap();
    assert_eq!(
        made,
        json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "ModelVersion",
            "metadata": {
                "name": "flights-4", "namespace": "team",
                "labels": {
                    "app.kubernetes.io/managed-by": "millrace", "millrace.dev/model": "flights",
                    "millrace.dev/training-job": "nightly",
                },
                "annotations": {"millrace.dev/training-job-uid": "job-uid"},
            },
            "spec": {
                "model": "flights", "version": 4, "artifact": artifact(),
                "source": {"trainingJob": {
                    "name": "nightly", "uid": "job-uid", "dataset": "flights", "contentDigest": resolved.content_digest,
                    "manifestDigest": resolved.manifest_digest, "datasetUri": "s3://store/now/",
                    "imageDigest": "registry/trainer@sha256:abc", "hyperparameters": {"depth": "6"},
                }},
                "evaluation": {
                    "dataset": "flights", "contentDigest": resolved.content_digest, "split": "test", "task": "Regression",
                    "gates": [{"metric": "rmse", "threshold": 2.5}],
                },
                "approval": "Manual",
            },
        })
    );
}
