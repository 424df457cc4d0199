//! How a new revision takes over, and what decides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Analysis;

/// How a new revision takes over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.steps.size() < 2 || self.steps.all(s, self.steps.filter(t, t.weight == s.weight).size() == 1)",
    "message": "each step needs a weight of its own",
}, {
    "rule": "self.strategy != 'Shadow' || has(self.shadow)",
    "message": "strategy Shadow needs rollout.shadow: how many requests are copied",
}, {
    "rule": "!('agreement' in self.analysis.checks) || has(self.shadow)",
    "message": "the check agreement compares answers to copies of requests: it needs rollout.shadow",
}, {
    "rule": "!has(self.analysis.dryRun) || self.analysis.dryRun.all(c, c in self.analysis.checks || (c == 'agreement' && self.strategy == 'Shadow'))",
    "message": "analysis.dryRun names a check that analysis.checks lacks: add it there, or take it out here",
}]))]
pub struct Rollout {
    /// Kind of rollout.
    #[serde(default)]
    pub strategy: Strategy,
    /// Steps of a canary, by ascending weight; after the last one it is promoted. Only strategy Canary has steps; with another one
    /// they wait until it is chosen.
    #[serde(default = "default_steps")]
    #[schemars(extend("minItems" = 1, "maxItems" = 16))]
    pub steps: Vec<Step>,
    /// What decides. With strategy Replace nothing does: all requests move before anything could be compared. Strategies BlueGreen and
    /// Shadow compare copies and ask `metrics`; `errorRate`, `latency` and `predictionDrift` need the share of requests that only
    /// Canary gives.
    #[serde(default)]
    pub analysis: Analysis,
    /// Whether a failure of the canary is answered by the stable revision, and counted against the canary.
    #[serde(default = "yes")]
    pub shield: bool,
    /// Longest a new revision may take to become ready, in seconds; then it is rejected.
    #[serde(default = "progress_deadline")]
    #[schemars(extend("minimum" = 10, "maximum" = 86_400))]
    pub progress_deadline_seconds: i64,
    /// Preview and switch of strategy BlueGreen; the switch of strategy Shadow too. With another strategy it waits until one of them
    /// is chosen.
    #[serde(default)]
    pub switch: Switch,
    /// Copies of live requests for the new revision, whose answers nobody gets but which are compared. With strategies Canary and
    /// BlueGreen they are sent beside the steps or before the switch, and decide where `analysis.checks` has `agreement`. Rehearsals go by
    /// it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// How long the former revision stays warm after promotion, in seconds. A failure of the new one is answered by it meanwhile, and
    /// one that gets worse gives the requests back at once.
    #[serde(default)]
    #[schemars(extend("minimum" = 0, "maximum" = 604_800))]
    pub bake_seconds: i64,
    /// What happens where the nodes have no room for a second revision.
    #[serde(default)]
    pub capacity: Capacity,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            steps: default_steps(),
            analysis: Analysis::default(),
            shield: yes(),
            progress_deadline_seconds: progress_deadline(),
            switch: Switch::default(),
            shadow: None,
            bake_seconds: 0,
            capacity: Capacity::default(),
        }
    }
}

fn yes() -> bool {
    true
}

fn progress_deadline() -> i64 {
    600
}

fn default_steps() -> Vec<Step> {
    vec![Step::new(5, 120), Step::new(25, 120), Step::new(50, 120)]
}

/// Kind of rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// A growing share of requests, measured at every step.
    #[default]
    Canary,
    /// The new revision starts in full beside the stable one, reached by its preview name only, and takes all requests in one
    /// switch.
    BlueGreen,
    /// The new revision answers copies of live requests, which are compared, and takes all requests in one switch.
    Shadow,
    /// All requests at once, as soon as the new revision is ready.
    Replace,
}

/// One step of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Share of requests, in percent.
    #[schemars(extend("minimum" = 1, "maximum" = 99))]
    pub weight: i32,
    /// Least time at this step, in seconds.
    #[serde(default = "hold")]
    #[schemars(extend("minimum" = 0, "maximum" = 604_800))]
    pub hold_seconds: i64,
    /// Who lets the rollout leave this step once it has passed.
    #[serde(default)]
    pub approval: StepApproval,
}

impl Step {
    /// A step that is left without a person.
    pub fn new(weight: i32, hold_seconds: i64) -> Self {
        Self { weight, hold_seconds, approval: StepApproval::Automatic }
    }
}

fn hold() -> i64 {
    60
}

/// Who lets a rollout go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StepApproval {
    /// The evidence alone.
    #[default]
    Automatic,
    /// A person, with `kubectl millrace promote`; bad evidence still rejects.
    Manual,
}

/// The one switch of a rollout without steps. While it is prepared, the new revision is reached as `NAME-preview`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// Least time between the last pod's readiness and the switch, in seconds.
    #[serde(default = "hold")]
    #[schemars(extend("minimum" = 0, "maximum" = 604_800))]
    pub hold_seconds: i64,
    /// Who lets it happen.
    #[serde(default)]
    pub approval: StepApproval,
}

impl Default for Switch {
    fn default() -> Self {
        Self { hold_seconds: hold(), approval: StepApproval::default() }
    }
}

/// Copies of live requests. The client is answered first; copies are the first to go when routers are short of anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shadow {
    /// Share of the requests that is copied, in percent.
    #[serde(default = "all_of_them")]
    #[schemars(extend("minimum" = 0.01, "maximum" = 100))]
    pub percent: f64,
    /// Copies that must have been compared before `agreement` and `latencyRatio` can pass.
    #[serde(default = "min_copies")]
    #[schemars(extend("minimum" = 10, "maximum" = 100_000_000))]
    pub min_copies: i64,
    /// Share of the copies whose answer must agree with the live one: the same classes, numbers within `tolerance`. A copy that fails
    /// does not agree.
    #[serde(default = "min_agreement")]
    #[schemars(extend("minimum" = 0.5, "maximum" = 0.9999))]
    pub min_agreement: f64,
    /// Numbers agree when they differ by at most this part of the greater of 1 and the live number.
    #[serde(default = "tolerance")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub tolerance: f64,
    /// How many times as long as the live request a copy may take; more than half of them must not be slower.
    #[serde(default = "max_latency_ratio")]
    #[schemars(extend("minimum" = 0.25, "maximum" = 100))]
    pub max_latency_ratio: f64,
}

fn all_of_them() -> f64 {
    100.0
}

fn min_copies() -> i64 {
    500
}

fn min_agreement() -> f64 {
    0.95
}

fn tolerance() -> f64 {
    0.01
}

fn max_latency_ratio() -> f64 {
    2.0
}

/// What happens where the nodes have no room for a second revision (its pods can't be scheduled).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Capacity {
    /// It waits for room until `progressDeadlineSeconds`.
    #[default]
    Surge,
    /// After 30 s the stable pods go first and the new ones take their room: requests are held or fall back meanwhile, and nothing
    /// can be compared. Said in status before it happens.
    Recreate,
    /// After 30 s the running pods load the new model and serve it in place of the former, one after the other: they keep node and GPU, no
    /// pod starts, somebody answers at every moment, and nothing is compared. Where more than the model has changed (server block,
    /// server image), or the pods were made by an earlier release, as Recreate.
    Swap,
}
