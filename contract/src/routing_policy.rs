//! How a router treats the requests of one InferenceService beside the weights: retries, ejection, sticky keys, routes, names of
//! revisions, mirror, fallback, holds and callers. Part of `plan.json`; whatever is absent is off or has the default given here.
//!
//! A revision named here must be a target of the plan (of weight 0, if the split shall not send it anything); a name that is none
//! is passed over by the router and told as a problem of the plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Buckets a sticky key can fall into; 1 in 10,000 is the finest sticky weight.
pub const STICKY_BUCKETS: u32 = 10_000;

/// Beside the split. The default is what routers did before there was any of it, with retries and ejection at their defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoutingPolicy {
    /// When a request is sent again.
    pub retries: Retries,
    /// When an endpoint that fails is left alone for a while.
    pub ejection: Ejection,
    /// Requests with the same key see the same revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Requests that are split in a way of their own; the first route that matches has the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Further names under which one revision alone is reached: as first label of the host, or as version in the path
    /// (`/v2/models/SERVICE/versions/NAME/...`). Values are revisions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, String>,
    /// Copies of requests for a revision whose answers nobody gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// Who answers when nobody of the split (nor the shield) does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Requests wait while no target has an endpoint. Absent: they are answered at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Who may call. Absent: everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Of a million requests that come without a trace, those whose new one is sampled. Servers record a trace as its beginning says.
    #[serde(skip_serializing_if = "is_zero")]
    pub traced_per_million: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// When a request is sent again within its revision. What the shield and the fallback answer is no retry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retries {
    /// Attempts at one revision, the first included; at least 1.
    pub max_attempts: u32,
    /// Retries of the last ten seconds may be so many of a hundred requests of that time.
    pub budget_percent: u32,
    /// Retries a second that are always allowed: a service with few requests has a budget too.
    pub min_per_second: u32,
    /// False: a request that a server may have read is not sent again, neither to another endpoint nor to the shield.
    pub idempotent: bool,
}

impl Default for Retries {
    fn default() -> Self {
        Self { max_attempts: 3, budget_percent: 20, min_per_second: 10, idempotent: true }
    }
}

/// When an endpoint gets no requests for a while, though it is ready: it refused, broke, timed out or answered 5xx so many times
/// in a row. Each further time in a row doubles the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ejection {
    /// Errors in a row; 0: never.
    pub consecutive_errors: u32,
    /// The first time out, in milliseconds.
    pub base_milliseconds: u64,
    /// The longest time out, in milliseconds.
    pub max_milliseconds: u64,
    /// At most so many of a hundred endpoints of a revision are out at once; the last one never is.
    pub max_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { consecutive_errors: 5, base_milliseconds: 5_000, max_milliseconds: 60_000, max_percent: 50 }
    }
}

/// The same key sees the same revision through every router and after every restart: the key's bucket is a hash of service, salt and
/// key, and the plan's targets own the buckets in their order, by weight. A target that grows at the cost of those before it only
/// gains buckets, so keep the new revision last. A request without a key is drawn at random.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sticky {
    /// Where the key is.
    pub key: Key,
    /// Changes who is in which bucket; constant during a rollout.
    #[serde(default)]
    pub salt: String,
    /// Lifetime of a cookie that the router sets for clients without one, in seconds.
    #[serde(default = "a_week")]
    pub cookie_seconds: u64,
}

fn a_week() -> u64 {
    7 * 24 * 3_600
}

/// A part of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Key {
    /// The header of this name.
    Header(String),
    /// The cookie of this name.
    Cookie(String),
    /// The claim of this name in the JWT that was verified; a dot reaches into objects. Needs `auth.jwt`.
    Claim(String),
    /// Who calls: the name of the API key, or the subject of the JWT.
    Caller,
}

/// Requests that match are split by weights of their own, and counted apart from the random split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Its name in the counts.
    pub name: String,
    /// All of them must hold.
    pub matches: Vec<Match>,
    /// Revisions and their parts of the sum. Sticky keys hold inside a route too.
    pub targets: Vec<Share>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// What is looked at.
    pub key: Key,
    /// What it must be.
    pub value: Value,
}

/// What a part of a request must be. A claim that is a list fulfils it with one of its items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Value {
    /// Just this.
    Exact(String),
    /// Begins so.
    Prefix(String),
    /// One of these.
    In(Vec<String>),
    /// True: there is one; false: there is none.
    Present(bool),
}

/// A revision's part of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The revision.
    pub revision: String,
    /// Part of the sum.
    pub weight: u32,
}

