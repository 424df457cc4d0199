//! Sketches of small runs, counted by hand.

use std::{collections::BTreeMap, sync::Arc};

use millrace_contract::{
    model::{InputBinding, TensorSpec},
    sketch::{Bins, FieldProfile},
};

use super::*;

fn spec(name: &str, datatype: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype: datatype.into(), shape: shape.to_vec() }
}

fn named(name: &str, shape: &[i64], data: Data) -> NamedTensor {
    NamedTensor { name: name.into(), tensor: Tensor { shape: shape.to_vec(), data } }
}

fn field(name: &str, edges: &[f64], reference: &[u64]) -> FieldProfile {
    FieldProfile {
        name: name.into(),
        bins: Bins::Numeric { edges: edges.to_vec() },
        counts: Counts { bins: reference.to_vec(), missing: 0 },
        mean: None,
        std_dev: None,
        min: None,
        max: None,
        distinct: None,
    }
}

fn classifier(lanes: usize) -> Sketches {
    let tensors = Tensors {
        inputs: vec![spec("X", "FP32", &[-1, 2])],
        outputs: vec![spec("label", "INT64", &[-1]), spec("probabilities", "FP32", &[-1, 2])],
    };
    let signature = Signature {
        inputs: vec![InputBinding { tensor: "X".into(), columns: vec!["age".into(), "sum".into()] }],
        outputs: OutputBinding {
            label: Some("label".into()),
            probabilities: Some("probabilities".into()),
            classes: vec!["0".into(), "1".into()],
        },
    };
    let features = vec![field("sum", &[10.0], &[5, 6]), field("age", &[30.0, 60.0], &[1, 2, 3])];
    let profile = DatasetProfile { format_version: 1, rows: 11, features, label: None };
    let identity = Identity { boot_id: "b".into(), model: "m".into(), revision: "r".into(), digest: "d".into() };
    Sketches::new(identity, &tensors, Some(&signature), Some(Task::Classification), Some(&profile), lanes)
}

fn run(sketches: &Sketches, lane: usize) {
    run_as(sketches, lane, [Sketched::Whole; 2]);
}

/// A request of two rows and one of one.
fn run_as(sketches: &Sketches, lane: usize, sketched: [Sketched; 2]) {
    let inputs = [named("X", &[3, 2], Data::Fp32(vec![20.0, 1.0, 40.0, 11.0, f32::NAN, 12.0]))];
    let first = vec![
        named("label", &[2], Data::Int64(vec![1, 0])),
        named("probabilities", &[2, 2], Data::Fp32(vec![0.02, 0.98, 0.6, 0.4])),
    ];
    let second =
        vec![named("label", &[1], Data::Int64(vec![7])), named("probabilities", &[1, 2], Data::Fp32(vec![0.97, 0.03]))];
    sketches.count(lane, &inputs, &[2, 1], &sketched, &[Arc::new(first), Arc::new(second)]);
}

#[test]
fn every_row_of_the_inputs_is_counted_and_one_row_a_request_of_the_predictions() {
    let sketches = classifier(1);
    run(&sketches, 0);
    let read = sketches.read();
    assert_eq!(read.rows, 3);
    let names: Vec<&str> = read.features.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["age", "sum"]);
    assert_eq!(read.features[0].current, Counts { bins: vec![1, 1, 0], missing: 1 });
    assert_eq!(read.features[0].reference, Some(Counts { bins: vec![1, 2, 3], missing: 0 }));
    assert_eq!(read.features[1].current, Counts { bins: vec![1, 2], missing: 0 });
    assert_eq!(read.predictions[0].name, LABEL);
    assert_eq!(read.predictions[0].current, Counts { bins: vec![0, 1, 1], missing: 0 });
    let mut probabilities = vec![0; 20];
    (probabilities[19], probabilities[0]) = (1, 1);
    assert_eq!(read.predictions[1].current, Counts { bins: probabilities, missing: 0 });
}

#[test]
fn reading_adds_up_what_all_lanes_have_counted() {
    let sketches = classifier(2);
    run(&sketches, 0);
    run(&sketches, 1);
    let read = sketches.read();
    assert_eq!(read.rows, 6);
    assert_eq!(read.features[1].current.bins, [2, 4]);
}

