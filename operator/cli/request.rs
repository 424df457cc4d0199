//! `promote`, `pause`, `resume`, `abort`, `retry`, `rollback`, `rehearse`: a request on the object that the operator acts on once, and its outcome.
//!
//! Whether a request makes sense is decided by the operator's own code, so that both say the same.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use millrace_contract::decision::DecidedBy;
use millrace_crds::{
    InferenceService, InferenceServiceStatus,
    inference_service::{RejectedRevision, RevisionStatus},
    labels::{CLI_FIELD_MANAGER, COMMAND, COMMAND_BY},
};
use millrace_operator::inference_service::{
    commands::{Command, Met, Request, Verb, request, signature},
    pair::running_rehearsal,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cluster;

const PAUSE: Duration = Duration::from_millis(500);
/// The Event that tells of a refusal comes after the status.
const EVENT_DEADLINE: Duration = Duration::from_secs(5);
/// Reason of that Event.
const REFUSED: &str = "CommandRefused";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The next step, or all requests.
    Promote {
        full: bool,
    },
    Pause,
    Resume,
    Abort,
    /// Of this ModelVersion, or of the one rejected last.
    Retry {
        version: Option<String>,
    },
    /// To this ModelVersion, or to the one that is warm.
    Rollback {
        to: Option<String>,
    },
    Rehearse {
        version: String,
        requests: Option<i64>,
    },
}

impl Wish {
    fn verb(&self) -> Verb {
        match self {
            Self::Promote { full: false } => Verb::Promote,
            Self::Promote { full: true } => Verb::PromoteFull,
            Self::Pause => Verb::Pause,
            Self::Resume => Verb::Resume,
            Self::Abort => Verb::Abort,
            Self::Retry { .. } => Verb::Retry,
            Self::Rollback { .. } => Verb::Rollback,
            Self::Rehearse { .. } => Verb::Rehearse,
        }
    }

    fn as_str(&self) -> &'static str {
        match self {
            Self::Promote { .. } => "promote",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Retry { .. } => "retry",
            Self::Rollback { .. } => "roll back",
            Self::Rehearse { .. } => "rehearse",
        }
    }
}

/// Asks and waits; returns what to print.
pub async fn run(client: Client, namespace: &str, name: &str, wish: &Wish, timeout: u32) -> anyhow::Result<String> {
    let api: Api<InferenceService> = Api::namespaced(client.clone(), namespace);
    let service = cluster::get(&api, name).await?;
    let before = service.status.clone().unwrap_or_default();
    let versions = cluster::versions_of(&client, namespace, &service.spec.model).await?;
    let met = Met { status: &before, model: &service.spec.model, versions: &versions };
    let now = Timestamp::now();
    let nonce = format!("{:016x}", rand::random::<u64>());
    let (command, version) = command(wish, met, nonce, now, timeout).map_err(|why| anyhow::anyhow!("{name}: {why}"))?;
    let by = signed(client.clone(), &command.nonce).await;
    write(&api, &service, annotations(&command, by)?).await.with_context(|| format!("{} {name}", wish.as_str()))?;
    eprintln!("asked to {} {version}; waiting for the operator", wish.as_str());

    let after = handled(&api, name, &command, timeout).await?;
    let known = outcome(&command, &before, &after);
    match known {
        Some(message) => Ok(message),
        None => match refusal(client, namespace, &service, now).await? {
            Some(message) => anyhow::bail!("the operator refused: {message}"),
            None => Ok(format!("the operator has handled the request; next: {}", after.next_step.unwrap_or_default())),
        },
    }
}

/// The request and the version it is about, or why it makes no sense. Pure.
fn command(
    wish: &Wish,
    met: Met<'_>,
    nonce: String,
    now: Timestamp,
    timeout: u32,
) -> Result<(Command, String), String> {
    let (revision, version) = about(wish, met.status)?;
    let expires = now.checked_add(SignedDuration::from_secs(i64::from(timeout))).map_err(|error| error.to_string())?;
    let (model_version, requests) = match wish {
        Wish::Rollback { to } => (to.clone(), None),
        Wish::Rehearse { version, requests } => (Some(version.clone()), *requests),
        Wish::Promote { .. } | Wish::Pause | Wish::Resume | Wish::Abort | Wish::Retry { .. } => (None, None),
    };
    let command = Command { verb: wish.verb(), revision, model_version, requests, nonce, expires };
    let text = serde_json::to_string(&command).map_err(|error| error.to_string())?;
    match request(Some(&text), met, now) {
        Request::Accepted(command) => Ok((command, version)),
        Request::Refused { message, .. } => Err(message),
        Request::None => Err("the operator would take this request for an old one: ask again".to_owned()),
    }
}

/// The revision and the version that a wish is about.
fn about(wish: &Wish, status: &InferenceServiceStatus) -> Result<(String, String), String> {
    let named = |revision: &RevisionStatus| (revision.revision.clone(), revision.model_version.clone());
    let stable = || status.stable.as_ref().map(named).ok_or_else(|| nothing_rolls_out(status));
    match wish {
        Wish::Promote { .. } | Wish::Pause => {
            status.canary.as_ref().map(named).ok_or_else(|| nothing_rolls_out(status))
        }
        Wish::Resume => status.canary.as_ref().map(named).map_or_else(stable, Ok),
        Wish::Abort => {
            let rehearsed = running_rehearsal(status);
            let tried = status.canary.as_ref().or(rehearsed.map(|rehearsal| &rehearsal.revision));
            tried.map(named).ok_or_else(|| nothing_rolls_out(status))
        }
        Wish::Retry { version } => {
            let rejected = to_retry(&status.rejected, version.as_deref())?;
            Ok((rejected.revision.clone(), rejected.model_version.clone()))
        }
        Wish::Rollback { .. } => stable(),
        Wish::Rehearse { version, .. } => Ok((String::new(), version.clone())),
    }
}

