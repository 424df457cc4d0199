//! How fast the engine runs a small model beside ONNX Runtime alone, and what sessions of a large model cost in memory and speed.
//!
//! `engine_rates run` prints runs a second of the 30-feature model, `engine_rates memory alone|shared N` the memory of N sessions of a
//! model of 100 MB (in a process of its own, as memory that was freed is not always given back).
//! Figures of one call belong together: the machine may be busy with something else in the next.

use std::{
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use millrace_engine::{Data, LoadOptions, Model, ModelFile, NamedTensor, Settings, Tensor};
use ort::{
    memory::Allocator,
    session::{OutputSelector, RunOptions, Session, SessionInputValue},
    value::Tensor as OrtTensor,
};

const FEATURES: usize = 30;
/// How long each way is tried, and how often; the best of the tries is printed.
const TRY: Duration = Duration::from_millis(300);
const TRIES: usize = 7;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run"] => rates(),
        ["ort", rows] => println!("{}", ort_alone(rows.parse().expect("a number"))),
        ["memory", how @ ("alone" | "shared"), count] => memory(*how == "shared", count.parse().expect("a number")),
        _ => eprintln!("engine_rates run | engine_rates memory alone|shared N"),
    }
}

fn mlp() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/mlp.onnx"))
        .expect("the model is in the repository")
}

/// Calls a second.
fn rate(mut call: impl FnMut()) -> f64 {
    let (began, mut calls) = (Instant::now(), 0_u32);
    while began.elapsed() < TRY {
        for _ in 0..64 {
            call();
        }
        calls += 64;
    }
    f64::from(calls) / began.elapsed().as_secs_f64()
}

fn rates() {
    let mut model = Model::load(&mlp(), None, LoadOptions::default()).expect("ONNX Runtime: `make onnxruntime`");
    model.warm_up().expect("it takes zeros");
    println!("{:>6} {:>16} {:>16} {:>16} {:>8}", "rows", "engine runs/s", "ort runs/s", "engine rows/s", "ratio");
    for rows in [1, 8, 32] {
        let tensor = Tensor { shape: vec![rows as i64, FEATURES as i64], data: Data::Fp32(vec![0.5; rows * FEATURES]) };
        let inputs = [NamedTensor { name: "X".to_owned(), tensor }];
        let (mut ours, mut theirs) = (0.0_f64, 0.0_f64);
        // By turns, as other work on the machine comes and goes.
        for _ in 0..TRIES {
            ours = ours.max(rate(|| {
                black_box(model.run(&inputs).expect("it runs"));
            }));
            theirs = theirs.max(ort_in_a_process_of_its_own(rows));
        }
        println!("{rows:>6} {ours:>16.0} {theirs:>16.0} {:>16.0} {:>8.3}", ours * rows as f64, ours / theirs);
    }
}

/// There is one environment of ONNX Runtime a process, and the engine keeps it to itself.
fn ort_in_a_process_of_its_own(rows: usize) -> f64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).args(["ort", &rows.to_string()]).output().expect("it starts");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("it prints a rate")
}

/// ONNX Runtime through `ort`, with everything made before and nothing read after: the least that a run can cost.
fn ort_alone(rows: usize) -> f64 {
    let environment = ort::environment::init_from(millrace_engine::library_path()).expect("ONNX Runtime");
    let environment = environment.with_telemetry(false).build().expect("an environment");
    let builder = Session::builder(&environment).expect("options");
    let mut session =
        builder.with_intra_threads(1).expect("a thread").commit_from_memory(&mlp()).expect("the model loads");
    let input = OrtTensor::from_array(([rows, FEATURES], vec![0.5_f32; rows * FEATURES])).expect("it fills its shape");
    let labels = OrtTensor::<i64>::new(&Allocator::default(), [rows]).expect("memory");
    let probabilities = OrtTensor::<f32>::new(&Allocator::default(), [rows, 2]).expect("memory");
    let outputs = OutputSelector::default().preallocate("label", labels).preallocate("probabilities", probabilities);
    let options = RunOptions::new().expect("options").with_outputs(outputs);
    let inputs = [SessionInputValue::from(&input)];
    rate(|| {
        black_box(session.run_with_options(&inputs[..], &options).expect("it runs"));
    })
}

/// Kilobytes that this process holds now.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

fn memory(shared: bool, count: usize) {
    const WIDTH: usize = 2288;
    const LAYERS: usize = 5;
    Model::load(&mlp(), None, LoadOptions::default()).expect("ONNX Runtime: `make onnxruntime`");
    let bytes = layers(WIDTH, LAYERS);
    let before = resident();
    let began = Instant::now();
    let sessions = if shared { count } else { 1 };
    let file = ModelFile::check(&bytes, None, Settings { sessions, ..Settings::default() }).expect("a model");
    let mut models: Vec<Model> = (0..count).map(|_| file.open(LoadOptions::default()).expect("it loads")).collect();
    let loaded = began.elapsed();
    drop(file);
    let after = resident();
    println!(
        "{} sessions, {}: file {} MB, memory {} MB more, loaded in {} ms",
        count,
        if shared { "shared" } else { "alone" },
        bytes.len() / 1_000_000,
        after.saturating_sub(before) / 1000,
        loaded.as_millis()
    );
    for rows in [1, 32] {
        let tensor = Tensor { shape: vec![rows as i64, WIDTH as i64], data: Data::Fp32(vec![0.5; rows * WIDTH]) };
        let inputs = [NamedTensor { name: "X".to_owned(), tensor }];
        let (began, mut runs) = (Instant::now(), 0);
        while began.elapsed() < TRY * 4 {
            black_box(models[runs % count].run(&inputs).expect("it runs"));
            runs += 1;
        }
        println!("  {rows:>3} rows: {:.2} ms a run", began.elapsed().as_secs_f64() * 1000.0 / runs as f64);
    }
}

/// So many products with a square matrix, one after another.
fn layers(width: usize, count: usize) -> Vec<u8> {
    fn varint(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }
    let field = |number: u8, inner: &[u8]| [vec![number << 3 | 2], varint(inner.len()), inner.to_vec()].concat();
    let mut graph = field(2, b"layers");
    for layer in 0..count {
        let name = |layer: usize| match layer {
            0 => "X".to_owned(),
            last if last == count => "Y".to_owned(),
            other => format!("h{other}"),
        };
        let weight = format!("w{layer}");
        let scale = 1.0 / width as f32;
        let data: Vec<u8> =
            (0..width * width).flat_map(|i| (((i + layer) % 13) as f32 * scale).to_le_bytes()).collect();
        let size = varint(width);
        let tensor =
            [field(1, &[size.clone(), size].concat()), vec![0x10, 1], field(8, weight.as_bytes()), field(9, &data)];
        graph.extend(field(5, &tensor.concat()));
        let ends =
            [field(1, name(layer).as_bytes()), field(1, weight.as_bytes()), field(2, name(layer + 1).as_bytes())];
        graph.extend(field(1, &[ends.concat(), field(4, b"MatMul")].concat()));
    }
    let shape = [field(1, &field(2, b"n")), field(1, &[vec![0x08], varint(width)].concat())].concat();
    let floats = field(2, &field(1, &[vec![0x08, 1], field(2, &shape)].concat()));
    graph.extend(field(11, &[field(1, b"X"), floats.clone()].concat()));
    graph.extend(field(12, &[field(1, b"Y"), floats].concat()));
    [vec![0x08, 10], field(7, &graph), field(8, &[0x10, 20])].concat()
}
