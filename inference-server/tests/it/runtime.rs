//! Where models run, and in which order: through the door, in this process, with the engine's test models. Needs ONNX Runtime:
//! `make onnxruntime`.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use millrace_contract::server::{Batching, Queue};
use millrace_engine::{Data, Model, NamedTensor, Tensor};
use millrace_inference_server::{
    errors::{Reason, Refusal},
    inline::{become_core, is_alone},
    metrics::Metrics,
    request::{Answer, Infer, Options},
    runtime::{self, Observer, Ran, RunConfig, Running, Sessions},
};

/// Which worker ran how many rows for how many requests; and the first number of the last input.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<(usize, usize, usize)>>, Mutex<Vec<f64>>);

impl Observer for Seen {
    fn ran(&self, ran: &Ran<'_>) {
        let mark = ran.inputs.last().and_then(|input| input.tensor.data.number(0));
        self.1.lock().unwrap().extend(mark);
        self.0.lock().unwrap().push((ran.worker, ran.rows.iter().sum(), ran.rows.len()));
    }
}

impl Seen {
    /// The last run, once so many requests have been seen: on lanes they are answered first.
    async fn last(&self, requests: usize) -> (usize, usize, usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (seen, last) = {
                let runs = self.0.lock().unwrap();
                (runs.iter().map(|run| run.2).sum::<usize>(), runs.last().copied())
            };
            if let Some(last) = last.filter(|_| seen >= requests) {
                return last;
            }
            assert!(Instant::now() < deadline, "{seen} requests were seen, not {requests}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

struct Bench {
    running: Running,
    seen: Arc<Seen>,
    answered: AtomicUsize,
}

fn start(model: &str, batching: Batching, queue: Queue) -> Bench {
    let file = format!("{}/../engine/tests/models/{model}.onnx", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(file).unwrap();
    let config = RunConfig { name: model.into(), version: None, batching, queue, concurrency: 1 };
    let sessions = Sessions::open(|options| Model::load(&bytes, None, options), &config).unwrap();
    let seen = Arc::new(Seen::default());
    let (metrics, _) = Metrics::new();
    let observers = vec![Arc::clone(&seen) as Arc<dyn Observer>];
    let running = runtime::start(sessions, &config, observers, &metrics).unwrap();
    Bench { running, seen, answered: AtomicUsize::new(0) }
}

/// Sums of three features for so many rows.
fn rows(count: usize) -> Infer {
    let tensor = Tensor { shape: vec![count as i64, 30], data: Data::Fp32(vec![0.5; count * 30]) };
    Infer { inputs: vec![NamedTensor { name: "X".into(), tensor }], ..Infer::default() }
}

/// Runs longer the more loops.
fn slow(loops: i64) -> Infer {
    let tensor = |shape: &[i64], data| Tensor { shape: shape.to_vec(), data };
    let x = NamedTensor { name: "X".into(), tensor: tensor(&[1, 1], Data::Fp32(vec![5.0])) };
    let loops = NamedTensor { name: "loops".into(), tensor: tensor(&[1], Data::Int64(vec![loops])) };
    Infer { inputs: vec![x, loops], ..Infer::default() }
}

impl Bench {
    async fn infer(&self, request: Infer) -> Result<Answer, Refusal> {
        let answer = self.running.serving.door.infer(request, Instant::now()).await;
        self.answered.fetch_add(usize::from(answer.is_ok()), Ordering::Relaxed);
        answer
    }

    /// The last run: worker, rows, requests.
    async fn last(&self) -> (usize, usize, usize) {
        self.seen.last(self.answered.load(Ordering::Relaxed)).await
    }

    /// Short runs until the model is run on the cores: worker 0 is the lane.
    async fn until_inline(&self, request: impl Fn() -> Infer) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            self.infer(request()).await.unwrap();
            if self.last().await.0 > 0 {
                return;
            }
            assert!(Instant::now() < deadline, "the model stays on its lane");
        }
    }

    /// Waits until a long run is under way on the lane: what is queued then must wait for it.
    async fn until_taken(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.running.serving.door.places.taken() > 0 {
            assert!(Instant::now() < deadline, "nobody takes it");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_short_model_moves_to_the_core_and_all_that_has_arrived_there_makes_one_batch() {
    become_core(0);
    let bench = start("mlp", Batching::default(), Queue::default());
    bench.until_inline(|| rows(1)).await;
    let single = bench.infer(rows(1)).await.unwrap();
    let answers = join_all((1..=7).map(|count| bench.infer(rows(count)))).await;
    assert_eq!(bench.last().await, (1, 28, 7), "worker, rows, requests");
    for (count, answer) in (1..=7).zip(answers) {
        let outputs = answer.unwrap().outputs;
        assert_eq!(outputs[0].tensor.shape[0], count, "each has its own rows");
        assert_eq!(outputs[0].tensor.data.number(0), single.outputs[0].tensor.data.number(0));
    }
    assert!(bench.running.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn alone_on_its_core_a_request_is_run_where_it_is() {
    become_core(0);
    let bench = start("mlp", Batching::default(), Queue::default());
    bench.until_inline(|| rows(1)).await;
    let mut polite = Box::pin(bench.infer(rows(1)));
    assert!(futures::poll!(&mut polite).is_pending(), "it lets others go first");
    polite.await.unwrap();
    is_alone(true);
    assert!(futures::poll!(Box::pin(bench.infer(rows(1)))).is_ready(), "there are no others");
}

#[tokio::test]
async fn a_large_request_of_a_short_model_runs_alone_on_the_lane() {
    become_core(0);
    let bench = start("mlp", Batching::default(), Queue::default());
    bench.until_inline(|| rows(1)).await;
    assert_eq!(bench.infer(rows(33)).await.unwrap().outputs[0].tensor.shape[0], 33);
    assert_eq!(bench.last().await, (0, 33, 1));
}

#[tokio::test]
async fn a_model_whose_runs_get_long_leaves_the_core_and_a_long_run_keeps_nobody_else_waiting() {
    become_core(0);
    let (bench, other) =
        (start("slow", Batching::default(), Queue::default()), start("mlp", Batching::default(), Queue::default()));
    bench.until_inline(|| slow(1)).await;
    bench.infer(slow(20_000)).await.unwrap();
    bench.infer(slow(1)).await.unwrap();
    assert_eq!(bench.last().await.0, 0, "on its lane again");
    other.until_inline(|| rows(1)).await;
    let mut long = Box::pin(bench.infer(slow(200_000)));
    assert!(futures::poll!(&mut long).is_pending());
    for _ in 0..10 {
        other.infer(rows(1)).await.unwrap();
    }
    assert!(futures::poll!(&mut long).is_pending(), "ten short runs were over before the long one");
    long.await.unwrap();
}

#[tokio::test]
async fn what_is_moved_from_a_core_to_a_busy_lane_is_told_in_time_that_its_time_is_over() {
    become_core(0);
    let bench = start("slow", Batching { max_size: 1, ..Batching::default() }, Queue::default());
    bench.until_inline(|| slow(1)).await;
    let mut away = Box::pin(bench.infer(slow(20_000)));
    let mut long = Box::pin(bench.infer(slow(600_000)));
    assert!(futures::poll!(&mut away).is_pending() && futures::poll!(&mut long).is_pending());
    let options = Options { timeout: Some(Duration::from_millis(200)), ..Options::default() };
    let refusal = bench.infer(Infer { options, ..slow(1) }).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::QueueTimeout);
    away.await.unwrap();
    assert!(futures::poll!(&mut long).is_pending(), "told before the lane was free");
    long.await.unwrap();
}

#[tokio::test]
async fn requests_given_up_on_the_core_are_not_run() {
    become_core(0);
    let bench = start("mlp", Batching::default(), Queue::default());
    bench.until_inline(|| rows(1)).await;
    let mut given_up = Box::pin(bench.infer(rows(5)));
    let mut kept = Box::pin(bench.infer(rows(2)));
    assert!(futures::poll!(&mut given_up).is_pending());
    assert!(futures::poll!(&mut kept).is_pending());
    drop(given_up);
    kept.await.unwrap();
    assert_eq!(bench.last().await, (1, 2, 1));
    assert_eq!(bench.running.serving.door.places.taken(), 0);
}

#[tokio::test]
async fn the_urgent_overtake_and_who_asks_for_nothing_has_the_default() {
    let queue = Queue { default_priority: 2, timeout_milliseconds: 120_000, ..Queue::default() };
    let bench = start("slow", Batching { max_size: 1, ..Batching::default() }, queue);
    let ask = |priority: u64, loops: i64| {
        let options = Options { priority, ..Options::default() };
        bench.infer(Infer { options, ..slow(loops) })
    };
    let rest = async {
        bench.until_taken().await;
        let (later, default, urgent) = tokio::join!(ask(3, 3), ask(0, 2), ask(1, 1));
        later.and(default).and(urgent).unwrap();
    };
    // The first is queued before anybody looks whether it was taken.
    futures::future::join(ask(0, 200_000), rest).await.0.unwrap();
    bench.last().await;
    assert_eq!(*bench.seen.1.lock().unwrap(), [200_000.0, 1.0, 2.0, 3.0]);
}

#[tokio::test]
async fn a_client_that_has_no_time_is_told_so_in_time_and_costs_no_run() {
    let bench = start("slow", Batching::default(), Queue::default());
    let mut busy = Box::pin(bench.infer(slow(200_000)));
    assert!(futures::poll!(&mut busy).is_pending());
    bench.until_taken().await;
    let options = Options { timeout: Some(Duration::from_millis(20)), ..Options::default() };
    let asked = Instant::now();
    let refusal = bench.infer(Infer { options, ..slow(1) }).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::QueueTimeout);
    assert!(asked.elapsed() >= Duration::from_millis(20));
    assert!(futures::poll!(&mut busy).is_pending(), "told before the lane was free");
    busy.await.unwrap();
    assert_eq!(bench.last().await, (0, 1, 1));
    assert_eq!(bench.seen.0.lock().unwrap().len(), 1, "one run in all");
}

#[tokio::test]
async fn the_queue_is_bounded_by_bytes_too() {
    let queue = Queue { max_bytes: 20, timeout_milliseconds: 120_000, ..Queue::default() };
    let bench = start("slow", Batching::default(), queue);
    let mut busy = Box::pin(bench.infer(slow(200_000)));
    assert!(futures::poll!(&mut busy).is_pending());
    bench.until_taken().await;
    // Twelve bytes each: a number of four and one of eight.
    let mut waiting = Box::pin(bench.infer(slow(1)));
    assert!(futures::poll!(&mut waiting).is_pending());
    let refusal = bench.infer(slow(1)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::QueueFull);
    assert!(refusal.message.contains("20 bytes"), "{refusal}");
    busy.await.unwrap();
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_stopped_model_answers_what_waits_and_takes_no_more() {
    become_core(0);
    let bench = start("mlp", Batching::default(), Queue::default());
    bench.until_inline(|| rows(1)).await;
    let serving = Arc::clone(&bench.running.serving);
    let mut waiting = Box::pin(serving.door.infer(rows(1), Instant::now()));
    assert!(futures::poll!(&mut waiting).is_pending());
    let (stopped, answer) = tokio::join!(bench.running.stop(Duration::from_secs(5)), waiting);
    assert!(stopped && answer.is_ok());
    for count in [1, 33] {
        let refusal = serving.door.infer(rows(count), Instant::now()).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Stopping);
    }
}
