//! An inference request and its answer, free of any wire form: every front door reads into and writes from these. Pure.

use std::{sync::Arc, time::Duration};

use millrace_engine::NamedTensor;

/// A request whose tensors have been read, but not yet checked against a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Infer {
    /// Repeated in the answer.
    pub id: Option<String>,
    /// The inputs, in the order given.
    pub inputs: Vec<NamedTensor>,
    /// The outputs asked for, in the order of the answer; empty asks for all.
    pub wanted: Vec<Wanted>,
    /// How to treat the request.
    pub options: Options,
}

/// One output that a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Name in the model.
    pub name: String,
    /// As binary or as JSON; where it is not said, [`Options::binary_output`] decides. REST only.
    pub binary: Option<bool>,
    /// So many of the highest classes in place of the values; absent or 0: the values.
    pub classification: Option<u32>,
}

/// What a request says besides its tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// As Triton counts: 1 is the highest, 0 the model's default.
    pub priority: u64,
    /// Longest it may take; afterwards the client has no use for the answer.
    pub timeout: Option<Duration>,
    /// Outputs are binary where a [`Wanted`] does not say otherwise. REST only.
    pub binary_output: bool,
    /// What of it the sketches count.
    pub sketched: Sketched,
}

/// What of a request the sketches count. Predictions compare revisions, which only a random split makes fair; inputs are watched for
/// drift, whoever's they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sketched {
    /// Inputs and predictions.
    #[default]
    Whole,
    /// The same; it was split by its key, and predictions are counted by this cluster of keys, too.
    OfCluster(u16),
    /// Inputs: it was not split at random.
    Inputs,
    /// Nothing: it is a copy, and its inputs are counted where the original was answered.
    Nothing,
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// From the request.
    pub id: Option<String>,
    /// The model that answered.
    pub model: Arc<str>,
    /// Its version, if it has one.
    pub version: Option<Arc<str>>,
    /// All outputs of the model, in its order; each front door picks those that were asked for.
    pub outputs: Arc<Vec<NamedTensor>>,
}
