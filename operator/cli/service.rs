//! The lines of an InferenceService: revisions with their weights, the rollout, what comes next, drift, retraining, decisions.
//! Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use millrace_crds::{
    InferenceService, InferenceServiceStatus,
    conditions::{DRIFTED, OVERRIDDEN},
    inference_service::{RehearsalStatus, RevisionStatus, RolloutStatus},
};
use millrace_operator::conditions::{find, is_true};

use crate::{
    chain::Chain,
    status::{ago, check, job, number, state, verdict_tone, version, word},
    tree::{Node, Tone},
};

/// How many of each are shown, newest first.
const MAX_VERSIONS: usize = 5;
const MAX_REJECTED: usize = 3;
const MAX_DECISIONS: usize = 3;
const MAX_FEATURES: usize = 3;

/// The tree of a service.
pub fn node(chain: &Chain, service: &InferenceService, now: Timestamp) -> Node {
    let status = service.status.clone().unwrap_or_default();
    let (tone, message) = state(&status.conditions);
    let mut node = Node::object("InferenceService", &service.name_any())
        .and(tone, word(status.phase.as_ref()))
        .and(Tone::Plain, message);
    let is_behind = service.metadata.generation.is_some_and(|generation| status.observed_generation < generation);
    if is_behind {
        node = node.and(Tone::Waiting, "the operator has not looked at the newest spec yet");
    }
    if let Some(url) = &status.url {
        node.put(Node::new("url").and(Tone::Plain, url));
    }
    if let Some(stable) = &status.stable {
        node.put(revision(chain, "stable", stable, now));
    }
    if let Some(canary) = &status.canary {
        node.put(revision(chain, "canary", canary, now));
    }
    if let Some(previous) = &status.previous {
        let mut warm = revision(chain, "previous", &previous.revision, now);
        warm = warm.and(Tone::Plain, format!("stays warm until {}", previous.until.0));
        node.put(warm);
    }
    if let Some(rehearsed) = &status.rehearsal {
        node.put(rehearsal(rehearsed, now));
    }
    if let Some(under_way) = &status.rollout {
        node.put(rollout(service, under_way, now));
    }
    if let Some(next) = &status.next_step {
        node.put(Node::new("next:").and(Tone::Plain, next));
    }
    if let Some(overridden) = find(&status.conditions, OVERRIDDEN).filter(|_| is_true(&status.conditions, OVERRIDDEN)) {
        node.put(Node::new("overridden:").and(Tone::Waiting, &overridden.message));
    }
    put_other_versions(&mut node, chain, service, &status, now);
    for rejected in status.rejected.iter().take(MAX_REJECTED) {
        let line =
            format!("{} (revision {}), {}", rejected.model_version, rejected.revision, ago(now, rejected.time.0));
        node.put(
            Node::new("rejected")
                .and(Tone::Bad, &rejected.reason)
                .and(Tone::Plain, line)
                .and(Tone::Plain, &rejected.message),
        );
    }
    put_drift(&mut node, &status);
    put_retraining(&mut node, chain, service, &status, now);
    put_decisions(&mut node, &status);
    node
}

fn revision(chain: &Chain, role: &str, revision: &RevisionStatus, now: Timestamp) -> Node {
    let RevisionStatus { model_version, revision: hash, image: _, digest: _, replicas, ready, loaded, weight } =
        revision;
    let accepted = weight.accepted.map_or("not yet accepted".to_owned(), |accepted| format!("{accepted} % accepted"));
    let measured = weight.measured.map_or("nothing measured".to_owned(), |measured| format!("{measured} % measured"));
    let tone = if ready >= replicas { Tone::Good } else { Tone::Waiting };
    let mut node = Node::new(format!("{role} revision {hash}"))
        .and(tone, format!("{ready}/{replicas} pods ready, {loaded} loaded"))
        .and(Tone::Plain, format!("weight {} % intended, {accepted}, {measured}", weight.intended));
    node.put(match chain.version(model_version) {
        Some(found) => version(chain, found, now),
        None => Node::object("ModelVersion", model_version).and(Tone::Bad, "does not exist any more"),
    });
    node
}

fn rehearsal(rehearsal: &RehearsalStatus, now: Timestamp) -> Node {
    let began = format!("rehearsal of {}, {}", rehearsal.revision.model_version, ago(now, rehearsal.start_time.0));
    let mut node = Node::new(began);
    if let Some(verdict) = rehearsal.verdict {
        node = node.and(verdict_tone(verdict), word(Some(&verdict)));
    }
    node = node.and(Tone::Plain, &rehearsal.message);
    for one in &rehearsal.checks {
        node.put(check("check", one));
    }
    node
}