/// Copies of requests for another revision. The client is answered first; a copy waits for nobody, and is dropped first when the
/// router is short of anything. Of gRPC, `ModelInfer` is mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Who gets the copies.
    pub revision: String,
    /// How many of ten thousand requests are copied.
    pub per_ten_thousand: u32,
    /// Copies in flight; more are shed.
    #[serde(default = "default_mirror_in_flight")]
    pub max_in_flight: u32,
    /// Numbers agree when they differ by at most this part of the greater of 1 and the live number, in millionths.
    #[serde(default = "default_tolerance")]
    pub tolerance_millionths: u32,
}

fn default_mirror_in_flight() -> u32 {
    32
}

fn default_tolerance() -> u32 {
    10_000
}

/// The backup revision, and when it answers. Its answers carry `x-millrace-fallback` with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// Who answers.
    pub revision: String,
    /// When the chosen revision answers 429 or 503.
    #[serde(default = "yes")]
    pub on_overload: bool,
    /// When there is no endpoint (nothing is loaded), after the hold if there is one.
    #[serde(default = "yes")]
    pub on_absence: bool,
    /// When it cannot be reached, does not answer in time, or answers another 5xx.
    #[serde(default = "yes")]
    pub on_outage: bool,
}

fn yes() -> bool {
    true
}

/// Requests wait for a first endpoint while a service starts from zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Longest a request waits, in milliseconds; then fallback, else 503 with Retry-After.
    pub milliseconds: u64,
    /// Requests that wait in one router; more get the fallback or 503 at once.
    pub max_requests: u32,
}

/// Who may call: whoever has one of the keys or a token that is valid. Credentials are not passed on to servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Auth {
    /// API keys, as `authorization: Bearer KEY` or `x-api-key: KEY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<ApiKeys>,
    /// JSON Web Tokens, as `authorization: Bearer TOKEN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
}

/// API keys. Both sources are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiKeys {
    /// Callers by name, with the SHA-256 of their keys in hexadecimal.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hashes: BTreeMap<String, String>,
    /// Name of a folder below the router's `--keys-dir`: a mounted Secret, whose file names are callers and whose contents are their
    /// keys. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// What makes a token valid: a signature of an asymmetric key of the set, `exp`, `nbf`, `iss` and `aud`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Jwt {
    /// `iss` must be this.
    pub issuer: String,
    /// `aud` must have one of these.
    pub audiences: Vec<String>,
    /// Where the key set is: `https://`, `http://`, or `file:` below the router's `--keys-dir`.
    pub jwks: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_policy_is_the_default_and_a_short_one_fills_in_the_rest() {
        assert_eq!(serde_json::from_str::<RoutingPolicy>("{}").expect("a policy"), RoutingPolicy::default());
        let text = r#"{
            "sticky": {"key": {"cookie": "session"}},
            "routes": [{"name": "beta", "matches": [{"key": {"header": "x-beta"}, "value": {"exact": "yes"}}],
                        "targets": [{"revision": "b", "weight": 1}]}],
            "names": {"fraud-preview": "b"},
            "mirror": {"revision": "b", "perTenThousand": 100},
            "fallback": {"revision": "c"},
            "hold": {"milliseconds": 30000, "maxRequests": 100},
            "auth": {"jwt": {"issuer": "i", "audiences": ["a"], "jwks": "file:keys.json"}}
        }"#;
        let policy: RoutingPolicy = serde_json::from_str(text).expect("a policy");
        let sticky = policy.sticky.expect("sticky");
        assert_eq!(
            (sticky.key, sticky.salt.as_str(), sticky.cookie_seconds),
            (Key::Cookie("session".into()), "", 604_800)
        );
        let mirror = policy.mirror.expect("a mirror");
        assert_eq!((mirror.max_in_flight, mirror.tolerance_millionths), (32, 10_000));
        let fallback = policy.fallback.expect("a fallback");
        assert!(fallback.on_overload && fallback.on_absence && fallback.on_outage);
        assert_eq!(
            policy.retries,
            Retries { max_attempts: 3, budget_percent: 20, min_per_second: 10, idempotent: true }
        );
        assert_eq!(policy.ejection.consecutive_errors, 5);
    }

    #[test]
    fn a_default_policy_takes_no_room_beyond_its_two_numbers_blocks() {
        let text = serde_json::to_string(&RoutingPolicy::default()).expect("text");
        let value: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!(
            value.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>()),
            Some(vec!["ejection".to_owned(), "retries".to_owned(),])
        );
    }
}
