//! What the server has seen, counted over frozen bins: every row of the inputs, one row of each request's predictions (so that requests
//! are independent observations), as far as [`Sketched`] says. Each lane counts into its own part after it has answered; reading adds the
//! parts up.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use millrace_contract::{
    model::{OutputBinding, Signature, Task, Tensors},
    routing::RevisionStats,
    sketch::{Bins, Counts, DatasetProfile, FieldSketch, ServerSketches},
};
use millrace_engine::{Data, Datatype, NamedTensor, Tensor};
use millrace_profile::{
    bins::{Binner, Value, empty_counts, merge},
    predictions::{class_bins, probability_bins, value_bins},
};

use crate::{
    request::Sketched,
    runtime::{Observer, Ran},
    sketch_clusters::{Clusters, Layout},
};

/// Worker of an answer that no session gave, as it was in the response cache.
pub const NO_WORKER: usize = usize::MAX;
/// With more edges than this a search is quicker than comparing with all of them.
const FEW_EDGES: usize = 32;

/// Name of the sketch of predicted classes.
pub const LABEL: &str = "label";
/// Name of the sketch of probabilities: of the second class where there are two, else of the likeliest.
pub const PROBABILITY: &str = "probability";
/// Name of the sketch of predicted numbers.
pub const VALUE: &str = "value";

/// Whose sketches these are.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Changes whenever the process starts.
    pub boot_id: String,
    /// Model name.
    pub model: String,
    /// Revision.
    pub revision: String,
    /// Digest of the loaded bytes.
    pub digest: String,
}

/// One column of one input tensor and its bins.
#[derive(Debug)]
struct Feature {
    name: String,
    input: usize,
    column: usize,
    width: usize,
    binner: Binner,
    /// The edges of numeric bins, if they are few.
    edges: Option<Vec<f64>>,
    reference: Counts,
}

/// Where a prediction is read from.
#[derive(Debug)]
enum Source {
    /// The label tensor as text.
    Label(usize),
    /// The likeliest class of the probability tensor, as text.
    Likeliest(usize, Vec<String>),
    /// The probability tensor of so many classes.
    Probability(usize, usize),
    /// The value tensor.
    Value(usize),
}

#[derive(Debug)]
struct Prediction {
    name: &'static str,
    source: Source,
    binner: Binner,
}

#[derive(Debug)]
struct Counted {
    rows: u64,
    features: Vec<Counts>,
    predictions: Vec<Counts>,
    clusters: Clusters,
}

/// The sketches of one model.
#[derive(Debug)]
pub struct Sketches {
    identity: Identity,
    features: Vec<Feature>,
    predictions: Vec<Prediction>,
    layout: Layout,
    lanes: Vec<Mutex<Counted>>,
}

impl Observer for Sketches {
    fn ran(&self, ran: &Ran<'_>) {
        self.count(ran.worker, ran.inputs, ran.rows, ran.sketched, ran.answers);
    }
}

impl Sketches {
    /// Sketches of what signature, task and profile make it possible to count.
    pub fn new(
        identity: Identity,
        tensors: &Tensors,
        signature: Option<&Signature>,
        task: Option<Task>,
        profile: Option<&DatasetProfile>,
        lanes: usize,
    ) -> Self {
        let features = match (signature, profile) {
            (Some(signature), Some(profile)) => features(tensors, signature, profile),
            (Some(_) | None, _) => Vec::new(),
        };
        let predictions = match (signature, task) {
            (Some(signature), Some(task)) => predictions(tensors, &signature.outputs, task),
            (Some(_) | None, _) => Vec::new(),
        };
        let empty = || Counted {
            rows: 0,
            features: features.iter().map(|f| empty_counts(f.binner.bins())).collect(),
            predictions: predictions.iter().map(|p| empty_counts(p.binner.bins())).collect(),
            clusters: Clusters::default(),
        };
        // One more for the response cache.
        let lanes = (0..=lanes).map(|_| Mutex::new(empty())).collect();
        let layout = Layout::new(predictions.iter().map(|prediction| (prediction.name, prediction.bins())));
        Self { identity, features, predictions, layout, lanes }
    }

    /// Counts one run: `inputs` with all rows, and of each request its number of rows, what of it is counted, and its outputs.
    pub fn count<O: AsRef<Vec<NamedTensor>>>(
        &self,
        lane: usize,
        inputs: &[NamedTensor],
        rows: &[usize],
        sketched: &[Sketched],
        outputs: &[O],
    ) {
        let Some(counted) = self.lanes.get(lane).or(self.lanes.last()) else { return };
        // Copies are rare, and nothing is put together for a run without one.
        let (whole, apart) = (0..rows.iter().sum::<usize>(), sketched.contains(&Sketched::Nothing));
        let apart = apart.then(|| spans(rows, sketched));
        let spans = apart.as_deref().unwrap_or(std::slice::from_ref(&whole));
        // Only a reader ever competes for it.
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.rows += spans.iter().map(|span| span.len() as u64).sum::<u64>();
        for (feature, counts) in self.features.iter().zip(&mut counted.features) {
            let Some(input) = inputs.get(feature.input) else { continue };
            // Where the model leaves the width open, rows of another one have other columns than those that were bound.
            if input.tensor.row_len() != Some(feature.width) {
                continue;
            }
            for span in spans {
                if feature.count_numbers(counts, &input.tensor.data, span) {
                    continue;
                }
                for row in span.clone() {
                    feature.binner.count(counts, element(&input.tensor.data, row * feature.width + feature.column));
                }
            }
        }
        self.count_predictions(&mut counted, rows, sketched, outputs);
    }

