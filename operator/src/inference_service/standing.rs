//! Revisions that run because routes or the fallback name their ModelVersions, and what keeps others from it. Pure.
//!
//! A version that serves already, or is warm, needs no pods of its own. Where a change of the server block or a promotion asks for
//! another revision of a named version, the one that answers now stays until the new one can: nobody falls out of a route.

use millrace_contract::routing::RoutingPlan;
use millrace_crds::{
    ModelVersion,
    inference_service::{
        InferenceServiceSpec, InferenceServiceStatus, RevisionStatus, Route, Server, StandingRevision,
    },
};

use super::{
    pair::named_revisions,
    pods::{Pods, ServerPod},
    policy::{Servable, conditions, route},
    revision::Revision,
    status::{Said, said_of},
    target::is_approved,
};
use crate::conditions::Is;

/// Versions that may run beside the stable revision and the canary.
const MAX_STANDING: usize = 16;
/// How the fallback is told from routes.
const FALLBACK: &str = "fallback";

/// A version that users name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish<'a> {
    version: &'a str,
    /// `fallback` or `route/NAME`.
    named_by: Vec<String>,
    /// Pods.
    replicas: i32,
}

/// Each version once, the fallback's first.
fn wishes(spec: &InferenceServiceSpec) -> Vec<Wish<'_>> {
    let backup =
        spec.fallback.iter().map(|fallback| (&*fallback.model_version, FALLBACK.to_owned(), fallback.replicas));
    let of_routes = spec.routes.iter().flat_map(|route| {
        let versions = route.split.iter().filter_map(|share| share.model_version.as_deref());
        versions.map(|version| (version, format!("route/{}", route.name), spec.scaling.replicas.max(1)))
    });
    let mut wishes: Vec<Wish<'_>> = Vec::new();
    for (version, by, replicas) in backup.chain(of_routes) {
        match wishes.iter_mut().find(|wish| wish.version == version) {
            Some(wish) => {
                wish.named_by.push(by);
                wish.replicas = wish.replicas.max(replicas);
            }
            None => wishes.push(Wish { version, named_by: vec![by], replicas }),
        }
    }
    wishes
}

/// Versions that routes and the fallback name, each once.
pub fn named_versions(spec: &InferenceServiceSpec) -> Vec<&str> {
    wishes(spec).into_iter().map(|wish| wish.version).collect()
}

/// What is known of the versions and their pods.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// ModelVersions, those that are named among them.
    pub versions: &'a [&'a ModelVersion],
    /// Pods of the service.
    pub pods: &'a [ServerPod],
    /// The spec's server block.
    pub server: &'a Server,
    /// Image of new revisions.
    pub server_image: &'a str,
}

impl Known<'_> {
    fn version(&self, name: &str) -> Option<&ModelVersion> {
        self.versions.iter().copied().find(|version| version.metadata.name.as_deref() == Some(name))
    }

    fn counted(&self, revision: RevisionStatus) -> RevisionStatus {
        let pods = Pods::of(&revision, self.pods);
        RevisionStatus { ready: pods.ready, loaded: pods.loaded, ..revision }
    }
}

/// The revisions that stand beside those of `status`, which follows `former`.
pub fn standing(
    spec: &InferenceServiceSpec,
    status: &InferenceServiceStatus,
    former: &InferenceServiceStatus,
    known: Known<'_>,
) -> Vec<StandingRevision> {
    let mut standing = Vec::new();
    for wish in wishes(spec).into_iter().filter(|wish| !is_there(status, wish.version)) {
        let Some(version) = known.version(wish.version).filter(|version| is_approved(version)) else { continue };
        let wanted = Revision::of(version, known.server, former, known.server_image).recorded();
        let wanted = known.counted(RevisionStatus { replicas: wish.replicas, ..wanted });
        let stays = (wanted.loaded == 0).then(|| answering(&wanted, status, former, known)).flatten();
        let revisions = std::iter::once(wanted).chain(stays);
        standing.extend(revisions.map(|revision| StandingRevision { revision, named_by: wish.named_by.clone() }));
    }
    standing.truncate(MAX_STANDING);
    standing
}

/// It serves, or is warm: with all the pods it needs.
fn is_there(status: &InferenceServiceStatus, version: &str) -> bool {
    let warm = status.previous.as_ref().map(|previous| &previous.revision);
    status.stable.iter().chain(warm).any(|revision| revision.model_version == version)
}