fn rollout(service: &InferenceService, rollout: &RolloutStatus, now: Timestamp) -> Node {
    let steps = service.spec.rollout.steps.len();
    let place = match (rollout.step, &rollout.step_start_time) {
        (Some(step), _) => format!("step {} of {steps}", step.saturating_add(1)),
        (None, Some(_)) => "the switch is prepared".to_owned(),
        (None, None) => "pods start".to_owned(),
    };
    let mut node = Node::new(format!("rollout began {}", ago(now, rollout.start_time.0))).and(Tone::Plain, place);
    if let Some(verdict) = rollout.verdict {
        node = node.and(verdict_tone(verdict), word(Some(&verdict)));
    }
    if let Some(since) = &rollout.paused_since {
        node = node.and(Tone::Waiting, format!("paused since {}", since.0));
    }
    for one in &rollout.checks {
        node.put(check("check", one));
    }
    node
}

/// Versions of the model that the service follows and that neither serve nor were rejected, newest first; older ones than what
/// serves are history.
fn put_other_versions(
    node: &mut Node,
    chain: &Chain,
    service: &InferenceService,
    status: &InferenceServiceStatus,
    now: Timestamp,
) {
    let Some(model) = &service.spec.model.name else { return };
    let serving: Vec<&str> = status.stable.iter().chain(&status.canary).map(|one| one.model_version.as_str()).collect();
    let newest =
        serving.iter().filter_map(|name| chain.version(name)).map(|one| one.spec.version).max().unwrap_or_default();
    let is_rejected = |name: &str| status.rejected.iter().any(|rejected| rejected.model_version == name);
    let mut others: Vec<_> = chain
        .versions
        .iter()
        .filter(|one| one.spec.model == *model && one.spec.version > newest && !is_rejected(&one.name_any()))
        .collect();
    others.sort_by_key(|one| std::cmp::Reverse(one.spec.version));
    for other in others.into_iter().take(MAX_VERSIONS) {
        node.put(version(chain, other, now));
    }
}

fn put_drift(node: &mut Node, status: &InferenceServiceStatus) {
    let Some(condition) = find(&status.conditions, DRIFTED) else { return };
    let tone = match condition.status.as_str() {
        "True" => Tone::Bad,
        "False" => Tone::Good,
        _ => Tone::Waiting,
    };
    let mut line = Node::new("drift").and(tone, &condition.reason).and(Tone::Plain, &condition.message);
    for feature in status.drift.iter().flat_map(|drift| &drift.features).take(MAX_FEATURES) {
        line.put(
            check("feature", feature)
                .and(Tone::Plain, feature.value.map(|psi| format!("PSI {}", number(psi))).unwrap_or_default()),
        );
    }
    node.put(line);
}

fn put_retraining(
    node: &mut Node,
    chain: &Chain,
    service: &InferenceService,
    status: &InferenceServiceStatus,
    now: Timestamp,
) {
    let Some(retraining) = &service.spec.retraining else { return };
    let known = status.retraining.clone().unwrap_or_default();
    let reason = known.reason.unwrap_or_else(|| "Idle".to_owned());
    let message = known
        .message
        .unwrap_or_else(|| format!("nothing asks for one; copies TrainingJob {}", retraining.from.training_job));
    let mut line = Node::new("retraining").and(Tone::Plain, reason).and(Tone::Plain, message);
    // One whose model serves is already below its version.
    let serving: Vec<_> = status.stable.iter().chain(&status.canary).map(|one| &one.model_version).collect();
    let newest = chain.retrainings(&service.name_any()).into_iter().next();
    let is_shown = |made: Option<&String>| made.is_some_and(|made| serving.contains(&made));
    if let Some(newest) =
        newest.filter(|job| !is_shown(job.status.as_ref().and_then(|status| status.model_version.as_ref())))
    {
        line.put(job(chain, newest, now));
    }
    node.put(line);
}

fn put_decisions(node: &mut Node, status: &InferenceServiceStatus) {
    if status.history.is_empty() {
        return;
    }
    let mut decisions = Node::new("last decisions");
    for decision in status.history.iter().take(MAX_DECISIONS) {
        let asked = format!("{} {} {}", decision.time, word(Some(&decision.question)), decision.subject);
        let mut who = word(Some(&decision.decided_by));
        if let Some(user) = &decision.user {
            who = format!("{who} {user}");
        }
        let answer = format!("{} ({}, by {who})", word(Some(&decision.verdict)), decision.reason);
        decisions.put(Node::new(asked).and(verdict_tone(decision.verdict), answer).and(Tone::Plain, &decision.message));
    }
    node.put(decisions);
}
