//! How requests are treated beside the split: routes, sticky keys, fallback, retries, callers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requests that are shared out in a way of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.split.exists(s, s.weight > 0)",
    "message": "one of the weights in split must be greater than 0",
}, {
    "rule": "self.split.all(s, self.split.filter(t, (has(s.modelVersion) ? s.modelVersion : '') == (has(t.modelVersion) ? t.modelVersion : '')).size() == 1)",
    "message": "each model version stands in a split once, and so does the stable revision (an entry without modelVersion)",
}]))]
pub struct Route {
    /// Its name in counts and status, unique.
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// All of them must hold.
    #[serde(rename = "match")]
    #[schemars(extend("minItems" = 1, "maxItems" = 8))]
    pub matches: Vec<RouteMatch>,
    /// Who answers them, by weight.
    #[schemars(extend("minItems" = 1, "maxItems" = 8))]
    pub split: Vec<RouteShare>,
}

/// One condition on a request: a part of it (exactly one) and what it must be (exactly one).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.header), has(self.cookie), has(self.claim), has(self.caller)].filter(x, x).size() == 1",
    "message": "set exactly one of header, cookie, claim and caller",
}, {
    "rule": "[has(self.exact), has(self.prefix), has(self.oneOf), has(self.present)].filter(x, x).size() == 1",
    "message": "set exactly one of exact, prefix, oneOf and present",
}, {
    "rule": "!has(self.caller) || self.caller",
    "message": "caller is true or absent",
}]))]
pub struct RouteMatch {
    /// The header of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 128, "pattern" = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub header: Option<String>,
    /// The cookie of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 128, "pattern" = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub cookie: Option<String>,
    /// The claim of this name in the verified token; a dot reaches into objects. Needs `auth.jwt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 128))]
    pub claim: Option<String>,
    /// Who calls: the name of the API key or the token's subject. Needs `auth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<bool>,
    /// It is just this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 256))]
    pub exact: Option<String>,
    /// It begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 256))]
    pub prefix: Option<String>,
    /// It is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minItems" = 1, "maxItems" = 64, "items" = {"type": "string", "maxLength": 256}))]
    pub one_of: Option<Vec<String>>,
    /// True: there is one. False: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// A part of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteShare {
    /// The ModelVersion that answers; the stable revision where absent. It must be approved, and its pods run as long as the route
    /// names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 40))]
    pub model_version: Option<String>,
    /// Part of the sum of the weights.
    #[schemars(extend("minimum" = 0, "maximum" = 1_000_000))]
    pub weight: i32,
}

/// The same key sees the same revision through every router and after every restart; a canary that grows only gains keys. Exactly one
/// of `header`, `cookie`, `claim` and `caller` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.header), has(self.cookie), has(self.claim), has(self.caller)].filter(x, x).size() == 1",
    "message": "set exactly one of header, cookie, claim and caller",
}, {
    "rule": "!has(self.caller) || self.caller",
    "message": "caller is true or absent",
}, {
    "rule": "has(self.cookie) || self.cookieSeconds == 604800",
    "message": "cookieSeconds is how long the cookie lives: set cookie, or leave it out",
}]))]
pub struct Sticky {
    /// The header of this name; a request without it is drawn at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 128, "pattern" = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub header: Option<String>,
    /// The cookie of this name, which the router sets for clients without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 128, "pattern" = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub cookie: Option<String>,
    /// The claim of this name in the verified token. Needs `auth.jwt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 128))]
    pub claim: Option<String>,
    /// Who calls. Needs `auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<bool>,
    /// Lifetime of the cookie, in seconds.
    #[serde(default = "a_week")]
    #[schemars(extend("minimum" = 60, "maximum" = 31_536_000))]
    pub cookie_seconds: i64,
}

fn a_week() -> i64 {
    604_800
}

/// A backup model. Its answers carry `x-millrace-fallback` with the reason, and are counted apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// The ModelVersion that answers. It must be approved, and its pods run as long as it is named.
    #[schemars(extend("minLength" = 1, "maxLength" = 40))]
    pub model_version: String,
    /// Pods.
    #[serde(default = "one")]
    #[schemars(extend("minimum" = 1, "maximum" = 1000))]
    pub replicas: i32,
    /// When it answers.
    #[serde(default = "whenever")]
    #[schemars(extend("minItems" = 1, "maxItems" = 3, "x-kubernetes-list-type" = "set"))]
    pub when: Vec<FallbackWhen>,
}

fn one() -> i32 {
    1
}

fn whenever() -> Vec<FallbackWhen> {
    vec![FallbackWhen::Overload, FallbackWhen::Absence, FallbackWhen::Outage]
}

/// When the fallback answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FallbackWhen {
    /// The chosen revision answers 429 or 503.
    Overload,
    /// No pod of it is ready, after the wait of a cold start if there is one.
    Absence,
    /// It can't be reached, does not answer in time, or answers another 5xx.
    Outage,
}

/// When a request is sent again within its revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Attempts, the first included.
    #[serde(default = "max_attempts")]
    #[schemars(extend("minimum" = 1, "maximum" = 10))]
    pub max_attempts: i32,
    /// Retries may be so many of a hundred requests of the last ten seconds.
    #[serde(default = "budget_percent")]
    #[schemars(extend("minimum" = 0, "maximum" = 100))]
    pub budget_percent: i32,
    /// False: a request that a server may have read is not sent again, neither to another pod nor to the stable revision.
    #[serde(default = "yes")]
    pub idempotent: bool,
}

impl Default for Retries {
    fn default() -> Self {
        Self { max_attempts: max_attempts(), budget_percent: budget_percent(), idempotent: yes() }
    }
}

fn max_attempts() -> i32 {
    3
}

fn budget_percent() -> i32 {
    20
}

fn yes() -> bool {
    true
}

/// Who may call: whoever has one of the keys or a valid token. Everybody else gets 401.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.apiKeys) || has(self.jwt)",
    "message": "set apiKeys, jwt or both",
}]))]
pub struct Auth {
    /// API keys, as `authorization: Bearer KEY` or `x-api-key: KEY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<ApiKeys>,
    /// JSON Web Tokens, as `authorization: Bearer TOKEN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
}

/// API keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeys {
    /// Secret of the same namespace: each of its keys is a caller's name, the value is that caller's API key. It is mounted into the
    /// routers and read again when it changes.
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub secret_name: String,
}

/// What makes a token valid: an asymmetric signature by a key of the set, `exp`, `nbf`, `iss` and `aud`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Jwt {
    /// `iss` must be this.
    #[schemars(extend("minLength" = 1, "maxLength" = 512))]
    pub issuer: String,
    /// `aud` must have one of these.
    #[schemars(extend("minItems" = 1, "maxItems" = 16, "items" = {"type": "string", "minLength": 1, "maxLength": 256}))]
    pub audiences: Vec<String>,
    /// Address of the key set (JWKS), read every five minutes.
    #[schemars(extend("maxLength" = 512, "pattern" = "^https?://[^/?#]+.*$"))]
    pub jwks_uri: String,
}
