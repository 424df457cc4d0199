//! The log against real sinks: files read back, events received over a socket, and sinks that hang or fail.

use std::{
    net::SocketAddr,
    sync::atomic::AtomicUsize,
    time::{Instant, UNIX_EPOCH},
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Float32Type, Int64Type, TimestampMicrosecondType},
};
use axum::{Router, body::Bytes, extract::State, routing::post};
use http::{HeaderMap, StatusCode};
use millrace_contract::server_options::{EventMode, PayloadSink};
use millrace_engine::{Data, Tensor};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

struct Bench {
    log: Arc<PayloadLog>,
    registry: Registry,
    source: Arc<Source>,
}

impl Bench {
    fn new(sink: PayloadSink, max_waiting_records: u32, max_waiting_bytes: u64) -> Self {
        let config = contract::PayloadLog { sink, sample_rate: 1.0, max_waiting_records, max_waiting_bytes };
        let (metrics, registry) = Metrics::new();
        let log = PayloadLog::start(&config, &[], "b00t", metrics).unwrap();
        let source = Arc::new(Source { model: "fraud".into(), version: "3".into(), digest: "sha256:d".into() });
        Self { log, registry, source }
    }

    /// A request and its answer; how long handing both over took.
    fn request(&self, id: &str, value: f32) -> Duration {
        let started = Instant::now();
        let inputs = [named("x", &[1, 2], Data::Fp32(vec![value, value + 1.0]))];
        let outputs = Arc::new(vec![named("label", &[1], Data::Bytes(vec![format!("of {value}")]))]);
        if let Some(draft) = self.log.draft(Some(id), &inputs) {
            self.log.answered(draft, &self.source, &outputs, Duration::from_micros(250));
        }
        started.elapsed()
    }

    fn counted(&self, outcome: &str) -> u64 {
        let page = crate::metrics::render(&self.registry);
        let start = format!("millrace_server_payload_log_records_total{{outcome=\"{outcome}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap()
    }

    async fn until(&self, outcome: &str, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.counted(outcome) < count {
            assert!(Instant::now() < deadline, "{outcome} stays at {}", self.counted(outcome));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn named(name: &str, shape: &[i64], data: Data) -> NamedTensor {
    NamedTensor { name: name.into(), tensor: Tensor { shape: shape.to_vec(), data } }
}

fn files(folder: &tempfile::TempDir, max_rows: u32, max_seconds: u32) -> PayloadSink {
    let uri = format!("file://{}/log", folder.path().display());
    PayloadSink::Parquet(contract::ParquetSink { uri, max_rows, max_bytes: 1 << 20, max_seconds })
}

/// Every file's rows, in the order of the names.
fn read_back(folder: &tempfile::TempDir) -> Vec<RecordBatch> {
    let versions = folder.path().join("log/fraud/3");
    let days = std::fs::read_dir(versions).unwrap().flat_map(|day| std::fs::read_dir(day.unwrap().path()).unwrap());
    let mut names: Vec<_> = days.map(|file| file.unwrap().path()).collect();
    names.sort();
    let read = |name| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(name).unwrap()).unwrap();
        reader.build().unwrap().next().unwrap().unwrap()
    };
    names.into_iter().map(read).collect()
}

/// An HTTP sink on a free port.
async fn sink(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn events(address: SocketAddr, mode: EventMode, timeout_milliseconds: u64) -> PayloadSink {
    PayloadSink::CloudEvents(contract::EventSink {
        url: format!("http://{address}/events"),
        mode,
        timeout_milliseconds,
    })
}

#[tokio::test]
async fn files_are_finished_by_rows_and_the_rest_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new(files(&folder, 2, 3600), 100, 1 << 20);
    let before = i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
    for (id, value) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
        bench.request(id, value);
    }
    bench.until("written", 2).await;
    assert!(bench.log.stop(Duration::from_secs(20)).await);
    assert_eq!(bench.counted("written"), 3);
    let batches = read_back(&folder);
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 1]);
    let first = &batches[0];
    let column = |name: &str| first.column_by_name(name).unwrap();
    assert_eq!(column("id").as_string::<i32>().value(1), "b");
    assert_eq!(column("digest").as_string::<i32>().value(0), "sha256:d");
    assert_eq!(column("duration_us").as_primitive::<Int64Type>().value(0), 250);
    assert!(column("time").as_primitive::<TimestampMicrosecondType>().value(0) >= before);
    let x = column("inputs").as_struct().column_by_name("x").unwrap().as_struct().clone();
    let list = |name: &str, row| x.column_by_name(name).unwrap().as_list::<i32>().value(row);
    assert_eq!(list("data", 1).as_primitive::<Float32Type>().values(), &[2.0, 3.0]);
    assert_eq!(list("shape", 1).as_primitive::<Int64Type>().values(), &[1, 2]);
    let label = column("outputs").as_struct().column_by_name("label").unwrap().as_struct().clone();
    let texts = label.column_by_name("data").unwrap().as_list::<i32>().value(1);
    assert_eq!(texts.as_string::<i32>().value(0), "of 2");
}

