//! `replay`: a decision of an InferenceService, computed again by the operator's own code from what it rested on.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use millrace_contract::decision::Decision;
use millrace_crds::InferenceService;
use millrace_operator::inference_service::{
    desired::records_name,
    replay::{Replayed, can_be_computed, replay},
};

use crate::{
    cluster,
    status::{check, verdict_tone, word},
    tree::{Node, Tone},
};

/// What to print, and whether the result is the recorded one.
pub async fn run(client: Client, namespace: &str, name: &str, id: i64) -> anyhow::Result<(String, bool)> {
    let service = cluster::get(&Api::<InferenceService>::namespaced(client.clone(), namespace), name).await?;
    let history = service.status.map(|status| status.history).unwrap_or_default();
    let known: Vec<String> = history.iter().map(|decision| decision.id.to_string()).collect();
    let Some(decision) = history.iter().find(|decision| decision.id == id) else {
        anyhow::bail!("{name} has no decision {id}; its history has {}", known.join(", "));
    };
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let stored = maps.get_opt(&records_name(name)).await?.and_then(|map| map.data).unwrap_or_default();
    let Some(inputs) = stored.get(&id.to_string()).filter(|_| can_be_computed(decision)) else {
        anyhow::bail!(
            "decision {id} ({}) rests on no evidence that was counted: {}",
            decision.reason,
            decision.message
        );
    };
    let replayed = replay(decision, inputs).map_err(|why| anyhow::anyhow!("{why}"))?;
    let is_same = replayed.differences.is_empty();
    Ok((shown(decision, &replayed), is_same))
}

/// Pure.
fn shown(decision: &Decision, replayed: &Replayed) -> String {
    let mut node = Node::new(format!("decision {} of {}", decision.id, decision.time))
        .and(verdict_tone(decision.verdict), word(Some(&decision.verdict)))
        .and(Tone::Plain, format!("{} {}: {}", word(Some(&decision.question)), decision.subject, decision.message));
    for one in &replayed.checks {
        node.put(check("check", one));
    }
    node.put(match replayed.differences.as_slice() {
        [] => Node::new("computed again").and(Tone::Good, "the same verdict, and the same numbers"),
        differences => Node::new("computed again").and(Tone::Bad, differences.join("; ")),
    });
    node.text(false)
}
