//! Damaged requests by the thousand against the parsers: JSON, JSON with binary tensors, protobuf. None may panic, hang or keep memory, and what
//! is accepted must be what others read too. `FUZZ_CASES` says how many (`make fuzz` asks for millions), `FUZZ_SEED` where to begin. A process of
//! its own: the models of other tests would be seen in its memory. No server is compiled into it, so that costs little.

use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_engine::{Data, Datatype, element_count};
use millrace_inference_server::{
    api::{
        answer, binary, codec, contents, elements, json,
        message::Limits,
        pb::{InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor},
        scan::Cursor,
    },
    request::{Answer, Infer},
};
use prost::Message;
use serde_json::Value;

/// Without `FUZZ_CASES`: a second or two for all targets together.
const CASES: u64 = 20_000;
/// No request of this size takes longer than this, on whatever machine.
const LONGEST: Duration = Duration::from_secs(2);
/// What a target may have more in memory at its end than after its first thousand requests.
const MOST_GROWTH: usize = 64 << 20;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers that are the same again for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap_or(0) % limit.max(1)
    }
}

const TOKENS: [&[u8]; 40] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"null",
    b"true",
    b"false",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"-",
    b".",
    b"e",
    b"0",
    b"1e400",
    b"-0.0",
    b"18446744073709551615",
    b"9223372036854775808",
    b"0.000000000000000000001",
    b"12345678",
    b"1.00000005960464478",
    b"\\u0000",
    b"\\ud800",
    b"\\u00e9",
    b"\xff",
    b"\xe2\x98\x83",
    b"\"data\":",
    b"\"shape\":[0],",
    b"\"datatype\":\"BYTES\",",
    b"\"name\":\"X\",",
    b"\"parameters\":{\"binary_data_size\":4},",
    b"[[[[[[[[",
    b"]]]]]]]]",
    b"\x00",
    b"\xff\xff\xff\x7f",
    b" \n\t",
];

/// A few edits to a text or a message.
fn damage(base: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len() + 1);
        let to = (at + random.below(12)).min(bytes.len());
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let copy = bytes[at..to].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => bytes.truncate(at),
            4 => {
                let count = if random.below(50) == 0 { 500 } else { 1 };
                bytes.splice(at..at, TOKENS[random.below(TOKENS.len())].repeat(count));
            }
            _ => drop(bytes.splice(at..to, TOKENS[random.below(TOKENS.len())].iter().copied())),
        }
    }
    bytes
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Runs one target on damaged copies of its bases; tells the seed of a request that it fails on.
fn fuzz(bases: &[Vec<u8>], target: impl Fn(&[u8], &mut Random)) {
    let (cases, first) = (from_env("FUZZ_CASES", CASES), from_env("FUZZ_SEED", 1));
    let mut settled = usize::MAX;
    for case in 0..cases {
        let mut random = Random((first + case).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let base = &bases[random.below(bases.len())];
        let bytes = damage(base, &mut random);
        let started = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(&bytes, &mut random)));
        let seed = first + case;
        assert!(outcome.is_ok(), "FUZZ_SEED={seed} FUZZ_CASES=1 fails: {:?}", String::from_utf8_lossy(&bytes));
        assert!(started.elapsed() < LONGEST, "FUZZ_SEED={seed} FUZZ_CASES=1 takes {:?}", started.elapsed());
        if case == 1000 {
            settled = resident();
        }
    }
    assert!(resident() < settled.saturating_add(MOST_GROWTH), "memory grew from {settled} to {} bytes", resident());
    println!("{cases} executions: {}", std::thread::current().name().unwrap_or_default());
}

/// What every accepted request keeps to.
fn is_sound(infer: &Infer, limits: &Limits) {
    assert!(infer.inputs.len() <= limits.inputs && infer.wanted.len() <= limits.inputs);
    for input in &infer.inputs {
        assert_eq!(element_count(&input.tensor.shape), Some(input.tensor.data.len()), "{input:?}");
    }
}