#[tokio::test]
async fn a_file_is_also_finished_by_its_age() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new(files(&folder, 1000, 1), 100, 1 << 20);
    bench.request("a", 1.0);
    bench.until("written", 1).await;
    assert_eq!(read_back(&folder)[0].num_rows(), 1);
}

#[test]
fn every_element_type_has_its_column() {
    let half = half::f16::from_f32(0.5);
    let all = vec![
        named("bool", &[1], Data::Bool(vec![true])),
        named("u8", &[1], Data::Uint8(vec![1])),
        named("u16", &[1], Data::Uint16(vec![1])),
        named("u32", &[1], Data::Uint32(vec![1])),
        named("u64", &[1], Data::Uint64(vec![u64::MAX])),
        named("i8", &[1], Data::Int8(vec![-1])),
        named("i16", &[1], Data::Int16(vec![-1])),
        named("i32", &[1], Data::Int32(vec![-1])),
        named("i64", &[1], Data::Int64(vec![i64::MIN])),
        named("f16", &[1], Data::Fp16(vec![half])),
        named("bf16", &[1], Data::Bf16(vec![half::bf16::from_f32(0.5)])),
        named("f32", &[], Data::Fp32(vec![0.5])),
        named("f64", &[0], Data::Fp64(vec![])),
        named("text", &[1], Data::Bytes(vec!["ü".into()])),
    ];
    let held = || Held { of: Arc::default(), bytes: 0 };
    let record = Record {
        source: Arc::new(Source { model: String::new(), version: String::new(), digest: String::new() }),
        id: "a".into(),
        time: UNIX_EPOCH,
        duration: Duration::ZERO,
        inputs: all.clone(),
        outputs: Arc::new(Vec::new()),
        held: [held(), held()],
    };
    let batch = columns::batch(&[record]).unwrap();
    let inputs = batch.column_by_name("inputs").unwrap().as_struct();
    assert_eq!(inputs.num_columns(), all.len());
    let data = |name: &str| {
        inputs.column_by_name(name).unwrap().as_struct().column_by_name("data").unwrap().as_list::<i32>().value(0)
    };
    assert_eq!(data("f16").as_primitive::<Float32Type>().values(), &[0.5]);
    assert_eq!(data("bf16").as_primitive::<Float32Type>().values(), &[0.5]);
    assert_eq!(data("i64").as_primitive::<Int64Type>().values(), &[i64::MIN]);
    assert_eq!((data("f32").len(), data("f64").len()), (1, 0));
    assert_eq!(data("text").as_string::<i32>().value(0), "ü");
}

