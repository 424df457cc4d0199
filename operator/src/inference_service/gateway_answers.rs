//! What Gateways answer to an HTTPRoute, and how it is told. Pure.
//!
//! An answer counts for the generation it names. For one parent several controllers may have written: one that says `NoMatchingParent`
//! speaks of a Gateway that is another's, unless nobody else says anything.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::{
    gateway_api::{GROUP, Gateway, HTTPRoute, ParentReference, RouteParentStatus},
    status::Said,
};
use crate::{
    cluster::Lookup,
    conditions::{Is, find, is_true},
};

/// What must be True at the route's generation.
const REQUIRED: [&str; 2] = ["Accepted", "ResolvedRefs"];
/// True: a part of the route is left out.
const PARTIALLY_INVALID: &str = "PartiallyInvalid";
/// Reason of a controller for a parent that it does not know.
const NO_MATCHING_PARENT: &str = "NoMatchingParent";

/// What one parent says of the newest generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has accepted the route, and found all that it refers to.
    Accepted,
    /// It has not answered yet; why, where something is known.
    Waiting(Option<String>),
    /// It says no, or does not exist: reason and a sentence.
    Rejected(String, String),
}

/// A reference with what the API server would fill in, so that equal ones are equal.
pub fn whole(parent: &ParentReference, namespace: &str) -> ParentReference {
    let or = |value: &Option<String>, default: &str| Some(value.clone().unwrap_or_else(|| default.to_owned()));
    ParentReference {
        group: or(&parent.group, GROUP),
        kind: or(&parent.kind, "Gateway"),
        namespace: or(&parent.namespace, namespace),
        ..parent.clone()
    }
}

/// Why nobody can ever answer for a parent: it does not exist, or has no such listener.
pub fn missing(parent: &ParentReference, gateway: Option<&Lookup<Gateway>>) -> Option<Verdict> {
    let rejected = |reason: &str, why: String| Some(Verdict::Rejected(reason.to_owned(), why));
    match (gateway, &parent.section_name) {
        (Some(Lookup::Absent | Lookup::NotServed), _) => {
            rejected("GatewayNotFound", "it does not exist: create it, or name another".to_owned())
        }
        (Some(Lookup::Found(found)), Some(section)) => {
            let has_it = found.spec.listeners.iter().any(|listener| listener.name == *section);
            let why = format!("it has no listener {section}: correct sectionName, or add the listener");
            if has_it { None } else { rejected("ListenerNotFound", why) }
        }
        (Some(Lookup::Found(_)), None) | (Some(Lookup::Forbidden) | None, _) => None,
    }
}

/// Whether both may not be parents of one route: a Gateway as a whole, and a listener of it.
pub fn exclude_each_other(one: &ParentReference, other: &ParentReference) -> bool {
    let as_a_whole = |parent: &ParentReference| ParentReference { section_name: None, port: None, ..parent.clone() };
    let is_same = as_a_whole(one) == as_a_whole(other);
    is_same && (one.section_name.is_none() || other.section_name.is_none())
}

/// What a parent says of the live route. `parent` is whole.
pub fn verdict(live: Option<&HTTPRoute>, parent: &ParentReference, gateway: Option<&Lookup<Gateway>>) -> Verdict {
    if let Some(missing) = missing(parent, gateway) {
        return missing;
    }
    let generation = live.and_then(|live| live.metadata.generation).unwrap_or_default();
    let (unknown, known): (Vec<_>, Vec<_>) = of_parent(live, parent).partition(|entry| is_of_another(entry));
    let counted = if known.is_empty() { unknown } else { known };
    let answers: Vec<Verdict> = counted.into_iter().map(|entry| answer(entry, generation)).collect();
    let rejected = answers.iter().find(|answer| matches!(answer, Verdict::Rejected(..)));
    let waiting = answers.iter().find(|answer| matches!(answer, Verdict::Waiting(_)));
    rejected.or(waiting).or(answers.first()).cloned().unwrap_or_else(|| Verdict::Waiting(class(gateway)))
}

/// Whether a parent has accepted this or an earlier generation. `parent` is whole.
pub fn carries(live: Option<&HTTPRoute>, parent: &ParentReference) -> bool {
    of_parent(live, parent).any(|entry| is_true(&entry.conditions, "Accepted"))
}

