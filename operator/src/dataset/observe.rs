//! Reads what there is: the planned run's children, its pods and report, and leftovers of earlier runs.

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{Resource, ResourceExt};
use millrace_crds::{Dataset, labels::DATASET};

use super::desired::Plan;
use crate::{
    Error,
    cluster::{Cluster, Namespaced},
    owner::Owner,
    run_state::{self, Reported, RunState},
};

/// What there is.
pub struct Observed {
    /// Children of the planned run.
    pub run: OfRun,
    /// How far its Job is.
    pub state: RunState,
    /// When its pod is due, where it is not there yet.
    pub pod_due: Option<Timestamp>,
    /// What its worker reported.
    pub reported: Reported,
    /// Children of other runs that are ours to remove.
    pub leftovers: Leftovers,
}

/// The planned run's own children, as far as they are there.
pub type OfRun = Children<Option<ServiceAccount>, Option<ConfigMap>, Option<Role>, Option<RoleBinding>, Option<Job>>;
/// Children of other runs.
pub type Leftovers = Children<Vec<ServiceAccount>, Vec<ConfigMap>, Vec<Role>, Vec<RoleBinding>, Vec<Job>>;

/// The children of runs, by kind.
pub struct Children<A, C, R, B, J> {
    /// Identities.
    pub service_account: A,
    /// Reports.
    pub report: C,
    /// Rights.
    pub role: R,
    /// Who has them.
    pub role_binding: B,
    /// Jobs.
    pub job: J,
}

impl Observed {
    /// Whether anything is left of other runs.
    pub fn has_leftovers(&self) -> bool {
        let Children { service_account, report, role, role_binding, job } = &self.leftovers;
        !(service_account.is_empty()
            && report.is_empty()
            && role.is_empty()
            && role_binding.is_empty()
            && job.is_empty())
    }
}

/// Reads everything with the Dataset's label. Namesakes that are not ours stay in `run`, so that writing them is refused by name.
pub async fn observe(
    cluster: &Cluster,
    dataset: &Dataset,
    plan: &Plan,
    owner: &Owner,
    now: Timestamp,
) -> Result<Observed, Error> {
    let namespace = dataset.namespace().unwrap_or_default();
    let reader = Reader { cluster, namespace: &namespace, dataset: &dataset.name_any(), run: &plan.name, owner };
    // A worker reports and then ends: a report that is read after the Job can't be older than the end that the Job tells of.
    let (job, old_jobs) = reader.read::<Job>().await?;
    let (report, old_reports) = reader.read::<ConfigMap>().await?;
    let (service_account, old_accounts) = reader.read::<ServiceAccount>().await?;
    let (role, old_roles) = reader.read::<Role>().await?;
    let (role_binding, old_bindings) = reader.read::<RoleBinding>().await?;
    let pods = match &job {
        Some(_) => cluster.list::<Pod>(&namespace, &format!("batch.kubernetes.io/job-name={}", plan.name)).await?,
        None => Vec::new(),
    };
    let ours = report.as_ref().filter(|map| owner.owns(map.meta()));
    let run_id = if cluster.bugs.has(crate::bug::SeededBug::AcceptAnyReport) { any_run(ours) } else { plan.id.clone() };
    let our_job = job.as_ref().filter(|job| owner.owns(job.meta()));
    Ok(Observed {
        state: run_state::run_state(our_job, &pods, now),
        pod_due: run_state::pod_due(our_job, &pods).filter(|due| *due > now),
        reported: run_state::report(ours, &run_id),
        run: Children { service_account, report, role, role_binding, job },
        leftovers: Children {
            service_account: old_accounts,
            report: old_reports,
            role: old_roles,
            role_binding: old_bindings,
            job: old_jobs,
        },
    })
}

/// The run a report says it is of: only for the seeded bug that believes it.
fn any_run(report: Option<&ConfigMap>) -> String {
    let text = report.and_then(|map| map.data.as_ref()).and_then(|data| data.values().next());
    let parsed: Option<millrace_contract::worker::WorkerReport> = text.and_then(|text| serde_json::from_str(text).ok());
    parsed.map(|report| report.run).unwrap_or_default()
}

struct Reader<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    dataset: &'a str,
    run: &'a str,
    owner: &'a Owner,
}

impl Reader<'_> {
    /// The run's own child, and those of other runs that are ours.
    async fn read<K: Namespaced>(&self) -> Result<(Option<K>, Vec<K>), Error> {
        let labelled = self.cluster.list::<K>(self.namespace, &format!("{DATASET}={}", self.dataset)).await?;
        let (own, others): (Vec<K>, Vec<K>) = labelled.into_iter().partition(|child| child.name_any() == self.run);
        let own = match own.into_iter().next() {
            Some(own) => Some(own),
            // A namesake without our label would not be listed.
            None => self.cluster.get::<K>(self.namespace, self.run).await?,
        };
        let ours = others
            .into_iter()
            .filter(|child| self.owner.owns(child.meta()) && child.meta().deletion_timestamp.is_none());
        Ok((own, ours.collect()))
    }
}
