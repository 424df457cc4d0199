//! A rollout in which everything that a decision depends on can be changed, and what is done next, in few words. For tests of the state
//! machine.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_crds::{
    ModelVersion,
    inference_service::{InferenceServiceStatus, Rollout, Server},
};

use super::{
    canary::Judgement,
    commands::{Command, Verb},
    fixtures::{IMAGE, approved, at, rolling_out},
    phase::{self, Facts, Move},
    pods::{Pods, Trouble},
    revision::Revision,
    swap,
    target::Target,
};

/// A rollout at second 100 that began at second 0; everything in it can be changed.
pub struct Given {
    pub status: InferenceServiceStatus,
    pub rollout: Rollout,
    pub replicas: i32,
    pub target: Target,
    pub is_pinned: bool,
    pub canary_gone: Option<&'static str>,
    pub command: Option<Command>,
    pub ready: i32,
    pub trouble: Option<Trouble>,
    pub swap: swap::Seen,
    pub lost: bool,
    pub stable_down: i64,
    pub accepted: bool,
    pub judgement: Judgement,
    pub rehearsed: Pods,
    pub compared: i64,
    pub now: i64,
}

/// What would be tried of a version.
pub fn revision(version: &ModelVersion) -> Revision {
    let status = InferenceServiceStatus::default();
    Revision::of(version, &Server::default(), &status, IMAGE)
}

/// The version `fraud-2` has this share of the requests, and `fraud-1` the others.
pub fn given(weight: i32) -> Given {
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), weight);
    if let Some(rollout) = status.rollout.as_mut().filter(|_| (1..100).contains(&weight)) {
        rollout.step_start_time = Some(Time(at(50)));
    }
    Given {
        status,
        rollout: Rollout::default(),
        replicas: 1,
        target: Target::Revision(revision(&approved("fraud", 2))),
        is_pinned: false,
        canary_gone: None,
        command: None,
        ready: 1,
        trouble: None,
        swap: swap::Seen::default(),
        lost: false,
        stable_down: 0,
        accepted: true,
        judgement: Judgement::none(),
        rehearsed: Pods::default(),
        compared: 0,
        now: 100,
    }
}

impl Given {
    /// The same, with a change.
    pub fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What is done next.
    pub fn next(&self) -> Move {
        phase::next(&Facts {
            now: at(self.now),
            status: &self.status,
            rollout: &self.rollout,
            replicas: self.replicas,
            target: &self.target,
            is_pinned: self.is_pinned,
            canary_gone: self.canary_gone,
            command: self.command.as_ref(),
            canary_ready: self.ready,
            canary_trouble: self.trouble.as_ref(),
            swap: &self.swap,
            stable_is_lost: self.lost,
            stable_down_seconds: self.stable_down,
            is_accepted: self.accepted,
            followers: "router",
            judgement: &self.judgement,
            rehearsed: &self.rehearsed,
            to_rehearse: None,
            copies: (self.compared, &[]),
        })
    }

    /// The move in few words.
    pub fn word(&self) -> String {
        match self.next() {
            Move::Stay(_) => "stay".to_owned(),
            Move::Begin(revision) => format!("begin {}", revision.model_version),
            Move::Scale(replicas) => format!("scale {replicas}"),
            Move::Weigh { weight, step, reason, .. } => format!("weigh {weight} step {step:?} {reason}"),
            Move::Measure => "measure".to_owned(),
            Move::Promote => "promote".to_owned(),
            Move::Reject { reason, .. } => format!("reject {reason}"),
            Move::Withdraw { reason, .. } => format!("withdraw {reason}"),
            Move::Lose => "lose".to_owned(),
            Move::Forget(_) => "forget".to_owned(),
            Move::Prepare => "prepare".to_owned(),
            Move::Recreate { .. } => "recreate".to_owned(),
            Move::Swap { .. } => "swap".to_owned(),
            Move::SwapPod(pod) => format!("swap pod {pod}"),
            Move::Share(weight) => format!("share {weight}"),
            Move::HandedOver => "handed over".to_owned(),
            Move::Pause => "pause".to_owned(),
            Move::Resume => "resume".to_owned(),
            Move::Return { reason, decided_by, .. } => format!("return {reason} by {decided_by:?}"),
            Move::Baked { reason, .. } => format!("baked {reason}"),
            Move::Hold(version) => format!("hold {version}"),
            Move::Follow => "follow".to_owned(),
            Move::Rehearse(revision, wanted) => format!("rehearse {} with {wanted}", revision.model_version),
            Move::Rehearsed { verdict, .. } => format!("rehearsed {verdict:?}"),
        }
    }
}

/// Nothing is tried.
pub fn idle(status: InferenceServiceStatus, target: Target) -> Given {
    given(0).but(|g| {
        g.status = status;
        g.target = target;
    })
}

/// The evidence is against it.
pub fn bad() -> Judgement {
    Judgement::Bad { reason: "ErrorRate".to_owned(), message: "worse".to_owned(), checks: Vec::new() }
}

/// The evidence is for it.
pub fn good() -> Judgement {
    Judgement::Good { checks: Vec::new() }
}

/// What a person asks for.
pub fn command(verb: Verb) -> Option<Command> {
    let (model_version, requests) = (None, None);
    let (revision, nonce) = ("r".to_owned(), "n".to_owned());
    Some(Command { verb, revision, model_version, requests, nonce, expires: at(1_000) })
}

/// Why a pod is not ready.
pub fn trouble(is_final: bool) -> Option<Trouble> {
    Some(Trouble { reason: "InvalidModel".to_owned(), message: "no ONNX".to_owned(), is_final })
}

/// Each case has its name and the word for what is done next.
pub fn check(cases: Vec<(&str, Given, &str)>) {
    for (case, given, expected) in cases {
        assert_eq!(given.word(), expected, "{case}");
    }
}