fn nothing_rolls_out(status: &InferenceServiceStatus) -> String {
    match &status.stable {
        Some(stable) => format!("nothing is being rolled out: {} serves all requests", stable.model_version),
        None => "nothing is being rolled out, and nothing serves yet".to_owned(),
    }
}

fn to_retry<'a>(rejected: &'a [RejectedRevision], version: Option<&str>) -> Result<&'a RejectedRevision, String> {
    let newest = rejected
        .iter()
        .filter(|one| version.is_none_or(|version| one.model_version == version))
        .max_by_key(|one| one.time.0);
    newest.ok_or_else(|| match version {
        Some(version) => format!("{version} is not among the rejected revisions: there is nothing to retry"),
        None => "no revision is remembered as rejected: there is nothing to retry".to_owned(),
    })
}

/// Who asks, as it is written beside the request. Where the API server does not say, the request is made all the same, by nobody.
async fn signed(client: Client, nonce: &str) -> Option<String> {
    match cluster::user(client).await {
        Ok(user) => signature(nonce, &user),
        Err(error) => {
            eprintln!("the request does not name you: {error:#}");
            None
        }
    }
}

/// What is written. Pure.
fn annotations(command: &Command, by: Option<String>) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let mut annotations = BTreeMap::from([(COMMAND, serde_json::to_string(command)?)]);
    annotations.extend(by.map(|by| (COMMAND_BY, by)));
    Ok(annotations)
}

async fn write(
    api: &Api<InferenceService>,
    service: &InferenceService,
    annotations: BTreeMap<&'static str, String>,
) -> anyhow::Result<()> {
    // With the uid, a service that was deleted meanwhile is not made anew.
    let body = json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService",
        "metadata": {"name": service.name_any(), "uid": service.uid(), "annotations": annotations},
    });
    let params = PatchParams::apply(CLI_FIELD_MANAGER).force();
    api.patch(&service.name_any(), &params, &Patch::Apply(&body)).await?;
    Ok(())
}

/// Waits until the operator has handled the request; tells meanwhile what it waits for.
async fn handled(
    api: &Api<InferenceService>,
    name: &str,
    command: &Command,
    timeout: u32,
) -> anyhow::Result<InferenceServiceStatus> {
    let deadline = Instant::now() + Duration::from_secs(u64::from(timeout));
    let mut told = String::new();
    while Instant::now() < deadline {
        let status = cluster::get(api, name).await?.status.unwrap_or_default();
        if status.handled_command.as_ref() == Some(&command.nonce) {
            return Ok(status);
        }
        let next = status.next_step.unwrap_or_default();
        if next != told && !told.is_empty() {
            eprintln!("  {next}");
        }
        told = next;
        sleep(PAUSE).await;
    }
    anyhow::bail!(
        "the operator did not handle the request within {timeout} s, and the request is void now: is the operator running?"
    )
}

/// What the status says of a request that was acted on. Pure.
fn outcome(command: &Command, before: &InferenceServiceStatus, after: &InferenceServiceStatus) -> Option<String> {
    let last = before.history.iter().map(|decision| decision.id).max().unwrap_or_default();
    let by_request = after.history.iter().find(|decision| {
        let DecidedBy::User = decision.decided_by else { return false };
        decision.id > last
    });
    let next = after.next_step.clone().unwrap_or_default();
    match command.verb {
        Verb::Promote | Verb::PromoteFull | Verb::Pause | Verb::Resume | Verb::Abort | Verb::Rollback => {
            by_request.map(|decision| format!("{}: {}", decision.reason, decision.message))
        }
        Verb::Rehearse => {
            let started = after.rehearsal.as_ref().filter(|now| before.rehearsal.as_ref() != Some(now))?;
            Some(format!("{}; kubectl millrace status shows what the copies say", started.message))
        }
        Verb::Retry => {
            let is_forgotten = !after.rejected.iter().any(|rejected| rejected.revision == command.revision);
            is_forgotten
                .then(|| format!("revision {} is not remembered as rejected any more; next: {next}", command.revision))
        }
    }
}

/// The operator's words, where it refused after `since`.
async fn refusal(
    client: Client,
    namespace: &str,
    service: &InferenceService,
    since: Timestamp,
) -> anyhow::Result<Option<String>> {
    let api: Api<Event> = Api::namespaced(client, namespace);
    let fields = format!("involvedObject.uid={},reason={REFUSED}", service.uid().unwrap_or_default());
    let params = ListParams::default().fields(&fields);
    let deadline = Instant::now() + EVENT_DEADLINE;
    while Instant::now() < deadline {
        let events = api.list(&params).await.context("events")?;
        if let Some(message) = newest_since(&events.items, since) {
            return Ok(Some(message));
        }
        sleep(PAUSE).await;
    }
    Ok(None)
}

/// Clocks of two machines differ a little.
const SLACK: SignedDuration = SignedDuration::from_secs(2);

fn newest_since(events: &[Event], since: Timestamp) -> Option<String> {
    let time_of = |event: &Event| {
        let repeated = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        repeated.or(event.last_timestamp.as_ref().map(|time| time.0)).or(event.event_time.as_ref().map(|time| time.0))
    };
    let timed = events.iter().filter_map(|event| time_of(event).map(|time| (time, event)));
    let newest = timed.max_by_key(|(time, _)| *time).filter(|(time, _)| *time + SLACK >= since)?;
    newest.1.message.clone()
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
