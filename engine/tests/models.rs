//! The engine on the models that `models/make.py` writes. Needs ONNX Runtime: `make onnxruntime`.

use std::collections::HashMap;

use millrace_contract::{
    Digest,
    dataset::{Field, FieldRole, FieldType},
    model::{Task, TensorSpec},
};
use millrace_engine::{
    Data, Datatype, LoadError, LoadOptions, Model, NamedTensor, Tensor,
    score::{Column, ScoreError, Scores, score},
    signature::bind,
};

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"))).expect("run models/make.py")
}

fn load(name: &str) -> Result<Model, LoadError> {
    Model::load(&bytes(name), None, LoadOptions::default())
}

fn tensor(name: &str, shape: &[i64], data: Data) -> NamedTensor {
    NamedTensor { name: name.into(), tensor: Tensor { shape: shape.to_vec(), data } }
}

fn features(names: &[(&str, FieldType)]) -> Vec<Field> {
    let field = |&(name, data_type): &(&str, FieldType)| Field {
        name: name.into(),
        data_type,
        nullable: false,
        role: FieldRole::Feature,
    };
    names.iter().map(field).collect()
}

fn numbers(values: &[f64]) -> Column {
    Column::Numbers(values.to_vec())
}

#[test]
fn a_classifier_declares_its_tensors_and_gives_the_answers_of_its_formula() {
    let mut model = load("classifier").unwrap();
    let spec = |name: &str, datatype: &str, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
    };
    assert_eq!(model.tensors().inputs, [spec("X", "FP32", &[-1, 4])]);
    assert_eq!(model.tensors().outputs, [spec("label", "INT64", &[-1]), spec("probabilities", "FP32", &[-1, 2])]);
    model.warm_up().unwrap();
    let outputs = model.run(&[tensor("X", &[2, 4], Data::Fp32(vec![1., 1., 0., 0., 0., 0., 0., 9.]))]).unwrap();
    assert_eq!(outputs[0], tensor("label", &[2], Data::Int64(vec![1, 0])));
    let Data::Fp32(probabilities) = &outputs[1].tensor.data else { panic!("floats") };
    // sigmoid(2) and sigmoid(-1)
    for (given, expected) in probabilities.iter().zip([0.119_202_9, 0.880_797_1, 0.731_058_6, 0.268_941_4]) {
        assert!((given - expected).abs() < 1e-6, "{given} {expected}");
    }
}

#[test]
fn every_element_type_goes_in_and_comes_out_unchanged() {
    let mut model = load("identity").unwrap();
    let values = [
        Data::Bool(vec![true, false]),
        Data::Uint8(vec![0, u8::MAX]),
        Data::Uint16(vec![0, u16::MAX]),
        Data::Uint32(vec![0, u32::MAX]),
        Data::Uint64(vec![0, u64::MAX]),
        Data::Int8(vec![i8::MIN, i8::MAX]),
        Data::Int16(vec![i16::MIN, i16::MAX]),
        Data::Int32(vec![i32::MIN, i32::MAX]),
        Data::Int64(vec![i64::MIN, i64::MAX]),
        Data::Fp32(vec![f32::MIN, f32::MAX]),
        Data::Fp64(vec![f64::MIN, f64::MAX]),
        Data::Bytes(vec!["".into(), "snowman ☃".into()]),
    ];
    assert_eq!(values.iter().map(Data::datatype).collect::<Vec<_>>(), Datatype::ALL);
    let word = |data: &Data| data.datatype().as_str().to_lowercase();
    let inputs: Vec<_> = values.iter().map(|data| tensor(&format!("in_{}", word(data)), &[2], data.clone())).collect();
    let expected: Vec<_> =
        values.iter().map(|data| tensor(&format!("out_{}", word(data)), &[2], data.clone())).collect();
    assert_eq!(model.run(&inputs).unwrap(), expected);
}

#[test]
fn no_rows_in_no_rows_out() {
    let outputs = load("regressor").unwrap().run(&[tensor("X", &[0, 2], Data::Fp32(vec![]))]).unwrap();
    assert_eq!(outputs, [tensor("variable", &[0, 1], Data::Fp32(vec![]))]);
}

