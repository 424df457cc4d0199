//! What a dataset is made of and stored as: source, schema, expectations, split, manifest. Shared by the Dataset kind,
//! the worker that prepares it and everybody who reads it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Digest;

/// Files in an object store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilesSource {
    /// Where the files are: a folder (ending in `/`) or one file, as `s3://bucket/path/`.
    #[schemars(extend("maxLength" = 1024, "pattern" = "^(s3|gs|az|abfss|https?)://.+"))]
    pub uri: String,
    /// How the files are encoded.
    pub format: FileFormat,
    /// How CSV is written; only for `format: CSV`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<CsvOptions>,
    /// Credentials for the source. Without it, those of the namespace's store are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretName>,
}

/// A Secret of the same namespace, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Name of the Secret; its keys are object store options such as `AWS_ACCESS_KEY_ID` and `AWS_ENDPOINT`.
    #[schemars(extend("maxLength" = 253, "minLength" = 1))]
    pub secret_name: String,
}

/// How a source file is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FileFormat {
    /// Comma-separated values; see `csv` for delimiter and header.
    #[serde(rename = "CSV")]
    Csv,
    /// Apache Parquet.
    Parquet,
}

/// How CSV is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CsvOptions {
    /// One ASCII character between fields.
    #[serde(default = "comma")]
    #[schemars(extend("minLength" = 1, "maxLength" = 1))]
    pub delimiter: String,
    /// Whether the first line names the columns.
    #[serde(default = "yes")]
    pub header: bool,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { delimiter: comma(), header: true }
    }
}

fn comma() -> String {
    ",".to_owned()
}

fn yes() -> bool {
    true
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    /// Column name, as in the source or the transform's result.
    #[schemars(extend("minLength" = 1, "maxLength" = 128))]
    pub name: String,
    /// Type of the values.
    #[serde(rename = "type")]
    pub data_type: FieldType,
    /// Whether a value may be missing.
    #[serde(default)]
    pub nullable: bool,
    /// What the column is for.
    #[serde(default)]
    pub role: FieldRole,
}

/// Type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FieldType {
    /// 64-bit signed integer.
    Integer,
    /// 64-bit floating point number.
    Number,
    /// True or false.
    Boolean,
    /// UTF-8 text.
    String,
    /// A moment in time, microseconds, UTC.
    Timestamp,
}

/// What a column is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FieldRole {
    /// Input of the model.
    #[default]
    Feature,
    /// What the model shall predict.
    Label,
    /// Identifies the row; decides its split.
    Id,
    /// When the row came to be.
    Timestamp,
    /// Kept with the data, never a model input, its values never shown in reports.
    Sensitive,
    /// Dropped before anything is computed.
    Ignored,
}

/// All columns, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Schema {
    /// Columns in order; features reach a model in this order unless its signature says otherwise.
    #[schemars(extend("minItems" = 1, "maxItems" = 512))]
    pub fields: Vec<Field>,
}

/// One check of the data, by its name. Names are those of Great Expectations, without `expect_`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expectation {
    /// Which check.
    pub name: ExpectationName,
    /// The column it looks at; absent for table checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 128))]
    pub column: Option<String>,
    /// Smallest allowed value or row count, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest allowed value or row count, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Allowed values, written as text (`"3"`, `"true"`, `"NL"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 256, "minItems" = 1), inner(length(max = 128)))]
    pub value_set: Option<Vec<String>>,
    /// Share of non-missing values that must satisfy it, from 0 to 1.
    #[serde(default = "one")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub mostly: f64,
    /// What a failure does.
    #[serde(default)]
    pub severity: Severity,
}

fn one() -> f64 {
    1.0
}

/// Which check an expectation makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpectationName {
    /// Values are present.
    ColumnValuesToNotBeNull,
    /// Values lie between `min` and `max`, inclusive; missing ones are not counted.
    ColumnValuesToBeBetween,
    /// Values are among `valueSet`; missing ones are not counted.
    ColumnValuesToBeInSet,
    /// The table has between `min` and `max` rows, inclusive.
    TableRowCountToBeBetween,
}

impl ExpectationName {
    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ColumnValuesToNotBeNull => "column_values_to_not_be_null",
            Self::ColumnValuesToBeBetween => "column_values_to_be_between",
            Self::ColumnValuesToBeInSet => "column_values_to_be_in_set",
            Self::TableRowCountToBeBetween => "table_row_count_to_be_between",
        }
    }
}

/// What a failed expectation does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// No new version is made; the former one stays current.
    #[default]
    Block,
    /// The version is made and the failure is reported.
    Warn,
}

/// What an expectation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpectationResult {
    /// Which check, as written in the spec.
    pub name: ExpectationName,
    /// The column it looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What a failure does.
    pub severity: Severity,
    /// Whether enough values satisfied it.
    pub success: bool,
    /// Values (or rows) looked at.
    pub element_count: u64,
    /// Values that did not satisfy it.
    pub unexpected_count: u64,
    /// Up to five of those values; empty for Sensitive columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
    /// One sentence for a person.
    pub message: String,
}

/// How rows are shared out. A row's split is decided by a stable hash of its Id (else of the whole row) and the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SplitSpec {
    /// Share of rows to train on.
    #[serde(default = "train_share")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub train: f64,
    /// Share of rows to validate on while training.
    #[serde(default = "tenth")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub validation: f64,
    /// Share of rows the platform evaluates on; never seen in training.
    #[serde(default = "tenth")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub test: f64,
    /// Changes which rows go where.
    #[serde(default)]
    pub seed: i64,
}

impl SplitSpec {
    /// The sum of the shares must be greater: people write 0.333 three times.
    pub const LEAST_SUM: f64 = 0.999;
    /// The sum of the shares must be less.
    pub const GREATEST_SUM: f64 = 1.001;
}

impl Default for SplitSpec {
    fn default() -> Self {
        Self { train: train_share(), validation: tenth(), test: tenth(), seed: 0 }
    }
}

fn train_share() -> f64 {
    0.8
}

fn tenth() -> f64 {
    0.1
}

/// One of the three parts of a dataset version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Rows to train on.
    Train,
    /// Rows to validate on while training.
    Validation,
    /// Rows the platform evaluates on.
    Test,
}

impl Split {
    /// All three, in their usual order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The folder of the split.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// `manifest.json` of a dataset version: what a reader needs to fetch and verify it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 1; a reader refuses a greater one.
    pub format_version: u32,
    /// Identity of the version: its rows in any order, its schema and its split.
    pub content_digest: Digest,
    /// Columns as stored (no Ignored ones), with types and roles.
    pub schema: Schema,
    /// How rows were shared out.
    pub split: SplitSpec,
    /// Stored files by split, in the order to read them.
    pub parts: BTreeMap<Split, Vec<Part>>,
}

/// One stored file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Path beneath the version's folder, as `train/part-00000.parquet`.
    pub path: String,
    /// Digest of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
}
