//! What kubelet, the Job controller and workers would do, done by hand.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{ConfigMap, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use millrace_contract::{
    Digest,
    worker::{REPORT_KEY, WorkerReport},
};
use millrace_crds::{Dataset, labels::WORKER_FIELD_MANAGER};
use serde_json::{Value, json};

use super::{Found, World};

impl World {
    /// A Dataset with its first version, as the Dataset controller would leave it.
    pub async fn dataset_appears(&self, name: &str) -> Found<()> {
        let spec = json!({"source": {"files": {"uri": format!("s3://lake/{name}/"), "format": "CSV"}}});
        self.apply::<Dataset>(json!({"metadata": {"name": name}, "spec": spec})).await?;
        let current = json!({
            "version": 1, "contentDigest": Digest::of("rows"), "manifestDigest": Digest::of("manifest"),
            "uri": format!("s3://store/datasets/{name}/rows/"), "rows": 100, "bytes": 1000,
            "createdTime": "2026-01-01T00:00:00Z",
        });
        let status = Patch::Merge(json!({"status": {"observedGeneration": 1, "current": current}}));
        let patched = self.api::<Dataset>().patch_status(name, &PatchParams::default(), &status).await;
        patched.map(|_| ()).map_err(|e| format!("status of Dataset {name}: {e}"))
    }

    /// The one Job that has not ended.
    pub async fn running_job(&self) -> Found<Job> {
        let open: Vec<Job> = self.list::<Job>().await?.into_iter().filter(|job| !has_ended(job)).collect();
        match <[Job; 1]>::try_from(open) {
            Ok([job]) => Ok(job),
            Err(open) => Err(format!("{} Jobs run instead of one", open.len())),
        }
    }

    /// A worker writes its report, as server-side apply under its own field manager.
    pub async fn write_report(&self, config_map: &str, report: &WorkerReport) -> Found<()> {
        let text = serde_json::to_string(report).map_err(|e| e.to_string())?;
        self.write_report_text(config_map, &text).await
    }

    /// A worker writes something into its report.
    pub async fn write_report_text(&self, config_map: &str, text: &str) -> Found<()> {
        self.get::<ConfigMap>(config_map).await?;
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {REPORT_KEY: text}});
        let params = PatchParams::apply(WORKER_FIELD_MANAGER).force();
        let written = self.api::<ConfigMap>().patch(config_map, &params, &Patch::Apply(&body)).await;
        written.map(|_| ()).map_err(|e| format!("report {config_map}: {e}"))
    }

    /// The Job controller finds that the Job has ended well.
    pub async fn complete_job(&self, name: &str) -> Found<()> {
        let now = Time(Timestamp::now());
        let met = json!({"type": "SuccessCriteriaMet", "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now});
        let complete =
            json!({"type": "Complete", "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now});
        let status = json!({
            "startTime": now, "completionTime": now, "succeeded": 1, "active": null, "ready": 0, "terminating": 0,
            "uncountedTerminatedPods": {}, "conditions": [met, complete],
        });
        self.set_job_status(name, status).await
    }

    /// The Job controller gives the Job up, as `BackoffLimitExceeded` or `DeadlineExceeded`.
    pub async fn fail_job(&self, name: &str, reason: &str) -> Found<()> {
        let now = Time(Timestamp::now());
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": now});
        let status = json!({
            "startTime": now, "failed": 1, "active": null, "ready": 0, "terminating": 0, "uncountedTerminatedPods": {},
            "conditions": [condition("FailureTarget"), condition("Failed")],
        });
        self.set_job_status(name, status).await
    }

    async fn set_job_status(&self, name: &str, status: Value) -> Found<()> {
        let params = PatchParams::default();
        let patched = self.api::<Job>().patch_status(name, &params, &Patch::Merge(json!({"status": status}))).await;
        patched.map(|_| ()).map_err(|e| format!("status of Job {name}: {e}"))
    }

    /// The Job controller makes a pod of the Job, and kubelet gives it this status.
    pub async fn run_pod(&self, job: &Job, name: &str, status: Value) -> Found<Pod> {
        let template = job.spec.as_ref().map(|spec| spec.template.clone()).ok_or("a Job without spec")?;
        let mut pod = json!({
            "metadata": {"name": name, "labels": template.metadata.and_then(|m| m.labels).unwrap_or_default()},
            "spec": template.spec,
        });
        pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] = json!(job.name_any());
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "batch/v1", "kind": "Job", "name": job.name_any(), "uid": job.uid(), "controller": true,
        }]);
        let pod: Pod = serde_json::from_value(pod).map_err(|e| e.to_string())?;
        self.api::<Pod>().create(&PostParams::default(), &pod).await.map_err(|e| format!("pod {name}: {e}"))?;
        self.set_pod_status(name, status).await
    }

    /// Kubelet gives a pod this status.
    pub async fn set_pod_status(&self, name: &str, status: Value) -> Found<Pod> {
        let params = PatchParams::default();
        let patched = self.api::<Pod>().patch_status(name, &params, &Patch::Merge(json!({"status": status}))).await;
        patched.map_err(|e| format!("status of pod {name}: {e}"))
    }
}

/// Whether a Job has ended.
pub fn has_ended(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| (c.type_ == "Complete" || c.type_ == "Failed") && c.status == "True")
}
