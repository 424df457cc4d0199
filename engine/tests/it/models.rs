//! The engine on the models that `models/make.py` writes. Needs ONNX Runtime: `make onnxruntime`.

use std::collections::HashMap;

use half::{bf16, f16};
use millrace_contract::{
    Digest,
    dataset::{Field, FieldRole, FieldType},
    model::{Task, TensorSpec},
};
use millrace_engine::{
    Data, Datatype, Device, Fallback, LoadError, LoadOptions, Model, ModelFile, NamedTensor, OutputClasses, Placement,
    Settings, Tensor,
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
        Data::Fp16(vec![f16::MIN, f16::from_f32(0.5)]),
        Data::Bf16(vec![bf16::MIN, bf16::from_f32(0.5)]),
        Data::Fp32(vec![f32::MIN, f32::MAX]),
        Data::Fp64(vec![f64::MIN, f64::MAX]),
        Data::Bytes(vec!["".into(), "snowman ☃".into()]),
    ];
    assert_eq!(values.iter().map(Data::datatype).collect::<Vec<_>>(), Datatype::ALL);
    let word = |data: &Data| data.datatype().as_str().to_lowercase();
    let inputs: Vec<_> = values.iter().map(|data| tensor(&format!("in_{}", word(data)), &[2], data.clone())).collect();
    let expected: Vec<_> =
        values.iter().map(|data| tensor(&format!("out_{}", word(data)), &[2], data.clone())).collect();
    for _ in 0..4 {
        assert_eq!(model.run(&inputs).unwrap(), expected);
    }
}

#[test]
fn scalars_any_shapes_and_inputs_with_values_of_their_own_are_run() {
    let mut model = load("shapes").unwrap();
    let names = |specs: &[TensorSpec]| specs.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&model.tensors().inputs), ["scalar", "any", "X"]);
    assert_eq!(names(model.optional_inputs()), ["b"]);
    let mut inputs = vec![
        tensor("scalar", &[], Data::Fp32(vec![0.5])),
        tensor("any", &[2, 0], Data::Int64(vec![])),
        tensor("X", &[2], Data::Fp32(vec![1.0, 2.0])),
    ];
    let mut expected = vec![
        tensor("scalar_out", &[], Data::Fp32(vec![0.5])),
        tensor("any_out", &[2, 0], Data::Int64(vec![])),
        tensor("Y", &[2], Data::Fp32(vec![11.0, 12.0])),
    ];
    assert_eq!(model.run(&inputs).unwrap(), expected);
    inputs.push(tensor("b", &[1], Data::Fp32(vec![20.0])));
    expected[2].tensor.data = Data::Fp32(vec![21.0, 22.0]);
    assert_eq!(model.run(&inputs).unwrap(), expected);
}

#[test]
fn an_output_whose_shape_only_the_run_knows_is_given_in_whatever_shape_it_has() {
    let mut model = load("present").unwrap();
    for (values, places) in [([1.0, 0.0, 3.0, 0.0], vec![0, 2]), ([0.0; 4], vec![]), ([1.0; 4], vec![0, 1, 2, 3])] {
        for _ in 0..3 {
            let outputs = model.run(&[tensor("X", &[4], Data::Fp32(values.to_vec()))]).unwrap();
            assert_eq!(outputs, [tensor("Y", &[1, places.len() as i64], Data::Int64(places.clone()))]);
        }
    }
}

#[test]
fn maps_from_classes_to_probabilities_are_answered_as_a_table_and_the_classes_are_told() {
    let mut model = load("zipmap").unwrap();
    let output = TensorSpec { name: "output_probability".into(), datatype: "FP32".into(), shape: vec![-1, 2] };
    assert_eq!(model.tensors().outputs, [output]);
    let classes = |names: [&str; 2]| OutputClasses {
        output: "output_probability".into(),
        classes: names.map(str::to_owned).to_vec(),
    };
    assert_eq!(model.classes(), [classes(["3", "7"])]);
    let outputs = model.run(&[tensor("X", &[2, 2], Data::Fp32(vec![0.0, 0.0, 5.0, 5.0]))]).unwrap();
    assert_eq!(outputs, [tensor("output_probability", &[2, 2], Data::Fp32(vec![0.5; 4]))]);
    let mut texts = load("zipmap_texts").unwrap();
    assert_eq!(texts.classes(), [classes(["no", "yes"])]);
    let outputs = texts.run(&[tensor("X", &[1, 2], Data::Fp32(vec![0.25, 0.75]))]).unwrap();
    assert_eq!(outputs, [tensor("output_probability", &[1, 2], Data::Fp32(vec![0.25, 0.75]))]);
}

