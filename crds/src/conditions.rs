//! Condition types and reasons that several kinds share. Ready, Reconciling and Stalled follow kstatus: Reconciling and
//! Stalled are only present while they are True.

/// The object does what its spec asks.
pub const READY: &str = "Ready";
/// Work goes on; present only while True.
pub const RECONCILING: &str = "Reconciling";
/// No progress without a change from outside; present only while True.
pub const STALLED: &str = "Stalled";
/// Dataset: the newest content satisfies every blocking expectation.
pub const EXPECTATIONS_MET: &str = "ExpectationsMet";
/// ModelVersion: the evaluation has finished.
pub const EVALUATED: &str = "Evaluated";
/// ModelVersion: every gate passed.
pub const GATES_PASSED: &str = "GatesPassed";
/// ModelVersion: it may be used.
pub const APPROVED: &str = "Approved";
/// InferenceService: the newest rollout ended with promotion.
pub const ROLLOUT_SUCCEEDED: &str = "RolloutSucceeded";
/// InferenceService: inputs have drifted from the training data.
pub const DRIFTED: &str = "Drifted";
/// InferenceService: what retraining needs is there; present only while it is asked for and something serves.
pub const RETRAINING_READY: &str = "RetrainingReady";
/// InferenceService: a command decided instead of the evidence; present only while True.
pub const OVERRIDDEN: &str = "Overridden";
/// InferenceService: a person keeps the rollout from going forward.
pub const PAUSED: &str = "Paused";
/// InferenceService: every revision that routes and the fallback name is served.
pub const ROUTES_READY: &str = "RoutesReady";
/// InferenceService: routers know keys of every kind by which callers shall be verified; present only with `auth`.
pub const AUTH_READY: &str = "AuthReady";
/// InferenceService: servers write what they shall write down; present only with `server.payloadLog`.
pub const PAYLOAD_LOG_READY: &str = "PayloadLogReady";
/// InferenceService: every Gateway has accepted the HTTPRoute that was written last; present only while Gateways are asked for.
pub const GATEWAY_READY: &str = "GatewayReady";
