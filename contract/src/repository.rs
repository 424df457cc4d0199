//! Where an inference server finds models besides those it is told one by one, and how each of them is run: a repository folder, the
//! `config.json` of a model in it, the local cache, and what downloads may reach.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Digest,
    model::{Signature, Task, Tensors},
    placement::Placement,
    server::{Batching, Queue},
};

/// A folder of models, local or in an object store: `<name>/<version>/model.onnx`, as Triton lays them out, with an optional
/// `<name>/config.json` (a [`ModelConfig`]); or just `<name>.onnx` files, each of which is version 1 of its model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Repository {
    /// Where it is: `file:///srv/models`, `s3://bucket/models`, `gs://`, `az://` or `https://` (which must be able to list).
    #[schemars(extend("maxLength" = 1024, "minLength" = 1))]
    pub uri: String,
    /// Who decides what is loaded after the start.
    #[serde(default)]
    pub control: Control,
    /// With `Poll`: seconds between two looks.
    #[serde(default = "poll_seconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 86_400))]
    pub poll_seconds: u32,
    /// With `Explicit`: models to load at the start; none where the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 1024))]
    pub load: Vec<String>,
    /// Which versions are served where a model's own `config.json` does not say.
    #[serde(default)]
    pub version_policy: VersionPolicy,
}

/// Seconds between two looks at a repository.
pub fn poll_seconds() -> u32 {
    15
}

/// Who decides what a server loads, in Triton's terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Control {
    /// Everything there is at the start, and nothing afterwards.
    #[default]
    None,
    /// Clients, by the model-repository extension of the protocol; off in the other modes.
    Explicit,
    /// The folder: what appears, changes or goes away in it is loaded, swapped or unloaded.
    Poll,
}

/// Which versions of a model are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum VersionPolicy {
    /// The highest ones.
    Latest {
        /// How many.
        #[serde(default = "one")]
        #[schemars(extend("minimum" = 1, "maximum" = 1000))]
        count: u32,
    },
    /// All of them.
    All {},
    /// These.
    Specific {
        /// Names of the version folders.
        #[schemars(extend("maxItems" = 1000))]
        versions: Vec<String>,
    },
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self::Latest { count: 1 }
    }
}

fn one() -> u32 {
    1
}

/// `<name>/config.json` of a repository. What it leaves out is as the server's own configuration says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelConfig {
    /// Which versions are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_policy: Option<VersionPolicy>,
    /// Batching across requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// Waiting requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// Sessions that run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 256))]
    pub concurrency: Option<u32>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How tensors relate to columns; without it inputs are not sketched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// What the model predicts; without it predictions are not sketched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Inputs and outputs that every version must have, exactly; a file with others is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Tensors>,
    /// Digest of each version's file, by version, where it is known; verified while the file is read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, Digest>,
}

/// Downloaded files, kept by digest for the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cache {
    /// Folder of this machine; made where it does not exist. Several servers may share it.
    #[schemars(extend("maxLength" = 1024, "minLength" = 1))]
    pub folder: String,
    /// Most bytes that are kept; what has not been used for longest goes first.
    #[serde(default = "cache_bytes")]
    pub max_bytes: u64,
}

/// Size of a cache where nothing is said: 10 GiB.
pub fn cache_bytes() -> u64 {
    10 << 30
}

/// How files are downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Download {
    /// Networks that `http(s)://` URIs may lead to although they are refused otherwise (loopback, link-local and the addresses where clouds
    /// answer with credentials): `127.0.0.0/8`, `fe80::/10`, or one address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64))]
    pub allowed_networks: Vec<String>,
    /// Parts of a file that are fetched at the same time.
    #[serde(default = "connections")]
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub connections: u32,
    /// Size of a part, in MiB.
    #[serde(default = "part_mebibytes")]
    #[schemars(extend("minimum" = 1, "maximum" = 256))]
    pub part_mebibytes: u32,
}

impl Default for Download {
    fn default() -> Self {
        Self { allowed_networks: Vec::new(), connections: connections(), part_mebibytes: part_mebibytes() }
    }
}

impl Download {
    /// Nothing is said that is not the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn connections() -> u32 {
    8
}

fn part_mebibytes() -> u32 {
    8
}
