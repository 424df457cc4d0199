//! Repository folders, and models made for tests: a matrix of a chosen size, multiplied.

use std::path::{Path, PathBuf};

use millrace_contract::{
    Digest,
    model::{Artifact, ModelFormat},
    repository::{Control, Repository, VersionPolicy},
    server::{ServedModel, ServerConfig},
};

/// A protobuf field: a message, a text or bytes.
fn field(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    varint(inner.len() as u64, &mut bytes);
    bytes.extend_from_slice(inner);
    bytes
}

fn number(number: u8, value: u64) -> Vec<u8> {
    let mut bytes = vec![number << 3];
    varint(value, &mut bytes);
    bytes
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value > 0x7f {
        bytes.push(u8::try_from(value & 0x7f).expect("7 bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("7 bits"));
}

/// `name: FP32 [rows, columns]`; 0 rows leave the axis open.
fn matrix(name: &str, columns: u64) -> Vec<u8> {
    let open = field(1, &field(2, b"n"));
    let fixed = field(1, &number(1, columns));
    let tensor = [number(1, 1), field(2, &[open, fixed].concat())].concat();
    [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
}

/// `Y = X * W`, X of `[n, size]`, every element of W being `weight`: 4 * size * size bytes of weights.
pub fn multiplier(size: usize, weight: f32) -> Vec<u8> {
    let width = size as u64;
    let raw = field(9, &self::weights(size, weight));
    of_weights(&[number(1, width), number(1, width), number(2, 1), field(8, b"W"), raw].concat(), width)
}

/// The same with W as an input that may be left out: the model has a value for it.
pub fn multiplier_by_any(size: usize, weight: f32) -> Vec<u8> {
    let width = size as u64;
    let raw = field(9, &self::weights(size, weight));
    let weights = [number(1, width), number(1, width), number(2, 1), field(8, b"W"), raw].concat();
    let side = || field(1, &number(1, width));
    let tensor = [number(1, 1), field(2, &[side(), side()].concat())].concat();
    let input = [field(1, b"W"), field(2, &field(1, &tensor))].concat();
    of_graph(&[field(5, &weights), field(11, &input)].concat(), width)
}

/// The same with W in a file `weights` beside it, which is to hold [`weights`].
pub fn multiplier_outside(size: usize) -> Vec<u8> {
    let width = size as u64;
    let location = [field(1, b"location"), field(2, b"weights")].concat();
    let weights =
        [number(1, width), number(1, width), number(2, 1), field(8, b"W"), field(13, &location), number(14, 1)]
            .concat();
    of_weights(&weights, width)
}

/// What [`multiplier_outside`] is to find beside it.
pub fn weights(size: usize, weight: f32) -> Vec<u8> {
    std::iter::repeat_n(weight.to_le_bytes(), size * size).flatten().collect()
}

fn of_weights(weights: &[u8], width: u64) -> Vec<u8> {
    of_graph(&field(5, weights), width)
}

/// `Y = X * W`, of which `more` has W.
fn of_graph(more: &[u8], width: u64) -> Vec<u8> {
    let node = [field(1, b"X"), field(1, b"W"), field(2, b"Y"), field(4, b"MatMul")].concat();
    let graph = [
        field(1, &node),
        field(2, b"g"),
        more.to_vec(),
        field(11, &matrix("X", width)),
        field(12, &matrix("Y", width)),
    ];
    [number(1, 8), field(7, &graph.concat()), field(8, &[field(1, b""), number(2, 13)].concat())].concat()
}

/// `Y = X / sum(X)` over all rows, X of `[n, size]`: its first axis is open, and yet no row is answered by itself.
pub fn shares_of_all(size: u64) -> Vec<u8> {
    let sum = [field(1, b"X"), field(2, b"S"), field(4, b"ReduceSum")].concat();
    let divide = [field(1, b"X"), field(1, b"S"), field(2, b"Y"), field(4, b"Div")].concat();
    let tensors = [field(11, &matrix("X", size)), field(12, &matrix("Y", size))].concat();
    let graph = [field(1, &sum), field(1, &divide), field(2, b"g"), tensors].concat();
    [number(1, 8), field(7, &graph), field(8, &[field(1, b""), number(2, 13)].concat())].concat()
}

/// `Y` is the second row of X, which is of `[n, size]`: it fails on a single one.
pub fn second_row(size: u64) -> Vec<u8> {
    let index = [number(1, 1), number(2, 7), field(8, b"I"), field(9, &1_i64.to_le_bytes())].concat();
    let node = [field(1, b"X"), field(1, b"I"), field(2, b"Y"), field(4, b"Gather")].concat();
    let tensors = [field(5, &index), field(11, &matrix("X", size)), field(12, &matrix("Y", size))].concat();
    let graph = [field(1, &node), field(2, b"g"), tensors].concat();
    [number(1, 8), field(7, &graph), field(8, &[field(1, b""), number(2, 13)].concat())].concat()
}

/// Writes a version of a model as a whole: nobody sees half of it.
pub fn put(folder: &Path, name: &str, version: u32, bytes: &[u8]) -> PathBuf {
    let file = folder.join(format!("{name}/{version}/model.onnx"));
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("writable");
    let unseen = folder.join(format!(".{name}-{version}"));
    std::fs::write(&unseen, bytes).expect("writable");
    std::fs::rename(unseen, &file).expect("writable");
    file
}

/// A server of a folder.
pub fn serving(folder: &Path, control: Control) -> ServerConfig {
    let repository = Repository {
        uri: format!("file://{}", folder.display()),
        control,
        poll_seconds: 1,
        load: Vec::new(),
        version_policy: VersionPolicy::default(),
    };
    ServerConfig { repository: Some(repository), drain_seconds: 10, ..ServerConfig::default() }
}

/// Version `version` of `m`, which multiplies by it, as revision `r<version>`.
pub fn served(folder: &Path, version: u32) -> ServedModel {
    of_bytes(folder, version, &multiplier(4, version as f32))
}

/// A version of `m` with these bytes.
pub fn of_bytes(folder: &Path, version: u32, bytes: &[u8]) -> ServedModel {
    let file = put(folder, "m", version, bytes);
    let uri = format!("file://{}", file.display());
    let artifact = Artifact { uri, digest: Digest::of(bytes), format: ModelFormat::Onnx };
    ServedModel {
        version: Some(version.to_string()),
        revision: format!("r{version}"),
        ..ServedModel::new("m", artifact)
    }
}

/// A server of a model that a file may replace by another.
pub fn of_file(model: ServedModel, file: &Path) -> ServerConfig {
    let model_file = Some(file.display().to_string());
    ServerConfig { model: Some(model), model_file, drain_seconds: 10, ..ServerConfig::default() }
}

/// Writes what a server is told, as kubelet does: nobody sees half of it.
pub fn tell(file: &Path, text: &str) {
    let unseen = file.with_extension("new");
    std::fs::write(&unseen, text).expect("writable");
    std::fs::rename(unseen, file).expect("writable");
}
