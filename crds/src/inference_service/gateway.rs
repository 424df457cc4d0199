//! How an InferenceService is reached through Gateways (Gateway API).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// In rules `namespace` is a reserved word, which Kubernetes escapes.
/// An HTTPRoute named like the service, which Millrace owns: it leads `/v2/models/NAME` and everything below it to the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.parentRefs.all(p, has(p.sectionName) || self.parentRefs.exists_one(q, q.name == p.name && (has(q.__namespace__) ? q.__namespace__ : '') == (has(p.__namespace__) ? p.__namespace__ : '')))",
    "message": "a Gateway that stands in parentRefs several times needs a sectionName in each entry",
}, {
    "rule": "self.parentRefs.all(p, self.parentRefs.exists_one(q, q.name == p.name && (has(q.__namespace__) ? q.__namespace__ : '') == (has(p.__namespace__) ? p.__namespace__ : '') && (has(q.sectionName) ? q.sectionName : '') == (has(p.sectionName) ? p.sectionName : '')))",
    "message": "each listener of a Gateway stands in parentRefs once",
}]))]
pub struct Gateway {
    /// Gateways it attaches to.
    #[schemars(extend("minItems" = 1, "maxItems" = 8))]
    pub parent_refs: Vec<ParentRef>,
    /// Host names of the requests; those of the Gateway's listeners where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "set", "items" = {
        "type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    }))]
    pub hostnames: Vec<String>,
    /// Who shares the requests out.
    #[serde(default)]
    pub mode: GatewayMode,
}

/// Who shares the requests out that come through a Gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GatewayMode {
    /// The namespace's router, to which the HTTPRoute leads: everything works as inside the cluster.
    #[default]
    Router,
    /// The Gateway: weights and routes by header are in the HTTPRoute, which leads to the pods of each revision. Requests inside the
    /// cluster go through the router as before. Not available: auth, sticky keys, fallback, cold starts, the shield of a canary, retries,
    /// limits of `requests`, versions by name; errors and latency are the servers' own account.
    Native,
}

/// A Gateway, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Its name.
    #[schemars(extend("minLength" = 1, "maxLength" = 253))]
    pub name: String,
    /// Its namespace; the service's own where absent. The Gateway's listeners must allow routes of the service's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// Name of its listener; every listener that allows it where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"))]
    pub section_name: Option<String>,
}