    /// Counts one row of each request's predictions, where it is evidence.
    fn count_predictions<O: AsRef<Vec<NamedTensor>>>(
        &self,
        counted: &mut Counted,
        rows: &[usize],
        sketched: &[Sketched],
        outputs: &[O],
    ) {
        let Counted { predictions, clusters, .. } = counted;
        for (index, (prediction, counts)) in self.predictions.iter().zip(predictions).enumerate() {
            for ((outputs, rows), sketched) in outputs.iter().zip(rows).zip(sketched) {
                let cluster = match sketched {
                    Sketched::Whole => None,
                    Sketched::OfCluster(cluster) => Some(*cluster),
                    Sketched::Inputs | Sketched::Nothing => continue,
                };
                let bin = if *rows > 0 { prediction.count(counts, outputs.as_ref()) } else { None };
                if let (Some(cluster), Some(bin)) = (cluster, bin) {
                    self.layout.count(clusters, cluster, index, bin);
                }
            }
        }
    }

    /// All lanes added up.
    pub fn read(&self) -> ServerSketches {
        let Identity { boot_id, model, revision, digest } = self.identity.clone();
        let mut rows = 0;
        let mut features: Vec<FieldSketch> =
            self.features.iter().map(|f| sketch(&f.name, &f.binner, Some(&f.reference))).collect();
        let mut predictions: Vec<FieldSketch> =
            self.predictions.iter().map(|p| sketch(p.name, &p.binner, None)).collect();
        let mut clusters = Clusters::default();
        for lane in &self.lanes {
            let counted = lane.lock().unwrap_or_else(PoisonError::into_inner);
            rows += counted.rows;
            add(&mut features, &counted.features);
            add(&mut predictions, &counted.predictions);
            clusters.add(&counted.clusters);
        }
        ServerSketches {
            boot_id,
            model,
            revision,
            digest,
            rows,
            features,
            predictions,
            sticky_predictions: self.layout.by_part(&clusters),
            // Requests are counted by the process, which adds them.
            drawn: RevisionStats::default(),
            refused: None,
            payload_log: None,
        }
    }
}

/// The rows whose inputs are counted: all in one span, but where copies lie between them.
fn spans(rows: &[usize], sketched: &[Sketched]) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::with_capacity(1);
    let mut end = 0_usize;
    for (rows, sketched) in rows.iter().zip(sketched) {
        let start = end;
        end += rows;
        if *sketched == Sketched::Nothing {
            continue;
        }
        match spans.last_mut() {
            Some(last) if last.end == start => last.end = end,
            Some(_) | None => spans.push(start..end),
        }
    }
    spans
}

impl Feature {
    /// Counts a column of numbers over few numeric bins: what tabular models are sent, and so the path that must cost next to nothing.
    /// False when it is none, and nothing was counted.
    fn count_numbers(&self, counts: &mut Counts, data: &Data, rows: &Range<usize>) -> bool {
        let Some(edges) = &self.edges else { return false };
        let (first, count) = (rows.start * self.width + self.column, rows.len());
        macro_rules! column {
            ($values:expr, $convert:expr) => {
                add_numbers(edges, counts, $values.iter().skip(first).step_by(self.width).take(count).map($convert))
            };
        }
        match data {
            Data::Fp32(values) => column!(values, |value| f64::from(*value)),
            Data::Fp64(values) => column!(values, |value| *value),
            Data::Int32(values) => column!(values, |value| f64::from(*value)),
            Data::Int64(values) => column!(values, |value| *value as f64),
            Data::Bool(_)
            | Data::Uint8(_)
            | Data::Uint16(_)
            | Data::Uint32(_)
            | Data::Uint64(_)
            | Data::Int8(_)
            | Data::Int16(_)
            | Data::Fp16(_)
            | Data::Bf16(_)
            | Data::Bytes(_)
            | Data::Lent(_) => return false,
        }
        true
    }
}

fn add_numbers(edges: &[f64], counts: &mut Counts, values: impl Iterator<Item = f64>) {
    for value in values {
        // Comparing with all edges needs no branch that could be guessed wrongly.
        let bin = edges.iter().map(|edge| usize::from(*edge < value)).sum::<usize>();
        match counts.bins.get_mut(bin) {
            Some(count) if !value.is_nan() => *count += 1,
            Some(_) | None => counts.missing += 1,
        }
    }
}

fn sketch(name: &str, binner: &Binner, reference: Option<&Counts>) -> FieldSketch {
    let current = empty_counts(binner.bins());
    FieldSketch { name: name.to_owned(), bins: binner.bins().clone(), reference: reference.cloned(), current }
}

