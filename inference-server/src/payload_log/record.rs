//! One request with its answer.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use millrace_engine::{Data, NamedTensor};

use super::Held;

/// The model that answered; one a loaded model, shared by its records.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Name in the protocol.
    pub model: String,
    /// Version in the protocol; empty where there is none.
    pub version: String,
    /// Digest of its bytes.
    pub digest: String,
}

/// A request and its answer, on the way to the sink.
#[derive(Debug)]
pub struct Record {
    /// Who answered.
    pub source: Arc<Source>,
    /// The request's id, or one made up.
    pub id: String,
    /// When it came.
    pub time: SystemTime,
    /// Until it was answered.
    pub duration: Duration,
    /// What was asked, in the model's order.
    pub inputs: Vec<NamedTensor>,
    /// What was answered.
    pub outputs: Arc<Vec<NamedTensor>>,
    /// What it takes of the log's bound.
    pub(super) held: [Held; 2],
}

impl Record {
    /// What it takes of the log's bound, bytes.
    pub fn bytes(&self) -> usize {
        self.held.iter().map(|held| held.bytes).sum()
    }
}

/// What tensors take in memory.
pub fn bytes_of(tensors: &[NamedTensor]) -> usize {
    // The vectors and names around the elements.
    const EACH: usize = 128;
    let elements = |data: &Data| match data {
        Data::Bytes(texts) => texts.iter().map(|text| text.len() + size_of::<String>()).sum(),
        other => other.len() * other.datatype().bytes(),
    };
    tensors.iter().map(|tensor| EACH + elements(&tensor.tensor.data)).sum()
}