fn texts() -> Vec<Vec<u8>> {
    [
        r#"{"id":"1","inputs":[{"name":"X","shape":[2,2],"datatype":"FP32","data":[[1,-2.5],[3e0,0.0001]]}],"outputs":[{"name":"Y","parameters":{"classification":2}}]}"#,
        r#"{"inputs":[{"data":["a","\u00e9\n"],"parameters":{"x":[1,{"y":null}]},"name":"T","shape":[2],"datatype":"BYTES"}],"parameters":{"timeout":5,"priority":1}}"#,
        r#"{"inputs":[{"name":"A","shape":[3],"datatype":"INT8","data":[1,-128,127]},{"name":"B","shape":[1],"datatype":"BOOL","data":[true]},{"name":"C","shape":[2],"datatype":"UINT64","data":[0,18446744073709551615]}]}"#,
        r#"{"inputs":[{"name":"F","shape":[4],"datatype":"FP64","data":[0.1,1.7976931348623157e308,null,12345678.87654321]},{"name":"H","shape":[0,3],"datatype":"FP16","data":[]}]}"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

#[test]
fn json_requests_are_read_or_refused() {
    let limits = Limits::default();
    fuzz(&texts(), |bytes, _| {
        if let Ok(infer) = json::read(bytes, None, &limits) {
            is_sound(&infer, &limits);
            let outputs = std::sync::Arc::new(infer.inputs);
            let answer = Answer { id: infer.id, model: "m".into(), version: None, outputs };
            if let Ok(written) = answer::write(&answer, &[], &infer.options) {
                let whole: Vec<u8> = written.body.into_inner().iter().flat_map(|chunk| chunk.to_vec()).collect();
                let json = &whole[..written.json_length.unwrap_or(whole.len())];
                assert!(serde_json::from_slice::<Value>(json).is_ok(), "{}", String::from_utf8_lossy(json));
            }
        }
    });
}

#[test]
fn what_is_taken_for_json_is_json_for_others_too() {
    fuzz(&texts(), |bytes, _| {
        // serde_json knows neither these words nor our limit of depth, and it refuses numbers that FP64 cannot hold.
        let differs = [&b"NaN"[..], b"Infinity", b"[[[[[[", b"e4", b"E4"]
            .iter()
            .any(|word| bytes.windows(word.len()).any(|w| w == *word));
        let mut cursor = Cursor::new(bytes);
        let ours = cursor.skip().and_then(|()| cursor.end());
        let theirs = serde_json::from_slice::<Value>(bytes);
        assert!(
            differs || ours.is_ok() == theirs.is_ok() || theirs.is_err_and(|e| e.to_string().contains("out of range")),
            "{ours:?}"
        );
    });
}

#[test]
fn numbers_are_those_that_the_standard_library_reads() {
    let bases: Vec<Vec<u8>> = [
        "0.1234567",
        "-12.5",
        "1234567.12345678",
        "0.4967141530112327",
        "123456789012",
        "1e-7",
        "16777217",
        "1.0000000596046448",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    let limits = Limits::default();
    fuzz(&bases, |bytes, random| {
        // More digits, so that every length is met.
        let mut text = bytes.to_vec();
        text.extend((0..random.below(4)).map(|_| b"0123456789"[random.below(10)]));
        let list = [b"[", text.as_slice(), b"]"].concat();
        let read = |datatype| {
            let mut cursor = Cursor::new(&list);
            let data = elements::read(&mut cursor, datatype, &[1], &limits).ok()?;
            cursor.end().is_ok().then_some(data)
        };
        let std = std::str::from_utf8(&text).ok().map(str::trim_ascii_json);
        if let (Some(Data::Fp32(values)), Some(text)) = (read(Datatype::Fp32), std)
            && let Ok(expected) = text.parse::<f32>()
        {
            assert_eq!(values[0].to_bits(), expected.to_bits(), "{text}");
        }
        if let (Some(Data::Fp64(values)), Some(text)) = (read(Datatype::Fp64), std)
            && let Ok(expected) = text.parse::<f64>()
        {
            assert_eq!(values[0].to_bits(), expected.to_bits(), "{text}");
        }
        if let (Some(Data::Int64(values)), Some(text)) = (read(Datatype::Int64), std) {
            assert_eq!(text.parse(), Ok(values[0]));
        }
    });
}

/// White space as JSON has it.
trait TrimJson {
    fn trim_ascii_json(&self) -> &str;
}

impl TrimJson for str {
    fn trim_ascii_json(&self) -> &str {
        self.trim_matches([' ', '\n', '\r', '\t'])
    }
}

#[test]
fn binary_requests_are_read_or_refused() {
    let json = r#"{"inputs":[{"name":"A","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}},{"name":"T","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":11}},{"name":"B","datatype":"BF16","shape":[1],"parameters":{"binary_data_size":2}}],"parameters":{"binary_data_output":true}}"#;
    let tail = [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 3, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0, 0, 0x80, 0x3f];
    let base = [json.as_bytes(), &tail].concat();
    let limits = Limits::default();
    assert!(json::read(&base, Some(json.len()), &limits).is_ok());
    fuzz(&[base], |bytes, random| {
        let length = match random.below(4) {
            0 => random.below(bytes.len() * 2),
            1 => usize::MAX - random.below(3),
            _ => json.len() + bytes.len() - (json.len() + tail.len()).min(bytes.len()),
        };
        if let Ok(infer) = json::read(bytes, Some(length), &limits) {
            is_sound(&infer, &limits);
        }
    });
}

#[test]
fn raw_tensors_are_read_or_refused_and_come_back_as_they_were() {
    let limits = Limits::default();
    fuzz(&[vec![1, 0, 0, 0, b'a', 2, 0, 0, 0, 0xc3, 0xa9, 0, 0, 0, 0]], |bytes, random| {
        let datatype = Datatype::ALL[random.below(Datatype::ALL.len())];
        let count = bytes.len() as i64 / datatype.bytes().min(8) as i64;
        let shape = match random.below(4) {
            0 => vec![count],
            1 => vec![random.next() as i64, 2],
            2 => vec![3],
            _ => vec![1, count, 1],
        };
        if let Ok(data) = binary::read(bytes, datatype, &shape, &limits) {
            assert_eq!(element_count(&shape), Some(data.len()));
            let tensor = millrace_engine::Tensor { shape, data };
            let tensors = std::sync::Arc::new(vec![millrace_engine::NamedTensor { name: "T".into(), tensor }]);
            if datatype != Datatype::Bool {
                assert_eq!(binary::write(&tensors, 0), bytes);
            }
        }
    });
}

#[test]
fn protobuf_requests_are_read_or_refused() {
    let input = |name: &str, datatype: &str, contents: Option<InferTensorContents>| InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![2],
        parameters: Default::default(),
        contents,
    };
    let contents = InferTensorContents { fp32_contents: vec![1.0, 2.0], ..Default::default() };
    let texts =
        InferTensorContents { bytes_contents: vec![Bytes::from_static(b"a"), Bytes::new()], ..Default::default() };
    let typed = ModelInferRequest {
        model_name: "m".into(),
        id: "7".into(),
        inputs: vec![input("X", "FP32", Some(contents)), input("T", "BYTES", Some(texts))],
        ..Default::default()
    };
    let raw = ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![input("X", "FP32", None), input("Y", "INT8", None)],
        raw_input_contents: vec![Bytes::from_static(&[0; 8]), Bytes::from_static(&[1, 2])],
        ..Default::default()
    };
    let limits = Limits::default();
    fuzz(&[typed.encode_to_vec(), raw.encode_to_vec()], |bytes, _| {
        if codec::look(bytes).is_err() {
            return;
        }
        if let Ok(message) = ModelInferRequest::decode(bytes)
            && let Ok(infer) = contents::read(message, &limits)
        {
            is_sound(&infer, &limits);
            let outputs = std::sync::Arc::new(infer.inputs);
            let answer = Answer { id: infer.id, model: "m".into(), version: None, outputs };
            contents::write(&answer, &[], &infer.options).expect("all outputs of a model can be written");
        }
    });
}
