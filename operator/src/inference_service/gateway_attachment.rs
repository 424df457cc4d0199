//! The Gateways that a route is attached to: those that are named, and those that keep it until all of these have accepted. Pure.

use millrace_crds::inference_service as spec;

use super::{
    gateway_answers::{self as answers, Verdict},
    gateway_api::{Gateway, HTTPRoute, ParentReference},
    status::Said,
};
use crate::cluster::Lookup;

/// Parents that an HTTPRoute may have; the spec names fewer.
const MOST_PARENTS: usize = 32;

/// What the route is attached to, and what is said of it there.
#[derive(Clone, Debug)]
pub struct Attachment {
    named: Vec<ParentReference>,
    verdicts: Vec<Verdict>,
    absent: Vec<bool>,
    /// Not named any more, and in the route still.
    kept: Vec<ParentReference>,
    namespace: String,
}

impl Attachment {
    /// Of a route in this namespace, as it is stored.
    pub fn of(gateway: &spec::Gateway, found: &[Lookup<Gateway>], live: Option<&HTTPRoute>, namespace: String) -> Self {
        let named: Vec<ParentReference> =
            gateway.parent_refs.iter().map(|parent| reference(parent, &namespace)).collect();
        let with_gateways = || named.iter().enumerate().map(|(index, parent)| (parent, found.get(index)));
        let verdicts: Vec<_> =
            with_gateways().map(|(parent, gateway)| answers::verdict(live, parent, gateway)).collect();
        let absent: Vec<_> =
            with_gateways().map(|(parent, gateway)| answers::missing(parent, gateway).is_some()).collect();
        let has_accepted = verdicts.iter().all(|verdict| *verdict == Verdict::Accepted);
        let kept = if has_accepted { Vec::new() } else { kept(live, &named, &absent, &namespace) };
        Self { named, verdicts, absent, kept, namespace }
    }

    /// The parents to write: those that are named, but for absent ones that one of the kept excludes, and the kept.
    pub fn parents(&self) -> Vec<ParentReference> {
        let is_excluded =
            |parent: &ParentReference| self.kept.iter().any(|former| answers::exclude_each_other(parent, former));
        let named =
            self.named.iter().zip(&self.absent).filter(|(parent, is_absent)| !**is_absent || !is_excluded(parent));
        named.map(|(parent, _)| parent).chain(&self.kept).cloned().collect()
    }

    /// Whether Gateways that are not named any more keep the route.
    pub fn keeps_others(&self) -> bool {
        !self.kept.is_empty()
    }

    /// What the condition says.
    pub fn said(&self, is_written: bool) -> Said {
        answers::said(&self.named, &self.verdicts, &self.kept, is_written)
    }

    /// Whether everybody who may lead requests somewhere has accepted the live route. A Gateway that does not exist leads none.
    pub fn follows(&self, live: Option<&HTTPRoute>) -> bool {
        let mut named = self.verdicts.iter().zip(&self.absent);
        let mut kept = self.kept.iter();
        named.all(|(verdict, is_absent)| *is_absent || *verdict == Verdict::Accepted)
            && kept.all(|parent| answers::verdict(live, parent, None) == Verdict::Accepted)
    }

    /// Whether the live route is attached as is wanted; its rules are not looked at.
    pub fn is_written(&self, live: Option<&HTTPRoute>, wanted: &HTTPRoute) -> bool {
        let Some(live) = live else { return false };
        let stored = live.spec.parent_refs.iter().map(|parent| answers::whole(parent, &self.namespace));
        stored.eq(wanted.spec.parent_refs.iter().cloned()) && live.spec.hostnames == wanted.spec.hostnames
    }
}

/// Parents that lead requests here and are not named any more. A Gateway as a whole and a listener of it can't both be parents: what
/// is named goes first, unless it is absent and can't lead anything.
fn kept(
    live: Option<&HTTPRoute>,
    parents: &[ParentReference],
    absent: &[bool],
    namespace: &str,
) -> Vec<ParentReference> {
    let all = live.iter().flat_map(|live| &live.spec.parent_refs).map(|parent| answers::whole(parent, namespace));
    let gives_way = |former: &ParentReference| {
        let mut named = parents.iter().zip(absent);
        named.any(|(parent, is_absent)| !is_absent && answers::exclude_each_other(parent, former))
    };
    all.filter(|former| !parents.contains(former) && answers::carries(live, former) && !gives_way(former))
        .take(MOST_PARENTS - parents.len())
        .collect()
}

fn reference(parent: &spec::ParentRef, namespace: &str) -> ParentReference {
    let written = ParentReference {
        namespace: parent.namespace.clone(),
        name: parent.name.clone(),
        section_name: parent.section_name.clone(),
        ..ParentReference::default()
    };
    answers::whole(&written, namespace)
}
