//! Answers kept for requests with the same inputs to the same model. Off unless configured; bounded by entries and bytes, over all models.
//!
//! A key is the model (name, version, digest of its bytes, fingerprint of the files beside it) and its inputs in the model's own order, with
//! their names, as some may be left out. Inputs are found by a 64-bit hash and then compared in full, bit by bit: with a hash alone, of whatever length that is quick enough, one client could look for inputs that
//! collide and be answered, or have others answered, with what belongs to different ones. The comparison costs less than the hash.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use millrace_contract::server_options as contract;
use millrace_engine::{Data, NamedTensor};
use quick_cache::{Equivalent, Weighter, sync::Cache};
use xxhash_rust::xxh3::Xxh3;
use zerocopy::IntoBytes;

/// What a tensor takes in memory beside its elements: its name, shape and vectors.
const TENSOR_BYTES: usize = 128;
const ENTRY_BYTES: usize = 128;

/// The outputs of a model, as a request is answered with them.
type Outputs = Arc<Vec<NamedTensor>>;

/// Which model; equal only where a cached answer would be the same.
#[derive(Debug, PartialEq, Eq)]
struct Model {
    name: String,
    version: String,
    digest: String,
    /// Weights may lie in files of their own, which the digest does not cover.
    fingerprint: String,
}

/// The cache of the process.
#[derive(Debug)]
pub struct ResponseCache {
    entries: Cache<Key, Outputs, Weight>,
    /// So that nobody can work out which inputs collide.
    seed: u64,
    least_weight: u64,
}

/// The cache as one model uses it.
#[derive(Clone, Debug)]
pub struct ModelCache {
    cache: Arc<ResponseCache>,
    model: Arc<Model>,
}

#[derive(Clone, Debug)]
struct Key {
    model: Arc<Model>,
    hash: u64,
    inputs: Arc<[NamedTensor]>,
}

struct Query<'a> {
    model: &'a Arc<Model>,
    hash: u64,
    inputs: &'a [NamedTensor],
}

/// Where the answer to a request that was not found belongs.
#[derive(Debug)]
pub struct Place(Key);

#[derive(Clone, Debug)]
struct Weight {
    least: u64,
}

impl Weighter<Key, Outputs> for Weight {
    fn weight(&self, key: &Key, outputs: &Outputs) -> u64 {
        // An entry that weighs at least a share of the capacity bounds their number by the number of shares.
        (weight_of(&key.inputs) + weight_of(outputs) + ENTRY_BYTES as u64).max(self.least)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hash for Query<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Query { model: &self.model, hash: self.hash, inputs: &self.inputs }.equivalent(other)
    }
}

impl Eq for Key {}

impl Equivalent<Key> for Query<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.hash == key.hash
            && (Arc::ptr_eq(self.model, &key.model) || self.model == &key.model)
            && self.inputs.len() == key.inputs.len()
            && self.inputs.iter().zip(key.inputs.iter()).all(|(mine, kept)| is_same(mine, kept))
    }
}

impl ResponseCache {
    /// An empty cache.
    pub fn new(config: &contract::ResponseCache) -> Arc<Self> {
        let least = config.max_bytes.div_ceil(config.max_entries.max(1)).max(1);
        let entries = usize::try_from(config.max_entries).unwrap_or(usize::MAX);
        let entries = Cache::with_weighter(entries, config.max_bytes, Weight { least });
        Arc::new(Self { entries, seed: rand::random(), least_weight: least })
    }

    /// The cache for one loaded model.
    pub fn of(self: &Arc<Self>, name: &str, version: Option<&str>, digest: &str, fingerprint: &str) -> ModelCache {
        let [name, version, digest, fingerprint] =
            [name, version.unwrap_or_default(), digest, fingerprint].map(str::to_owned);
        let model = Model { name, version, digest, fingerprint };
        ModelCache { cache: Arc::clone(self), model: Arc::new(model) }
    }