#[test]
fn a_tensor_that_some_records_lack_is_null_there() {
    let record = |inputs: &[NamedTensor]| Record {
        source: Arc::new(Source { model: String::new(), version: String::new(), digest: String::new() }),
        id: "a".into(),
        time: UNIX_EPOCH,
        duration: Duration::ZERO,
        inputs: inputs.to_vec(),
        outputs: Arc::new(Vec::new()),
        held: [Held { of: Arc::default(), bytes: 0 }, Held { of: Arc::default(), bytes: 0 }],
    };
    let number = |name: &str, value| named(name, &[1], Data::Fp32(vec![value]));
    let records = [
        record(&[number("x", 1.0)]),
        record(&[number("x", 2.0), number("bias", 3.0)]),
        record(&[number("bias", 4.0), number("x", 5.0)]),
    ];
    let batch = columns::batch(&records).unwrap();
    let inputs = batch.column_by_name("inputs").unwrap().as_struct();
    let column = |name: &str| inputs.column_by_name(name).unwrap().as_struct();
    let values = |name: &str| -> Vec<Option<f32>> {
        let lists = column(name).column_by_name("data").unwrap().as_list::<i32>();
        let value = |row| (!column(name).is_null(row)).then(|| lists.value(row).as_primitive::<Float32Type>().value(0));
        (0..3).map(value).collect()
    };
    assert_eq!(values("x"), [Some(1.0), Some(2.0), Some(5.0)]);
    assert_eq!(values("bias"), [None, Some(3.0), Some(4.0)]);
}

type Received = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

async fn receiver(received: Received) -> SocketAddr {
    async fn take(State(received): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
        received.lock().unwrap().push((headers, serde_json::from_slice(&body).unwrap()));
        StatusCode::ACCEPTED
    }
    sink(Router::new().route("/events", post(take)).with_state(received)).await
}

#[tokio::test]
async fn an_event_is_written_in_the_binary_or_the_structured_mode() {
    let data = json!({
        "model_name": "fraud", "model_version": "3", "model_digest": "sha256:d", "duration_us": 250,
        "request": {"id": "ü 1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]},
        "response": {"id": "ü 1", "outputs": [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["of 1"]}]},
    });
    for mode in [EventMode::Binary, EventMode::Structured] {
        let received = Received::default();
        let bench = Bench::new(events(receiver(Arc::clone(&received)).await, mode, 5000), 100, 1 << 20);
        bench.request("ü 1", 1.0);
        assert!(bench.log.stop(Duration::from_secs(20)).await);
        assert_eq!(bench.counted("written"), 1);
        let (headers, body) = received.lock().unwrap().pop().unwrap();
        match mode {
            EventMode::Binary => {
                assert_eq!(headers["content-type"], "application/json");
                assert_eq!(
                    (&headers["ce-specversion"], &headers["ce-id"]),
                    (&"1.0".parse().unwrap(), &"%C3%BC%201".parse().unwrap())
                );
                assert_eq!(headers["ce-type"], "dev.millrace.inference.v1");
                assert_eq!(headers["ce-source"], "/v2/models/fraud");
                assert_eq!(body, data);
            }
            EventMode::Structured => {
                assert_eq!(headers["content-type"], "application/cloudevents+json");
                assert_eq!(
                    (&body["specversion"], &body["id"], &body["source"]),
                    (&json!("1.0"), &json!("ü 1"), &json!("/v2/models/fraud"))
                );
                assert_eq!(body["data"], data);
            }
        }
    }
}