#[test]
fn a_model_that_cannot_be_used_is_refused_with_the_reason_and_the_remedy() {
    for (name, reason, words) in [
        ("truncated", "InvalidModel", "truncated"),
        ("external", "ExternalData", "tensor \"w\" keeps its data in another file"),
        ("unknown_operator", "InvalidModel", "NoSuchOperator"),
        ("zipmap", "UnsupportedModel", "options={'zipmap': False}"),
        ("half", "UnsupportedModel", "element type f16"),
    ] {
        let error = load(name).unwrap_err();
        assert_eq!(error.reason(), reason, "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}

#[test]
fn bytes_with_another_digest_are_not_loaded() {
    let bytes = bytes("classifier");
    let right = Digest::of(&bytes);
    assert_eq!(Model::load(&bytes, Some(&right), LoadOptions::default()).unwrap().digest(), &right);
    let error = Model::load(&bytes, Some(&Digest::of("other")), LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::DigestMismatch { found, .. } if found == right));
}

#[test]
fn a_failed_run_says_why_and_the_next_one_works() {
    let mut model = load("fails").unwrap();
    let error = model.run(&[tensor("X", &[1], Data::Int64(vec![7]))]).unwrap_err();
    assert!(error.to_string().contains("Gather"), "{error}");
    let outputs = model.run(&[tensor("X", &[2], Data::Int64(vec![2, 0]))]).unwrap();
    assert_eq!(outputs, [tensor("Y", &[2], Data::Fp32(vec![30.0, 10.0]))]);
}

#[test]
fn data_that_do_not_fill_their_shape_never_reach_the_model() {
    let error = load("regressor").unwrap().run(&[tensor("X", &[2, 2], Data::Fp32(vec![1.0; 3]))]).unwrap_err();
    assert_eq!(error.to_string(), "tensor \"X\" has 3 elements, its shape [2, 2] needs 4");
}

#[test]
fn a_classifier_is_bound_and_scored_in_chunks_by_its_columns() {
    let mut model = load("classifier").unwrap();
    let columns = ["a", "b", "c", "d"].map(|name| (name, FieldType::Number));
    let signature =
        bind(model.tensors(), &features(&columns), None, Task::Classification, &["1".into(), "0".into()]).unwrap();
    let rows = 2500;
    let odd: Vec<f64> = (0..rows).map(|row| f64::from(row % 2)).collect();
    let zeros = vec![0.0; odd.len()];
    let table = HashMap::from([
        ("a".to_owned(), numbers(&odd)),
        ("b".to_owned(), numbers(&odd)),
        ("c".to_owned(), numbers(&zeros)),
        ("d".to_owned(), numbers(&zeros)),
    ]);
    let Scores::Classes { labels, probabilities: Some(probabilities) } =
        score(&mut model, &signature, Task::Classification, &table).unwrap()
    else {
        panic!("classes with probabilities")
    };
    assert_eq!((labels.len(), probabilities.len()), (2500, 2500));
    assert_eq!([&labels[0], &labels[1], &labels[2498], &labels[2499]], ["0", "1", "0", "1"]);
    assert!((probabilities[2499][1] - 0.880_797).abs() < 1e-6);
    assert!((probabilities[2498][1] - 0.268_941).abs() < 1e-6);
}

#[test]
fn a_regressor_is_scored_and_a_missing_column_is_named() {
    let mut model = load("regressor").unwrap();
    let columns = [("a", FieldType::Number), ("b", FieldType::Integer)];
    let signature = bind(model.tensors(), &features(&columns), None, Task::Regression, &[]).unwrap();
    let mut table = HashMap::from([("a".to_owned(), numbers(&[1.0, 2.0])), ("b".to_owned(), numbers(&[0.0, 1.0]))]);
    assert_eq!(score(&mut model, &signature, Task::Regression, &table).unwrap(), Scores::Values(vec![3.5, 5.5]));
    table.remove("b");
    let error = score(&mut model, &signature, Task::Regression, &table).unwrap_err();
    assert!(error.to_string().contains("\"b\""), "{error}");
}

#[test]
fn text_and_number_columns_each_reach_their_own_tensor() {
    let mut model = load("text").unwrap();
    let columns = [("age", FieldType::Number), ("city", FieldType::String)];
    let signature = bind(model.tensors(), &features(&columns), None, Task::Regression, &[]).unwrap();
    let cities = Column::Texts(vec!["Oslo".into(), "Rome".into()]);
    let table = HashMap::from([("age".to_owned(), numbers(&[30.0, 40.0])), ("city".to_owned(), cities)]);
    assert_eq!(score(&mut model, &signature, Task::Regression, &table).unwrap(), Scores::Values(vec![30.0, 40.0]));
}

#[test]
fn a_model_with_a_fixed_batch_axis_is_given_whole_batches_and_no_row_too_many_comes_back() {
    let mut model = load("fixed").unwrap();
    let columns = [("a", FieldType::Number), ("b", FieldType::Number)];
    let signature = bind(model.tensors(), &features(&columns), None, Task::Regression, &[]).unwrap();
    let table =
        HashMap::from([("a".to_owned(), numbers(&[1.0, 2.0, 3.0])), ("b".to_owned(), numbers(&[10.0, 20.0, 30.0]))]);
    assert_eq!(
        score(&mut model, &signature, Task::Regression, &table).unwrap(),
        Scores::Values(vec![11.0, 22.0, 33.0])
    );
}

#[test]
fn a_row_that_makes_the_model_fail_is_located() {
    let mut model = load("fails").unwrap();
    let signature =
        bind(model.tensors(), &features(&[("X", FieldType::Integer)]), None, Task::Regression, &[]).unwrap();
    let table = HashMap::from([("X".to_owned(), numbers(&[0.0, 9.0]))]);
    let error = score(&mut model, &signature, Task::Regression, &table).unwrap_err();
    assert!(matches!(error, ScoreError::Run { first: 0, last: 1, .. }), "{error}");
    let table = HashMap::from([("X".to_owned(), numbers(&[0.5]))]);
    assert!(
        score(&mut model, &signature, Task::Regression, &table)
            .unwrap_err()
            .to_string()
            .contains("does not fit element type INT64")
    );
}