    /// Answers kept now.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// None is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl ModelCache {
    /// The answer to these inputs, or the place where it belongs; no place for inputs that are too large to be kept.
    pub fn find(&self, inputs: &[NamedTensor]) -> Result<Outputs, Option<Place>> {
        let hash = hash_of(self.cache.seed, &self.model, inputs);
        let query = Query { model: &self.model, hash, inputs };
        if let Some(outputs) = self.cache.entries.get(&query) {
            return Ok(outputs);
        }
        let fits = weight_of(inputs).max(self.cache.least_weight) <= self.cache.entries.shard_capacity();
        Err(fits.then(|| Place(Key { model: Arc::clone(&self.model), hash, inputs: inputs.into() })))
    }

    /// Keeps an answer.
    pub fn keep(&self, place: Place, outputs: &Outputs) {
        self.cache.entries.insert(place.0, Arc::clone(outputs));
    }
}

fn weight_of(tensors: &[NamedTensor]) -> u64 {
    tensors.iter().map(|tensor| (bytes_of(&tensor.tensor.data) + TENSOR_BYTES) as u64).sum()
}

fn bytes_of(data: &Data) -> usize {
    match data {
        Data::Bytes(texts) => texts.iter().map(|text| text.len() + size_of::<String>()).sum(),
        other => other.len() * other.datatype().bytes(),
    }
}

/// Runs the same expression on the bytes of whichever vector of numbers there is. What is lent is no input, and has none.
macro_rules! on_numbers {
    ($data:expr, $values:ident => $numbers:expr, $texts:ident => $otherwise:expr) => {
        match $data {
            Data::Bool($values) => $numbers,
            Data::Uint8($values) => $numbers,
            Data::Uint16($values) => $numbers,
            Data::Uint32($values) => $numbers,
            Data::Uint64($values) => $numbers,
            Data::Int8($values) => $numbers,
            Data::Int16($values) => $numbers,
            Data::Int32($values) => $numbers,
            Data::Int64($values) => $numbers,
            Data::Fp16($values) => $numbers,
            Data::Bf16($values) => $numbers,
            Data::Fp32($values) => $numbers,
            Data::Fp64($values) => $numbers,
            Data::Bytes($texts) => $otherwise,
            Data::Lent(_) => Default::default(),
        }
    };
}

fn hash_of(seed: u64, model: &Model, inputs: &[NamedTensor]) -> u64 {
    let mut hasher = Xxh3::with_seed(seed);
    for part in [&model.name, &model.version, &model.digest, &model.fingerprint] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    for NamedTensor { name, tensor } in inputs {
        hasher.update(name.as_bytes());
        hasher.update(tensor.data.datatype().as_str().as_bytes());
        hasher.update(tensor.shape.as_bytes());
        on_numbers!(&tensor.data, values => hasher.update(values.as_bytes()), texts => for text in texts {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        });
    }
    hasher.digest()
}

/// The same name, type, shape and bits: a NaN is itself, and 0 is not -0.
fn is_same(left: &NamedTensor, right: &NamedTensor) -> bool {
    fn bits(data: &Data) -> &[u8] {
        on_numbers!(data, values => values.as_slice().as_bytes(), _texts => &[])
    }
    let same_name = left.name == right.name;
    let (left, right) = (&left.tensor, &right.tensor);
    let same_texts = match (&left.data, &right.data) {
        (Data::Bytes(left), Data::Bytes(right)) => left == right,
        _ => true,
    };
    same_name
        && left.data.datatype() == right.data.datatype()
        && left.shape == right.shape
        && same_texts
        && bits(&left.data) == bits(&right.data)
}

#[cfg(test)]
mod tests {
    use millrace_engine::Tensor;

    use super::*;

    fn inputs(shape: &[i64], data: Data) -> Vec<NamedTensor> {
        vec![NamedTensor { name: "x".into(), tensor: Tensor { shape: shape.to_vec(), data } }]
    }

    fn number(value: f32) -> Vec<NamedTensor> {
        inputs(&[1], Data::Fp32(vec![value]))
    }

    fn cache(max_entries: u64, max_bytes: u64) -> Arc<ResponseCache> {
        ResponseCache::new(&contract::ResponseCache { max_entries, max_bytes })
    }

    /// Looks for the inputs and keeps `answer` where they are not found; whether they were.
    fn ask(model: &ModelCache, inputs: &[NamedTensor], answer: f32) -> Option<f64> {
        match model.find(inputs) {
            Ok(outputs) => outputs[0].tensor.data.number(0),
            Err(place) => {
                model.keep(place.expect("small enough"), &Arc::new(number(answer)));
                None
            }
        }
    }