#[tokio::test]
async fn an_event_is_tried_again_while_the_sink_fails_and_not_when_it_refuses() {
    let tries = Arc::new(AtomicUsize::new(0));
    let answer = |State(tries): State<Arc<AtomicUsize>>| async move {
        if tries.fetch_add(1, Ordering::SeqCst) < 2 { StatusCode::BAD_GATEWAY } else { StatusCode::OK }
    };
    let address = sink(Router::new().route("/events", post(answer)).with_state(Arc::clone(&tries))).await;
    let bench = Bench::new(events(address, EventMode::Binary, 5000), 100, 1 << 20);
    bench.request("a", 1.0);
    bench.until("written", 1).await;
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    assert_eq!(bench.log.report(), PayloadLogReport { written: 1, trouble: None });
    let address = sink(Router::new().route("/events", post(async || StatusCode::BAD_REQUEST))).await;
    let bench = Bench::new(events(address, EventMode::Binary, 5000), 100, 1 << 20);
    bench.request("a", 1.0);
    bench.until("dropped_sink", 1).await;
    let report = PayloadLogReport { written: 0, trouble: Some("it answers 400 Bad Request".to_owned()) };
    assert_eq!(bench.log.report(), report);
}

#[tokio::test]
async fn a_sink_that_hangs_costs_records_and_never_a_request_its_time() {
    // Accepts connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(events(silent.local_addr().unwrap(), EventMode::Binary, 60_000), 16, 1 << 20);
    let mut longest = Duration::ZERO;
    for number in 0..2000 {
        longest = longest.max(bench.request(&number.to_string(), 1.0));
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(longest < Duration::from_millis(100), "handing a record over took {longest:?}");
    // 16 wait, 8 are on their way, one is held.
    let dropped = bench.counted("dropped_full");
    assert!((1950..=1984).contains(&dropped), "{dropped} dropped");
    assert!(!bench.log.stop(Duration::from_millis(50)).await, "it cannot have been written");
}

#[tokio::test]
async fn what_waits_is_also_bounded_by_bytes_and_freed_when_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    // A record here takes 295 bytes or so; a file is written when half of the bound waits.
    let bench = Bench::new(files(&folder, 1000, 3600), 1000, 2000);
    for number in 0..100 {
        bench.request(&number.to_string(), 1.0);
    }
    let dropped = bench.counted("dropped_full");
    assert!((90..97).contains(&dropped), "{dropped} dropped of 100");
    bench.until("written", 4).await;
    while bench.log.bytes.load(Ordering::SeqCst) > 1000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.request("later", 1.0);
    assert_eq!(bench.counted("dropped_full"), dropped);
    assert!(bench.log.stop(Duration::from_secs(20)).await);
    assert_eq!(bench.counted("written") + bench.counted("dropped_full"), 101);
}

#[tokio::test]
async fn a_store_that_cannot_be_written_to_costs_records_only() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("log"), "a file where the folder should be").unwrap();
    let bench = Bench::new(files(&folder, 1, 3600), 100, 1 << 20);
    bench.request("a", 1.0);
    bench.until("dropped_sink", 1).await;
    assert!(bench.log.report().trouble.is_some_and(|word| !word.contains(' ')), "a word, and no name of a file");
}

#[tokio::test]
async fn a_sink_that_cannot_be_is_refused_at_the_start() {
    let start = |sink| {
        let config = contract::PayloadLog { sink, sample_rate: 1.0, max_waiting_records: 1, max_waiting_bytes: 1 };
        PayloadLog::start(&config, &[], "b", Metrics::new().0).unwrap_err().to_string()
    };
    let url = |url: &str| {
        PayloadSink::CloudEvents(contract::EventSink {
            url: url.into(),
            mode: EventMode::Binary,
            timeout_milliseconds: 1,
        })
    };
    assert!(start(url("ftp://sink")).contains("ftp://sink"));
    assert!(start(url("sink")).contains("payloadLog.sink.url"));
    let metadata = start(url("http://169.254.169.254/latest"));
    assert!(metadata.contains("payloadLog.sink.url") && metadata.contains("link-local"), "{metadata}");
    let nowhere = contract::ParquetSink { uri: "nowhere".into(), max_rows: 1, max_bytes: 1, max_seconds: 1 };
    assert!(start(PayloadSink::Parquet(nowhere)).contains("payloadLog.sink.uri"));
}
