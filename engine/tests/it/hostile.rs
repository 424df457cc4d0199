//! Models that must not be loaded: each is refused with its reason, before or by ONNX Runtime, and the process goes on. Written by
//! `models/hostile.py`. Needs ONNX Runtime: `make onnxruntime`.

use std::collections::BTreeSet;

use millrace_engine::{Data, LoadOptions, Model, ModelFile, NamedTensor, Settings, Tensor};

fn folder() -> String {
    format!("{}/tests/models/hostile", env!("CARGO_MANIFEST_DIR"))
}

/// Name, reason, and words that the message must have.
const REFUSED: [(&str, &str, &str); 46] = [
    ("empty", "InvalidModel", "it is empty"),
    ("html", "InvalidModel", "not a whole ONNX model"),
    ("truncated", "InvalidModel", "truncated"),
    ("no_graph", "InvalidModel", "holds no graph"),
    ("two_graphs", "InvalidModel", "more than one graph"),
    ("group", "InvalidModel", "wire type 3"),
    ("long_number", "InvalidModel", "longer than 10 bytes"),
    ("ort_format", "InvalidModel", "ONNX Runtime's own format"),
    ("zip", "ArchiveNotSupported", "a ZIP archive"),
    ("tar", "ArchiveNotSupported", "a tar archive"),
    ("gzip_bomb", "ArchiveNotSupported", "compressed by gzip"),
    ("external_parent", "ExternalData", "tensor \"w\" keeps its data in another file"),
    ("external_absolute", "ExternalData", "tensor \"w\""),
    ("external_memory", "ExternalData", "tensor \"w\""),
    ("external_in_branch", "ExternalData", "tensor \"deep\""),
    ("external_split", "InvalidModel", "tensor \"\""),
    ("custom_domain", "CustomOperator", "operator \"Shell\" is of domain \"org.example.shell\""),
    ("ep_context", "CustomOperator", "operator \"EPContext\""),
    ("unknown_operator", "InvalidModel", "NoSuchOperator"),
    ("cycle", "InvalidModel", ""),
    ("function_bomb", "ModelTooLarge", "once its functions are expanded"),
    ("function_recursive", "InvalidModel", "calls itself"),
    ("negative_dimension", "InvalidModel", "dimension -1"),
    ("overflowing_shape", "ModelTooLarge", "more bytes than can be counted"),
    ("terabyte_of_nothing", "InvalidModel", "tensor \"w\" has 0 elements"),
    ("short_data", "InvalidModel", "has 12 bytes, its shape [4] needs 16"),
    ("long_data", "InvalidModel", "has 5 elements, its shape [4] needs 4"),
    ("many_dimensions", "ModelTooLarge", "more than 64 dimensions"),
    ("unknown_type", "InvalidModel", "unknown element type 99"),
    ("raw_text", "InvalidModel", "texts has raw data"),
    ("constant_of_shape", "ModelTooLarge", "operator \"ConstantOfShape\" makes a tensor of shape [1048576, 1048576]"),
    ("expand", "ModelTooLarge", "operator \"Expand\""),
    ("sparse_bomb", "ModelTooLarge", "a sparse tensor"),
    ("deep", "ModelTooLarge", "nested deeper than 64"),
    ("sequence_of_sequences", "UnsupportedModel", "sequence of sequence of tensor of FP32"),
    ("deep_type", "ModelTooLarge", "a type is nested deeper"),
    ("map_output", "UnsupportedModel", "map from INT64"),
    ("sequence_input", "UnsupportedModel", "input \"X\" is a sequence of tensor of FP32"),
    ("opaque_output", "UnsupportedModel", "opaque value"),
    ("sparse_input", "UnsupportedModel", "sparse tensor"),
    ("complex_input", "UnsupportedModel", "element type COMPLEX64"),
    ("shapeless_input", "UnsupportedModel", "input \"X\" declares no shape"),
    ("huge_input", "ModelTooLarge", "input \"X\" has more bytes"),
    ("two_outputs_of_one_name", "InvalidModel", "two outputs are named \"Y\""),
    ("nul_in_name", "InvalidModel", "Y\\0Z"),
    ("nameless_output", "InvalidModel", "an output is named \"\""),
];

#[test]
fn every_hostile_model_is_refused_with_its_reason_and_others_go_on() {
    let good = std::fs::read(format!("{}/tests/models/regressor.onnx", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut model = Model::load(&good, None, LoadOptions::default()).unwrap();
    for (name, reason, words) in REFUSED {
        let bytes = std::fs::read(format!("{}/{name}.onnx", folder())).expect("run models/hostile.py");
        let error = Model::load(&bytes, None, LoadOptions::default()).map(|_| ()).unwrap_err();
        assert_eq!(error.reason(), reason, "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        let input =
            NamedTensor { name: "X".into(), tensor: Tensor { shape: vec![1, 2], data: Data::Fp32(vec![1.0, 0.0]) } };
        assert_eq!(model.run(&[input]).unwrap()[0].tensor.data, Data::Fp32(vec![3.5]), "after {name}");
    }
}

#[test]
fn no_hostile_model_is_left_out() {
    let named: BTreeSet<String> = REFUSED.iter().map(|(name, _, _)| format!("{name}.onnx")).collect();
    let there: BTreeSet<String> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there.difference(&named).collect::<Vec<_>>(), ["wrong_types.onnx"], "which ONNX Runtime refuses");
}

#[test]
fn what_onnx_runtime_finds_wrong_is_told_in_its_words() {
    let bytes = std::fs::read(format!("{}/wrong_types.onnx", folder())).unwrap();
    let error = Model::load(&bytes, None, LoadOptions::default()).map(|_| ()).unwrap_err();
    assert_eq!(error.reason(), "InvalidModel");
    assert!(error.to_string().contains("MatMul"), "{error}");
}

#[test]
fn a_folder_that_is_allowed_does_not_allow_what_lies_beside_it() {
    for (name, words) in [
        ("external_parent", "leads out of the model's folder"),
        ("external_absolute", "leads out of the model's folder"),
        ("external_memory", "no file name"),
        ("external_in_branch", "leads out of the model's folder"),
    ] {
        let bytes = std::fs::read(format!("{}/{name}.onnx", folder())).unwrap();
        let settings = Settings { folder: Some(folder().into()), ..Settings::default() };
        let error = ModelFile::check(&bytes, None, settings).map(|_| ()).unwrap_err();
        assert_eq!(error.reason(), "ExternalData", "{name}");
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}
