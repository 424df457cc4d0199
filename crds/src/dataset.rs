//! `Dataset`: data from an object store, checked, split, profiled and frozen under a digest.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use millrace_contract::{
    Digest,
    dataset::{Expectation, ExpectationResult, FilesSource, Schema, Split, SplitSpec},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::common::{Resources, RunStatus, Scheduling, never_observed, unobserved};

/// What the data are and what they must satisfy.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "Dataset",
    namespaced,
    status = "DatasetStatus",
    derive = "PartialEq",
    doc = "Data from an object store, checked, split, profiled and frozen under a digest; each content is one immutable version.",
    // Not `ds`, which kubectl takes for DaemonSet.
    shortname = "dset",
    category = "millrace",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Rows", type_ = "integer", json_path = ".status.current.rows"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.current.contentDigest", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 40 characters: lower-case letters, digits and '-', beginning with a letter")
)]
#[serde(rename_all = "camelCase")]
pub struct DatasetSpec {
    /// Where the data come from.
    pub source: Source,
    /// When to look for new content. Without it, only a change of the spec or of the annotation `millrace.dev/refresh` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
    /// What is done to the rows before they are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
    /// Columns with types and roles; inferred where absent (then every column is a Feature).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<DatasetSchema>,
    /// What the data must satisfy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64))]
    pub expectations: Vec<CheckedExpectation>,
    /// How rows are shared out to train, validation and test.
    #[serde(default)]
    pub split: CheckedSplit,
    /// Resources of the worker pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Where the worker pod may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
}

/// Where the data come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Files in an object store.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self.format == 'CSV' || !has(self.csv)",
        "message": "csv describes CSV files: remove it or set format: CSV",
    }]))]
    pub files: FilesSource,
}

/// When to look for new content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refresh {
    /// Cron expression of five fields, in UTC: `0 3 * * *` is every day at three.
    #[schemars(extend("minLength" = 9, "maxLength" = 64))]
    pub schedule: String,
}

/// What is done to the rows before they are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transform {
    /// One SQL query over the table `source`.
    #[schemars(extend("minLength" = 1, "maxLength" = 16_384))]
    pub sql: String,
}

/// Columns with types and roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transform = schema_rules)]
pub struct DatasetSchema(pub Schema);

fn schema_rules(schema: &mut schemars::Schema) {
    schema.insert(
        "x-kubernetes-validations".to_owned(),
        serde_json::json!([
            {"rule": "self.fields.filter(f, has(f.role) && f.role == 'Label').size() <= 1", "message": "at most one field can have role Label"},
            {"rule": "self.fields.filter(f, has(f.role) && f.role == 'Id').size() <= 1", "message": "at most one field can have role Id"},
        ]),
    );
    if let Some(fields) = schema.get_mut("properties").and_then(|p| p.get_mut("fields")) {
        fields["x-kubernetes-list-type"] = "map".into();
        fields["x-kubernetes-list-map-keys"] = serde_json::json!(["name"]);
    }
}

/// An expectation whose parts fit together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transform = expectation_rules)]
pub struct CheckedExpectation(pub Expectation);

fn expectation_rules(schema: &mut schemars::Schema) {
    schema.insert(
        "x-kubernetes-validations".to_owned(),
        serde_json::json!([
            {"rule": "self.name == 'table_row_count_to_be_between' ? !has(self.column) : has(self.column)",
             "message": "column is required for checks of column values and not allowed for table_row_count_to_be_between"},
            {"rule": "!self.name.endsWith('_to_be_between') || has(self.min) || has(self.max)", "message": "set min, max or both"},
            {"rule": "self.name.endsWith('_to_be_between') || (!has(self.min) && !has(self.max))", "message": "min and max belong to the _to_be_between checks"},
            {"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "min must not be greater than max"},
            {"rule": "self.name != 'table_row_count_to_be_between' || self.mostly >= 1.0", "message": "mostly is a share of values, and table_row_count_to_be_between looks at none: leave it out"},
            {"rule": "(self.name == 'column_values_to_be_in_set') == has(self.valueSet)", "message": "valueSet is required for column_values_to_be_in_set and not allowed for other checks"},
        ]),
    );
}

/// A split whose shares add up to one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transform = split_rules)]
pub struct CheckedSplit(pub SplitSpec);

fn split_rules(schema: &mut schemars::Schema) {
    let sum = "self.train + self.validation + self.test";
    let (least, greatest) = (SplitSpec::LEAST_SUM, SplitSpec::GREATEST_SUM);
    schema.insert(
        "x-kubernetes-validations".to_owned(),
        serde_json::json!([
            {"rule": format!("{sum} > {least} && {sum} < {greatest}"),
             "message": "train, validation and test must add up to 1"},
            {"rule": "self.train > 0.0", "message": "train must be greater than 0"},
        ]),
    );
}

/// What is known of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetStatus {
    /// Generation of the spec this status speaks of; -1 before the first look.
    #[serde(default = "never_observed")]
    pub observed_generation: i64,
    /// Summary for people; conditions are the truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<DatasetPhase>,
    /// Ready, Reconciling, Stalled, ExpectationsMet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The version to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<DatasetVersion>,
    /// Earlier versions, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 10))]
    pub history: Vec<PastVersion>,
    /// What the newest look found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expectations: Option<ExpectationSummary>,
    /// The newest run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    /// The refresh that was handled last: a schedule's tick or a value of the annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 256))]
    pub handled_refresh: Option<String>,
    /// When the schedule looks again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_refresh_time: Option<Time>,
}

impl Default for DatasetStatus {
    fn default() -> Self {
        unobserved()
    }
}

/// Summary of a Dataset's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DatasetPhase {
    /// Nothing has been started.
    Pending,
    /// A worker reads, checks and stores.
    Preparing,
    /// A version is current and belongs to this spec.
    Ready,
    /// The newest content fails a blocking expectation; a former version may still be current.
    Blocked,
    /// The newest run failed; a former version may still be current.
    Failed,
}

/// An immutable version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetVersion {
    /// Counts the versions of this Dataset, from 1.
    pub version: i64,
    /// Identity of the content: rows in any order, schema and split.
    pub content_digest: Digest,
    /// Digest of the stored `manifest.json`: integrity of the bytes.
    pub manifest_digest: Digest,
    /// Folder of the version in the namespace's store.
    #[schemars(extend("maxLength" = 1024))]
    pub uri: String,
    /// All rows.
    pub rows: i64,
    /// Rows by split.
    #[serde(default)]
    pub split_rows: BTreeMap<Split, i64>,
    /// Stored bytes.
    pub bytes: i64,
    /// Columns, declared or inferred.
    #[serde(default)]
    pub columns: i32,
    /// When it was made.
    pub created_time: Time,
}

/// A version that was current once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastVersion {
    /// Its number.
    pub version: i64,
    /// Identity of the content.
    pub content_digest: Digest,
    /// Digest of the stored `manifest.json`.
    pub manifest_digest: Digest,
    /// Folder of the version.
    #[schemars(extend("maxLength" = 1024))]
    pub uri: String,
    /// All rows.
    pub rows: i64,
    /// When it was made.
    pub created_time: Time,
}

/// What the expectations found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpectationSummary {
    /// How many were evaluated.
    pub evaluated: i32,
    /// How many held.
    pub passed: i32,
    /// How many did not.
    pub failed: i32,
    /// Those that did not hold, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16))]
    pub results: Vec<ExpectationResult>,
}
