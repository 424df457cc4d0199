//! The models of the benchmark: what is asked of them in every form of the protocol, and their rate alone.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use millrace_engine::{Data, LoadOptions, Model, NamedTensor, Tensor};

/// A model and the request that the benchmark sends it.
#[derive(Clone, Copy)]
pub struct Subject {
    pub name: &'static str,
    /// Shape of a row.
    pub row: &'static [i64],
}

/// 30 features, 64 hidden, 2 classes.
pub const MLP: Subject = Subject { name: "mlp", row: &[30] };
/// Milliseconds of arithmetic.
pub const ENCODER: Subject = Subject { name: "encoder", row: &[384] };
/// Weights that no cache holds: a batch costs little more than a row.
pub const WIDE: Subject = Subject { name: "wide", row: &[1024] };
/// A picture.
pub const IMAGE: Subject = Subject { name: "image", row: &[3, 224, 224] };
/// Gives back what it is given; as short as a model can be.
pub const SAME: Subject = Subject { name: "same", row: &[30] };
/// Gives back what it is given; 16 MB.
pub const COPY: Subject = Subject { name: "copy", row: &[4_194_304] };

impl Subject {
    pub fn file(self) -> PathBuf {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let own = root.join(format!("benches/models/{}.onnx", self.name));
        if own.exists() { own } else { root.join(format!("../engine/tests/models/{}.onnx", self.name)) }
    }

    fn shape(self, rows: usize) -> Vec<i64> {
        [&[rows as i64], self.row].concat()
    }

    fn values(self, rows: usize) -> Vec<f32> {
        let count = self.shape(rows).iter().product::<i64>() as usize;
        // Numbers as they come from pictures and sensors: seven digits each.
        (0..count).map(|index| ((index * 7919 % 10_007) as f32 / 10_007.0) * 2.0 - 1.0).collect()
    }

    pub fn path(self) -> String {
        format!("/v2/models/{}/infer", self.name)
    }

    pub fn json(self) -> Vec<u8> {
        let numbers: Vec<String> = self.values(1).iter().map(f32::to_string).collect();
        let shape = self.shape(1);
        format!(r#"{{"inputs":[{{"name":"X","shape":{shape:?},"datatype":"FP32","data":[{}]}}]}}"#, numbers.join(","))
            .into_bytes()
    }

    /// The binary extension: the headers and the body.
    pub fn binary(self) -> (String, Vec<u8>) {
        let bytes: Vec<u8> = self.values(1).iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = self.shape(1);
        let json = format!(
            r#"{{"parameters":{{"binary_data_output":true}},"inputs":[{{"name":"X","shape":{shape:?},"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}]}}"#,
            bytes.len()
        );
        (format!("inference-header-content-length: {}\r\n", json.len()), [json.as_bytes(), &bytes].concat())
    }

    /// `ModelInferRequest` with raw contents, encoded by hand: fields 1, 5 and 7.
    pub fn grpc(self) -> Vec<u8> {
        let bytes: Vec<u8> = self.values(1).iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape: Vec<u8> = self.shape(1).into_iter().flat_map(|dimension| varint(dimension as u64)).collect();
        let tensor = [field(1, b"X"), field(2, b"FP32"), field(3, &shape)].concat();
        [field(1, self.name.as_bytes()), field(5, &tensor), field(7, &bytes)].concat()
    }

    fn input(self, rows: usize) -> [NamedTensor; 1] {
        let tensor = Tensor { shape: self.shape(rows), data: Data::Fp32(self.values(rows)) };
        [NamedTensor { name: "X".into(), tensor }]
    }

    /// Rows a second of runs of so many rows, one after the other on this thread.
    pub fn alone(self, rows: usize, length: Duration) -> f64 {
        let (mut model, input) = (load(&self.file()), self.input(rows));
        model.run(&input).expect("a run");
        let (start, mut runs) = (Instant::now(), 0_u32);
        while start.elapsed() < length {
            model.run(&input).expect("a run");
            runs += 1;
        }
        f64::from(runs) * rows as f64 / start.elapsed().as_secs_f64()
    }
}

fn load(file: &Path) -> Model {
    let bytes = std::fs::read(file).expect("a model");
    Model::load(&bytes, None, LoadOptions::default()).expect("ONNX Runtime: `make onnxruntime`")
}

/// Loads a model and runs it once, says so, and keeps it until nobody listens any more.
pub fn hold(file: &Path) -> std::io::Result<()> {
    let mut model = load(file);
    model.warm_up().expect("a run");
    println!("127.0.0.1:0");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map(|_| drop(model))
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len() as u64), bytes].concat()
}
