//! `evaluate` with the engine's test models, on rows whose metrics are worked out by hand. Needs ONNX Runtime.

use millrace_contract::{
    Digest,
    dataset::{Field, FieldRole, FieldType, Schema, Split, SplitSpec},
    evaluation::{Evaluation, MetricName},
    model::{Artifact, InputBinding, ModelFormat, OutputBinding, Signature, Task},
    worker::{EvaluateTask, FailureReason, ModelRef, PrepareTask},
};
use millrace_worker::{evaluate, failure::Problem};

use crate::world::{World, dataset_ref, field, uri};

fn model(world: &World, name: &str) -> ModelRef {
    let path = format!("{}/../engine/tests/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).expect("a model of the engine's tests");
    let stored = format!("models/{name}/model.onnx");
    world.write(&format!("store/{stored}"), &bytes);
    let artifact = Artifact { uri: uri(&world.stored(&stored)), digest: Digest::of(&bytes), format: ModelFormat::Onnx };
    ModelRef { name: format!("{name}-1"), artifact, signature: None }
}

/// A dataset version of these rows, all columns features but the last, the label.
async fn task(world: &World, csv: &str, model: ModelRef, kind: Task, split: SplitSpec) -> EvaluateTask {
    let names: Vec<&str> = csv.lines().next().expect("a header").split(',').collect();
    let mut fields: Vec<Field> = names
        .iter()
        .map(|name| Field { nullable: true, ..field(name, FieldType::Number, FieldRole::Feature) })
        .collect();
    let label = fields.last_mut().expect("a column");
    label.role = FieldRole::Label;
    if kind == Task::Classification {
        label.data_type = FieldType::Integer;
    }
    world.write("rows/data.csv", csv);
    let prepare = PrepareTask { schema: Some(Schema { fields }), split, ..world.task("rows") };
    let prepared = world.prepare(&prepare).await.expect("good CSV");
    EvaluateTask {
        run: "e1".to_owned(),
        model_version: model.name.clone(),
        model,
        champion: None,
        dataset: dataset_ref(&prepared),
        split: Split::Test,
        task: kind,
        seed: 7,
    }
}

fn all_test() -> SplitSpec {
    SplitSpec { train: 0.0, validation: 0.0, test: 1.0, seed: 0 }
}

async fn run(world: &World, task: &EvaluateTask) -> Result<Evaluation, Problem> {
    evaluate::run(task, &world.store).await
}

fn assert_metrics(evaluation: &Evaluation, expected: &[(MetricName, f64)], rows: i64) {
    let names: Vec<MetricName> = evaluation.metrics.iter().map(|m| m.name).collect();
    for (name, value) in expected {
        let metric =
            evaluation.metrics.iter().find(|m| m.name == *name).unwrap_or_else(|| panic!("{name:?} of {names:?}"));
        assert!((metric.value - value).abs() < 1e-5, "{name:?}: {} {value}", metric.value);
        assert!(metric.lower <= metric.value && metric.value <= metric.upper, "{metric:?}");
        assert_eq!(metric.samples, rows);
    }
}

/// P(1) = sigmoid(x0 + 2 x1 - x2 - 1): 0.8808, 0.2689, 0.8808 (wrong), 0.1192.
const FOUR_ROWS: &str = "x0,x1,x2,x3,y\n1,1,0,0,1\n0,0,0,9,0\n3,0,0,0,0\n0,0,1,0,0\n";

fn declared() -> Signature {
    Signature {
        inputs: vec![InputBinding {
            tensor: "X".to_owned(),
            columns: ["x0", "x1", "x2", "x3"].map(str::to_owned).to_vec(),
        }],
        outputs: OutputBinding {
            label: Some("label".to_owned()),
            probabilities: Some("probabilities".to_owned()),
            classes: vec!["0".to_owned(), "1".to_owned()],
        },
    }
}

#[tokio::test]
async fn a_classifier_has_the_metrics_worked_out_by_hand_and_none_better_than_itself() {
    let world = World::new();
    let candidate = ModelRef { signature: Some(declared()), ..model(&world, "classifier") };
    let base = task(&world, FOUR_ROWS, candidate.clone(), Task::Classification, all_test()).await;
    let evaluation = run(&world, &EvaluateTask { champion: Some(candidate), ..base }).await.expect("an evaluation");
    let expected = [
        (MetricName::Accuracy, 0.75),
        (MetricName::Precision, 0.5),
        (MetricName::Recall, 1.0),
        (MetricName::F1, 2.0 / 3.0),
        (MetricName::RocAuc, 2.5 / 3.0),
        (MetricName::LogLoss, (0.126_928 + 0.313_262 + 2.126_928 + 0.126_928) / 4.0),
    ];
    assert_metrics(&evaluation, &expected, 4);
    assert_eq!(evaluation.differences.len(), 6);
    for difference in &evaluation.differences {
        assert_eq!((difference.difference, difference.lower, difference.upper), (0.0, 0.0, 0.0), "{difference:?}");
    }
    let full = std::fs::read(world.stored("evaluations/e1/report.json")).expect("the full report");
    let full: serde_json::Value = serde_json::from_slice(&full).expect("JSON");
    assert_eq!(full["confusionMatrix"], serde_json::json!({"classes": ["0", "1"], "counts": [[2, 1], [0, 1]]}));
    assert_eq!(full["predictions"][0]["current"]["bins"], serde_json::json!([2, 2, 0]));
    assert!(evaluation.uri.ends_with("evaluations/e1/report.json"));
}

#[tokio::test]
async fn a_signature_nobody_declared_is_bound_to_features_and_classes_of_the_training_split() {
    let world = World::new();
    // y is what the model answers: x0 > 1.
    let rows: String = (0..200).map(|i| format!("{},0,0,0,{}\n", i % 5, u8::from(i % 5 > 1))).collect();
    let csv = format!("x0,x1,x2,x3,y\n{rows}");
    let split = SplitSpec { train: 0.5, validation: 0.0, test: 0.5, seed: 1 };
    let base = task(&world, &csv, model(&world, "classifier"), Task::Classification, split).await;
    // Equal rows go the same way: of five different rows each split must have some.
    let evaluation = run(&world, &base).await.expect("an evaluation");
    assert_eq!(evaluation.signature, declared());
    let accuracy = evaluation.metrics.iter().find(|m| m.name == MetricName::Accuracy).expect("accuracy");
    assert_eq!(accuracy.value, 1.0);
    assert!(evaluation.differences.is_empty());
}

#[tokio::test]
async fn a_regressor_has_the_metrics_worked_out_by_hand() {
    let world = World::new();
    // 3 a - b + 0.5 answers 3.5, -0.5 and 4.5.
    let csv = "a,b,y\n1,0,3\n0,1,0\n2,2,5.5\n";
    let base = task(&world, csv, model(&world, "regressor"), Task::Regression, all_test()).await;
    let evaluation = run(&world, &base).await.expect("an evaluation");
    let expected = [
        (MetricName::Mae, 2.0 / 3.0),
        (MetricName::Rmse, 0.5_f64.sqrt()),
        (MetricName::R2, 1.0 - 1.5 / (15.0 + 1.0 / 6.0)),
    ];
    assert_metrics(&evaluation, &expected, 3);
}

#[tokio::test]
async fn what_can_not_be_evaluated_says_why() {
    let world = World::new();
    let csv = "a,b,y\n1,0,3\n,1,0\n2,2,5.5\n";
    let base = task(&world, csv, model(&world, "regressor"), Task::Regression, all_test()).await;
    let nan = run(&world, &base).await.expect_err("a missing value");
    assert_eq!(nan.reason, FailureReason::EvaluationFailed);
    assert!(nan.message.contains("regressor-1 answers 1 of 3 rows of split test with NaN"), "{nan}");
    let with = |model: ModelRef| EvaluateTask { model, ..base.clone() };
    let replaced = ModelRef {
        artifact: Artifact { digest: Digest::of("other"), ..model(&world, "regressor").artifact },
        ..model(&world, "regressor")
    };
    let gone = ModelRef {
        artifact: Artifact { uri: uri(&world.stored("models/none.onnx")), ..replaced.artifact.clone() },
        ..replaced.clone()
    };
    let cases = [
        (model(&world, "truncated"), FailureReason::InvalidModel),
        (model(&world, "external"), FailureReason::InvalidModel),
        (model(&world, "identity"), FailureReason::SignatureAmbiguous),
        (model(&world, "classifier"), FailureReason::SignatureMismatch),
        (replaced, FailureReason::DigestMismatch),
        (gone, FailureReason::SourceNotFound),
    ];
    for (candidate, reason) in cases {
        let name = candidate.name.clone();
        let problem = run(&world, &with(candidate)).await.expect_err(&name);
        assert_eq!(problem.reason, reason, "{name}: {problem}");
    }
}

#[tokio::test]
async fn a_champion_that_can_not_be_scored_any_more_does_not_hide_the_candidate() {
    let world = World::new();
    let csv = "a,b,y\n1,0,3\n0,1,0\n2,2,5.5\n";
    let base = task(&world, csv, model(&world, "regressor"), Task::Regression, all_test()).await;
    let champion = Some(model(&world, "truncated"));
    let evaluation = run(&world, &EvaluateTask { champion, ..base }).await.expect("an evaluation");
    assert_eq!((evaluation.metrics.len(), evaluation.differences.len()), (3, 0));
    let full = std::fs::read_to_string(world.stored("evaluations/e1/report.json")).expect("the full report");
    assert!(full.contains("truncated-1"), "it says why: {full}");
}
