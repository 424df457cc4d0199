//! Objects that tests of several kinds start from.

use millrace_contract::Digest;
use millrace_crds::Dataset;
use serde_json::json;

/// Dataset `flights` in namespace `team`, with version `now` current and `then` in its history.
pub fn dataset() -> Dataset {
    let version = |number: i64, content: &str| {
        json!({
            "version": number, "contentDigest": Digest::of(content), "uri": format!("s3://store/{content}/"),
            "manifestDigest": Digest::of(format!("manifest of {content}")), "rows": 10, "bytes": 100,
            "createdTime": "2026-01-01T00:00:00Z",
        })
    };
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "flights", "namespace": "team"},
        "spec": {"source": {"files": {"uri": "s3://lake/", "format": "CSV"}}},
        "status": {"current": version(2, "now"), "history": [version(1, "then")]},
    }))
    .expect("the JSON above is a Dataset")
}