fn add(sketches: &mut [FieldSketch], counts: &[Counts]) {
    for (sketch, counts) in sketches.iter_mut().zip(counts) {
        let same_bins = merge(&mut sketch.current, counts);
        debug_assert!(same_bins.is_ok(), "both come from the same binner");
    }
}

fn features(tensors: &Tensors, signature: &Signature, profile: &DatasetProfile) -> Vec<Feature> {
    let mut features = Vec::new();
    for binding in &signature.inputs {
        let Some(input) = tensors.inputs.iter().position(|spec| spec.name == binding.tensor) else { continue };
        for (column, name) in binding.columns.iter().enumerate() {
            let Some(field) = profile.features.iter().find(|field| field.name == *name) else { continue };
            features.push(Feature {
                name: name.clone(),
                input,
                column,
                width: binding.columns.len(),
                binner: Binner::new(&field.bins),
                edges: match &field.bins {
                    Bins::Numeric { edges } if edges.len() <= FEW_EDGES => Some(edges.clone()),
                    Bins::Numeric { .. } | Bins::Categorical { .. } => None,
                },
                reference: field.counts.clone(),
            });
        }
    }
    features
}

fn predictions(tensors: &Tensors, outputs: &OutputBinding, task: Task) -> Vec<Prediction> {
    let position = |name: &Option<String>| tensors.outputs.iter().position(|spec| Some(&spec.name) == name.as_ref());
    let (label, probabilities) = (position(&outputs.label), position(&outputs.probabilities));
    match task {
        Task::Regression => {
            let value =
                |output| Prediction { name: VALUE, source: Source::Value(output), binner: Binner::new(&value_bins()) };
            label.map(value).into_iter().collect()
        }
        Task::Classification => {
            let binner = Binner::new(&class_bins(&outputs.classes));
            let class = match (label, probabilities) {
                (Some(output), _) => Some(Source::Label(output)),
                (None, Some(output)) => Some(Source::Likeliest(output, outputs.classes.clone())),
                (None, None) => None,
            };
            let class = class.map(|source| Prediction { name: LABEL, source, binner });
            let probability = probabilities.map(|output| Prediction {
                name: PROBABILITY,
                source: Source::Probability(output, outputs.classes.len()),
                binner: Binner::new(&probability_bins()),
            });
            class.into_iter().chain(probability).collect()
        }
    }
}

impl Prediction {
    /// Its bins; missing values are the last one.
    fn bins(&self) -> usize {
        self.binner.bins().len() + 1
    }

    /// Counts the first row of one request's outputs, and says in which bin.
    fn count(&self, counts: &mut Counts, outputs: &[NamedTensor]) -> Option<usize> {
        let bin = self.bin(outputs)?;
        match counts.bins.get_mut(bin) {
            Some(count) => *count += 1,
            None => counts.missing += 1,
        }
        Some(bin)
    }

    /// The bin of the first row; none without such an output.
    fn bin(&self, outputs: &[NamedTensor]) -> Option<usize> {
        let tensor = |index: usize| outputs.get(index).map(|output| &output.tensor);
        let value = match &self.source {
            Source::Label(index) | Source::Value(index) => element(&tensor(*index)?.data, 0),
            Source::Likeliest(index, classes) => {
                let row = first_row(tensor(*index)?, classes.len());
                let likeliest = row.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
                let class = likeliest.and_then(|(class, _)| classes.get(class));
                class.map_or(Value::Missing, |class| Value::Text(class))
            }
            Source::Probability(index, classes) => {
                let tensor = tensor(*index)?;
                let of_second = *classes == 2;
                let probability =
                    if of_second { first_row(tensor, 2).last() } else { first_row(tensor, *classes).reduce(f64::max) };
                probability.map_or(Value::Missing, Value::Number)
            }
        };
        Some(self.binner.bin_of(value).unwrap_or(self.bins() - 1))
    }
}

/// The numbers of the first row, at most so many.
fn first_row(tensor: &Tensor, most: usize) -> impl Iterator<Item = f64> {
    let width = tensor.row_len().unwrap_or(1).min(most);
    (0..width).filter_map(|index| tensor.data.number(index))
}

fn element(data: &Data, index: usize) -> Value<'_> {
    match data {
        Data::Bytes(texts) => texts.get(index).map_or(Value::Missing, |text| Value::Text(text)),
        Data::Bool(values) => values.get(index).map_or(Value::Missing, |value| Value::Boolean(*value)),
        Data::Lent(lent) if lent.datatype() == Datatype::Bool => {
            lent.elements::<bool>().get(index).map_or(Value::Missing, |value| Value::Boolean(*value))
        }
        Data::Uint8(_)
        | Data::Uint16(_)
        | Data::Uint32(_)
        | Data::Uint64(_)
        | Data::Int8(_)
        | Data::Int16(_)
        | Data::Int32(_)
        | Data::Int64(_)
        | Data::Fp16(_)
        | Data::Bf16(_)
        | Data::Fp32(_)
        | Data::Fp64(_)
        | Data::Lent(_) => data.number(index).map_or(Value::Missing, Value::Number),
    }
}

#[cfg(test)]
#[path = "sketches_tests.rs"]
mod tests;