#[test]
fn what_was_not_split_at_random_is_no_prediction_and_a_copy_is_nothing() {
    use Sketched::{Inputs, Nothing, Whole};
    // Of ages and labels: the first request has 20 and 40 and answers 1, the second has none and answers what is no class.
    for (sketched, rows, ages, missing, labels) in [
        ([Whole, Inputs], 3, [1, 1, 0], 1, [0, 1, 0]),
        ([Inputs, Inputs], 3, [1, 1, 0], 1, [0, 0, 0]),
        ([Nothing, Whole], 1, [0, 0, 0], 1, [0, 0, 1]),
        ([Inputs, Nothing], 2, [1, 1, 0], 0, [0, 0, 0]),
        ([Nothing, Nothing], 0, [0, 0, 0], 0, [0, 0, 0]),
    ] {
        let sketches = classifier(1);
        run_as(&sketches, 0, sketched);
        let read = sketches.read();
        assert_eq!(read.rows, rows, "{sketched:?}");
        assert_eq!(read.features[0].current, Counts { bins: ages.to_vec(), missing }, "{sketched:?}");
        assert_eq!(read.predictions[0].current, Counts { bins: labels.to_vec(), missing: 0 }, "{sketched:?}");
    }
    assert_eq!(
        spans(&[1, 2, 3, 1], &[Whole, Nothing, Inputs, Whole]),
        [0..1, 3..7],
        "rows beside each other are one span"
    );
}

#[test]
fn what_was_split_by_its_key_is_counted_by_cluster_beside_all_others() {
    let sketches = classifier(2);
    run_as(&sketches, 0, [Sketched::OfCluster(7), Sketched::Whole]);
    run_as(&sketches, 1, [Sketched::OfCluster(7), Sketched::OfCluster(399)]);
    let read = sketches.read();
    assert_eq!(read.predictions[0].current, Counts { bins: vec![0, 2, 2], missing: 0 });
    // Classes 0 and 1, others and none; twenty bins of probabilities and none. The first request answers 1 with 0.98.
    let probable = [vec![0; 19], vec![2]].concat();
    let expected =
        [("label/4", [(7, vec![0, 2]), (399, vec![0, 0, 1])]), ("probability/21", [(7, probable), (399, vec![1])])];
    let expected = expected.map(|(part, clusters)| (part.to_owned(), BTreeMap::from(clusters)));
    assert_eq!(read.sticky_predictions, BTreeMap::from(expected));
    run(&sketches, 0);
    assert_eq!(sketches.read().sticky_predictions, read.sticky_predictions, "nobody said a cluster");
}

#[test]
fn rows_of_another_width_than_the_columns_have_are_not_taken_for_them() {
    let sketches = classifier(1);
    let outputs: [Arc<Vec<NamedTensor>>; 1] = [Arc::default()];
    for shape in [&[2, 1][..], &[1 << 40, 0]] {
        let count = usize::from(shape[1] > 0) * 2;
        let rows = usize::try_from(shape[0]).unwrap();
        sketches.count(0, &[named("X", shape, Data::Int8(vec![20; count]))], &[rows], &[Sketched::Whole], &outputs);
    }
    let read = sketches.read();
    assert_eq!(read.features[0].current, Counts { bins: vec![0, 0, 0], missing: 0 });
    assert_eq!(read.features[1].current, Counts { bins: vec![0, 0], missing: 0 });
}

#[test]
fn without_signature_only_rows_are_counted() {
    let tensors = Tensors { inputs: vec![spec("X", "FP32", &[-1, 2])], outputs: vec![] };
    let identity = Identity { boot_id: "b".into(), model: "m".into(), revision: String::new(), digest: "d".into() };
    let sketches = Sketches::new(identity, &tensors, None, Some(Task::Regression), None, 1);
    let outputs: [Arc<Vec<NamedTensor>>; 1] = [Arc::default()];
    sketches.count(0, &[named("X", &[2, 2], Data::Fp32(vec![0.0; 4]))], &[2], &[Sketched::Whole], &outputs);
    let read = sketches.read();
    assert_eq!((read.rows, read.features.len(), read.predictions.len()), (2, 0, 0));
}