#[test]
fn a_tensor_in_another_file_is_read_from_the_folder_that_is_allowed() {
    let folder = format!("{}/tests/models/outside", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(format!("{folder}/model.onnx")).unwrap();
    assert_eq!(Model::load(&bytes, None, LoadOptions::default()).unwrap_err().reason(), "ExternalData");
    let settings = Settings { folder: Some(folder.into()), ..Settings::default() };
    let file = ModelFile::check(&bytes, None, settings).unwrap();
    let mut model = file.open(LoadOptions::default()).unwrap();
    let outputs = model.run(&[tensor("X", &[1, 2], Data::Fp32(vec![10.0, 100.0]))]).unwrap();
    assert_eq!(outputs, [tensor("Y", &[1, 2], Data::Fp32(vec![20.0, 300.0]))]);
}

#[test]
fn a_gpu_that_is_not_there_is_refused_with_the_reason_or_the_cpu_runs_it_where_that_is_allowed() {
    let bytes = bytes("regressor");
    let open = |device, fallback| {
        let settings =
            Settings { placement: Placement { device, fallback, ..Placement::default() }, ..Settings::default() };
        ModelFile::check(&bytes, None, settings).unwrap().open(LoadOptions { intra_op_threads: 2 })
    };
    for device in [Device::Cuda, Device::TensorRt] {
        let error = open(device, Fallback::Refuse).unwrap_err();
        assert!(["NoCudaDevice", "ProviderMissing"].contains(&error.reason()), "{error}");
        let mut model = open(device, Fallback::Cpu).unwrap();
        assert_eq!(model.device(), Device::Cpu);
        let outputs = model.run(&[tensor("X", &[1, 2], Data::Fp32(vec![1.0, 0.0]))]).unwrap();
        assert_eq!(outputs, [tensor("variable", &[1, 1], Data::Fp32(vec![3.5]))]);
    }
}

#[test]
fn sessions_that_share_weights_give_the_answers_of_one_that_does_not() {
    let (width, rows) = (640, 3);
    let bytes = wide(width);
    let input = || {
        vec![tensor(
            "X",
            &[rows, width as i64],
            Data::Fp32((0..rows as usize * width).map(|i| (i % 7) as f32).collect()),
        )]
    };
    let alone = Model::load(&bytes, None, LoadOptions::default()).unwrap().run(&input()).unwrap();
    let file = ModelFile::check(&bytes, None, Settings { sessions: 3, ..Settings::default() }).unwrap();
    for _ in 0..3 {
        assert_eq!(file.open(LoadOptions::default()).unwrap().run(&input()).unwrap(), alone);
    }
}

/// A product with a matrix of so many columns and rows, large enough to be shared: built here, as it would be large in the repository.
fn wide(width: usize) -> Vec<u8> {
    fn field(number: u8, inner: &[u8]) -> Vec<u8> {
        let (mut bytes, mut len) = (vec![number << 3 | 2], inner.len());
        while len >= 0x80 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        [bytes, inner.to_vec()].concat()
    }
    let size = [width as u8 | 0x80, (width >> 7) as u8];
    let weights: Vec<u8> = (0..width * width).flat_map(|i| ((i % 13) as f32 / 16.0).to_le_bytes()).collect();
    let weight = [field(1, &[size, size].concat()), vec![0x10, 1], field(8, b"w"), field(9, &weights)].concat();
    let node = [field(1, b"X"), field(1, b"w"), field(2, b"Y"), field(4, b"MatMul")].concat();
    let open = field(1, &field(2, b"n"));
    let shape = [open, field(1, &[vec![0x08], size.to_vec()].concat())].concat();
    let floats = field(2, &field(1, &[vec![0x08, 1], field(2, &shape)].concat()));
    let value = |name: &[u8]| [field(1, name), floats.clone()].concat();
    let graph =
        [field(1, &node), field(2, b"wide"), field(5, &weight), field(11, &value(b"X")), field(12, &value(b"Y"))];
    [vec![0x08, 10], field(7, &graph.concat()), field(8, &[0x10, 20])].concat()
}

#[test]
fn shapes_that_come_again_are_answered_from_what_each_run_is_given() {
    let mut model = load("classifier").unwrap();
    for round in 0..6 {
        for rows in [1, 3] {
            let first = if round % 2 == 0 { 3.0 } else { -3.0 };
            let mut values = vec![0.0; rows * 4];
            values[rows * 4 - 4] = first;
            let outputs = model.run(&[tensor("X", &[rows as i64, 4], Data::Fp32(values))]).unwrap();
            let mut labels = vec![0; rows];
            labels[rows - 1] = i64::from(round % 2 == 0);
            assert_eq!(outputs[0], tensor("label", &[rows as i64], Data::Int64(labels)), "round {round}");
        }
    }
}

#[test]
fn a_run_that_fails_in_the_middle_leaves_nothing_behind() {
    let mut model = load("fails").unwrap();
    let mut run = |index: i64| model.run(&[tensor("X", &[1], Data::Int64(vec![index]))]);
    for _ in 0..4 {
        for (index, value) in [(0, 10.0), (2, 30.0), (1, 20.0)] {
            assert_eq!(run(index).unwrap(), [tensor("Y", &[1], Data::Fp32(vec![value]))]);
        }
        assert!(run(7).is_err());
    }
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
        ("sequence", "UnsupportedModel", "output \"Y\" is a sequence of tensor of FP32"),
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