fn of_parent<'a>(live: Option<&'a HTTPRoute>, parent: &ParentReference) -> impl Iterator<Item = &'a RouteParentStatus> {
    let namespace = live.and_then(|live| live.namespace()).unwrap_or_default();
    let entries = live.and_then(|live| live.status.as_ref()).map(|status| &status.parents[..]).unwrap_or_default();
    entries.iter().filter(move |entry| whole(&entry.parent_ref, &namespace) == *parent)
}

fn is_of_another(entry: &RouteParentStatus) -> bool {
    find(&entry.conditions, "Accepted").is_some_and(|accepted| accepted.reason == NO_MATCHING_PARENT)
}

/// Who should answer, where nobody does.
fn class(gateway: Option<&Lookup<Gateway>>) -> Option<String> {
    let Some(Lookup::Found(gateway)) = gateway else { return None };
    Some(format!("is the controller of its GatewayClass {} running?", gateway.spec.gateway_class_name))
}

fn answer(entry: &RouteParentStatus, generation: i64) -> Verdict {
    let is_current = |condition: &&Condition| condition.observed_generation.is_none_or(|seen| seen >= generation);
    let said = |kind: &str| find(&entry.conditions, kind).filter(is_current);
    let no = |condition: &Condition| {
        let Condition { type_, status, reason, message, .. } = condition;
        let because = if message.is_empty() { String::new() } else { format!(": {message}") };
        let sentence = format!("{} says {type_}={status} {reason}{because}", entry.controller_name);
        Verdict::Rejected(reason.clone(), sentence)
    };
    let denial = REQUIRED.iter().filter_map(|kind| said(kind)).find(|condition| condition.status == Is::False.as_str());
    let partial = said(PARTIALLY_INVALID).filter(|condition| condition.status == Is::True.as_str());
    if let Some(condition) = denial.or(partial) {
        return no(condition);
    }
    let open = REQUIRED.iter().find(|kind| said(kind).is_none_or(|condition| condition.status != Is::True.as_str()));
    match open {
        Some(kind) => {
            Verdict::Waiting(Some(format!("{} has not said {kind} of generation {generation}", entry.controller_name)))
        }
        None => Verdict::Accepted,
    }
}

/// What the condition says. `kept` are parents that are not named any more and have the route still.
pub fn said(parents: &[ParentReference], verdicts: &[Verdict], kept: &[ParentReference], is_written: bool) -> Said {
    let named = |index: usize| format!("spec.gateway.parentRefs[{index}], {}", described(&parents[index]));
    let rejected = verdicts.iter().enumerate().filter_map(|(index, verdict)| match verdict {
        Verdict::Rejected(reason, why) => Some((reason, format!("{}: {why}", named(index)))),
        Verdict::Accepted | Verdict::Waiting(_) => None,
    });
    let rejected: Vec<_> = rejected.collect();
    let waiting = verdicts.iter().enumerate().filter_map(|(index, verdict)| match verdict {
        Verdict::Waiting(why) => {
            let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            Some(format!("{} has not answered{why}", named(index)))
        }
        Verdict::Accepted | Verdict::Rejected(..) => None,
    });
    let waiting: Vec<_> = waiting.collect();
    let sentences = |all: Vec<String>| [all.join("; "), going_on(kept)].concat();
    match rejected.first() {
        Some((reason, _)) => {
            let all = rejected.iter().map(|(_, sentence)| sentence.clone()).collect();
            (Is::False, (*reason).clone(), sentences(all))
        }
        None if !is_written => (Is::Unknown, "Pending".to_owned(), "the HTTPRoute is being written".to_owned()),
        None if !waiting.is_empty() => (Is::Unknown, "Waiting".to_owned(), sentences(waiting)),
        None => {
            let all: Vec<String> = parents.iter().map(described).collect();
            (Is::True, "Accepted".to_owned(), format!("the HTTPRoute is accepted by {}", all.join(", ")))
        }
    }
}

fn going_on(kept: &[ParentReference]) -> String {
    if kept.is_empty() {
        return String::new();
    }
    let kept: Vec<String> = kept.iter().map(described).collect();
    format!("; until that is put right the HTTPRoute stays with {} as well", kept.join(", "))
}

fn described(parent: &ParentReference) -> String {
    let ParentReference { kind, namespace, name, section_name, .. } = parent;
    let kind = kind.as_deref().unwrap_or("Gateway");
    let listener = section_name.as_ref().map(|section| format!(" listener {section}")).unwrap_or_default();
    format!("{kind} {}/{name}{listener}", namespace.as_deref().unwrap_or_default())
}

#[cfg(test)]
#[path = "gateway_answers_tests.rs"]
mod tests;
