//! One version of one model, as it is to be loaded: where its file is and how it is run, everything that was left out filled in. Pure.

use millrace_contract::{
    Digest,
    model::{Signature, Task, Tensors},
    placement::Placement,
    server::{Batching, ProfileRef, Queue, ServedModel, ServerConfig},
};

use super::table::{Key, Version};
use crate::runtime::RunConfig;

/// What is loaded and how. Two that are equal need no second load.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Name and version in the protocol.
    pub key: Key,
    /// Revision, repeated in sketches; empty when alone.
    pub revision: String,
    /// Where the file is.
    pub uri: String,
    /// Digest that the file must have; a repository need not say one.
    pub digest: Option<Digest>,
    /// What tells the file from a later one at the same place, where there is no digest: its tag, or its size and time.
    pub fingerprint: String,
    /// Columns of the tensors.
    pub signature: Option<Signature>,
    /// What it predicts.
    pub task: Option<Task>,
    /// Bins of the data that it was trained on.
    pub profile: Option<ProfileRef>,
    /// Inputs and outputs that the file must have.
    pub tensors: Option<Tensors>,
    /// Who runs together.
    pub batching: Batching,
    /// Who waits.
    pub queue: Queue,
    /// Sessions.
    pub concurrency: u32,
    /// Where it runs.
    pub placement: Placement,
}

impl Spec {
    /// A model that the configuration names.
    pub fn of(model: &ServedModel, server: &ServerConfig) -> Self {
        let ServedModel {
            name,
            version,
            revision,
            artifact,
            signature,
            task,
            profile,
            tensors,
            batching,
            queue,
            concurrency,
            placement,
        } = model;
        Self {
            key: (name.as_str().into(), Version(version.as_deref().map(Into::into))),
            revision: revision.clone(),
            uri: artifact.uri.clone(),
            digest: Some(artifact.digest.clone()),
            fingerprint: String::new(),
            signature: signature.clone(),
            task: *task,
            profile: profile.clone(),
            tensors: tensors.clone(),
            batching: batching.clone().unwrap_or_else(|| server.batching.clone()),
            queue: queue.clone().unwrap_or_else(|| server.queue.clone()),
            concurrency: concurrency.unwrap_or(server.concurrency),
            placement: placement.unwrap_or(server.placement),
        }
    }

    /// How the runtime is to run it.
    pub fn run_config(&self) -> RunConfig {
        let (name, version) = &self.key;
        RunConfig {
            name: name.clone(),
            version: version.0.clone(),
            batching: self.batching.clone(),
            queue: self.queue.clone(),
            concurrency: self.concurrency as usize,
        }
    }
}