    #[test]
    fn equal_inputs_are_answered_from_the_cache_and_no_others() {
        let model = cache(100, 1 << 20).of("m", None, "d", "");
        assert_eq!(ask(&model, &number(1.0), 10.0), None);
        assert_eq!(ask(&model, &number(1.0), 99.0), Some(10.0));
        for (index, other) in [
            number(2.0),
            number(-1.0),
            inputs(&[1, 1], Data::Fp32(vec![1.0])),
            inputs(&[1], Data::Int32(vec![1.0_f32.to_bits().cast_signed()])),
            inputs(&[1], Data::Bytes(vec!["1".into()])),
            inputs(&[2], Data::Bytes(vec!["ab".into(), "c".into()])),
            inputs(&[2], Data::Bytes(vec!["a".into(), "bc".into()])),
            number(0.0),
            number(-0.0),
            number(f32::NAN),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(ask(&model, &other, index as f32), None, "{other:?}");
            assert_eq!(ask(&model, &other, 99.0), Some(index as f64), "{other:?}");
        }
    }

    #[test]
    fn two_inputs_that_may_be_left_out_are_not_taken_for_each_other() {
        let model = cache(100, 1 << 20).of("m", None, "d", "");
        let given = |name: &str| vec![NamedTensor { name: name.into(), ..number(1.0).remove(0) }];
        assert_eq!(ask(&model, &given("a"), 10.0), None);
        assert_eq!(ask(&model, &given("b"), 20.0), None);
        assert_eq!((ask(&model, &given("a"), 99.0), ask(&model, &given("b"), 99.0)), (Some(10.0), Some(20.0)));
    }

    #[test]
    fn nothing_crosses_from_one_model_version_or_file_to_another() {
        let cache = cache(100, 1 << 20);
        let models = [
            ("a", None, "d", ""),
            ("b", None, "d", ""),
            ("a", Some("2"), "d", ""),
            ("a", None, "e", ""),
            ("a", None, "d", "weights changed"),
        ];
        for (index, (name, version, digest, fingerprint)) in models.into_iter().enumerate() {
            let model = cache.of(name, version, digest, fingerprint);
            assert_eq!(ask(&model, &number(1.0), index as f32), None, "{name} {version:?} {digest} {fingerprint}");
        }
        let again = cache.of("a", None, "d", "");
        assert_eq!(ask(&again, &number(1.0), 99.0), Some(0.0), "loaded again, it is still known");
    }

    #[test]
    fn equal_hashes_do_not_make_inputs_equal() {
        let of = |name: &str| {
            let [name, version, digest, fingerprint] = [name, "", "d", ""].map(str::to_owned);
            Arc::new(Model { name, version, digest, fingerprint })
        };
        let model = of("m");
        let key = Key { model: Arc::clone(&model), hash: 7, inputs: number(1.0).into() };
        assert!(Query { model: &model, hash: 7, inputs: &number(1.0) }.equivalent(&key));
        assert!(!Query { model: &model, hash: 7, inputs: &number(2.0) }.equivalent(&key));
        let other = of("n");
        assert!(!Query { model: &other, hash: 7, inputs: &number(1.0) }.equivalent(&key));
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        let by_entries = cache(64, 1 << 30);
        let model = by_entries.of("m", None, "d", "");
        (0..1000_u16).for_each(|value| _ = ask(&model, &number(value.into()), 0.0));
        assert!((1..=64).contains(&by_entries.len()), "{} entries", by_entries.len());
        let by_bytes = cache(1_000_000, 1 << 20);
        let model = by_bytes.of("m", None, "d", "");
        for value in 0..2000_u16 {
            let large = inputs(&[1000], Data::Fp32(vec![value.into(); 1000]));
            if let Err(Some(place)) = model.find(&large) {
                model.keep(place, &Arc::new(number(0.0)));
            }
        }
        assert!(by_bytes.entries.weight() <= 1 << 20 && by_bytes.len() > 10, "{} entries", by_bytes.len());
        let huge = inputs(&[1_000_000], Data::Fp32(vec![0.0; 1_000_000]));
        assert!(matches!(model.find(&huge), Err(None)), "what cannot be kept is not copied");
    }
}