/// Another revision of the same version, whose pods are ready and which is in no other place of the status.
fn answering(
    wanted: &RevisionStatus,
    status: &InferenceServiceStatus,
    former: &InferenceServiceStatus,
    known: Known<'_>,
) -> Option<RevisionStatus> {
    let is_elsewhere =
        |revision: &RevisionStatus| status.canary.as_ref().is_some_and(|c| c.revision == revision.revision);
    let others = named_revisions(former).filter(|other| {
        other.model_version == wanted.model_version && other.revision != wanted.revision && !is_elsewhere(other)
    });
    let mut kept = others.map(|other| {
        let mut other = other.clone();
        other.weight = Default::default();
        known.counted(other)
    });
    kept.find(|other| other.ready > 0)
}

/// What the condition RoutesReady says; none where neither routes nor a fallback are asked for. `plan` is the one of the status.
pub fn said(
    spec: &InferenceServiceSpec,
    status: &InferenceServiceStatus,
    plan: Option<&RoutingPlan>,
    known: Known<'_>,
) -> Option<Said> {
    if spec.routes.is_empty() && spec.fallback.is_none() {
        return None;
    }
    let servable = Servable::of(status, plan);
    let missing = wishes(spec).into_iter().filter(|wish| servable.named(Some(wish.version)).is_none());
    let mut problems: Vec<(String, String)> = missing.map(|wish| missing_because(&wish, status, known)).collect();
    problems.extend(spec.routes.iter().filter(|one| route(one, servable).is_none()).map(left_out));
    problems.extend(shadowed(&spec.routes));
    problems.extend(own_backup(spec, servable));
    said_of(&problems).or_else(|| {
        let all = match (spec.routes.is_empty(), &spec.fallback) {
            (true, _) => "the fallback is",
            (false, None) => "every route is",
            (false, Some(_)) => "every route and the fallback are",
        };
        Some((Is::True, "Routed".to_owned(), format!("{all} in the routing plan")))
    })
}

/// Why nobody answers for a version: reason and a sentence.
fn missing_because(wish: &Wish<'_>, status: &InferenceServiceStatus, known: Known<'_>) -> (String, String) {
    let Wish { version, named_by, .. } = wish;
    let by = named_by.join(", ");
    let named = format!("ModelVersion {version}, which {by} names,");
    let because = |reason: &str, sentence: String| (reason.to_owned(), sentence);
    match known.version(version) {
        None => because(
            "ModelVersionNotFound",
            format!("{named} does not exist in this namespace: create it, or name another"),
        ),
        Some(found) if found.metadata.deletion_timestamp.is_some() => {
            because("ModelVersionDeleted", format!("{named} is being deleted: name another"))
        }
        Some(found) if !is_approved(found) => {
            because("ModelVersionNotApproved", format!("{named} is not approved: approve it, or name an approved one"))
        }
        Some(_) => match status.standing.iter().find(|standing| standing.revision.model_version == *version) {
            None => because(
                "TooManyVersions",
                format!(
                    "{named} is one too many: routes and fallback may name {MAX_STANDING} versions beside the stable one"
                ),
            ),
            Some(standing) => starting(&named, &Pods::of(&standing.revision, known.pods)),
        },
    }
}

fn starting(named: &str, pods: &Pods) -> (String, String) {
    match &pods.trouble {
        Some(trouble) => (trouble.reason.clone(), format!("{named} does not start: {}", trouble.message)),
        None => ("Starting".to_owned(), format!("{named} starts: it answers once a pod has loaded its model")),
    }
}

/// Admission sees this of a pin only: a followed model may come to serve its own backup.
fn own_backup(spec: &InferenceServiceSpec, servable: Servable<'_>) -> Option<(String, String)> {
    let version = &spec.fallback.as_ref()?.model_version;
    servable.named(Some(version)).filter(|backup| servable.is_stable(backup))?;
    let sentence = format!(
        "fallback.modelVersion {version} is the version that serves, which can't stand in for itself: name another one"
    );
    Some(("FallbackIsTheModel".to_owned(), sentence))
}

fn left_out(route: &Route) -> (String, String) {
    let sentence = format!(
        "route {} has nobody who can answer: until then its requests are shared out like all others",
        route.name
    );
    ("NoTarget".to_owned(), sentence)
}

/// Routes that never get a request: an earlier one matches whatever they match.
fn shadowed(routes: &[Route]) -> Vec<(String, String)> {
    let shadow = |(index, route): (usize, &Route)| {
        let own = conditions(route)?;
        let covers = |earlier: &&Route| {
            conditions(earlier).is_some_and(|conditions| conditions.iter().all(|one| own.contains(one)))
        };
        let earlier = routes.iter().take(index).find(covers)?;
        let sentence = format!(
            "route {} never gets a request, since route {} before it matches the same ones: change its match, or put it first",
            route.name, earlier.name
        );
        Some(("RouteShadowed".to_owned(), sentence))
    };
    routes.iter().enumerate().filter_map(shadow).collect()
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
