//! Bindings of small models, written by hand.

use millrace_contract::dataset::FieldRole;

use super::*;

fn tensor(name: &str, datatype: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec() }
}

fn field(name: &str, data_type: FieldType) -> Field {
    Field { name: name.to_owned(), data_type, nullable: false, role: FieldRole::Feature }
}

fn numbers(names: &[&str]) -> Vec<Field> {
    names.iter().map(|name| field(name, FieldType::Number)).collect()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&t| t.to_owned()).collect()
}

fn classifier(width: i64) -> Tensors {
    Tensors {
        inputs: vec![tensor("X", "FP32", &[-1, width])],
        outputs: vec![tensor("label", "INT64", &[-1]), tensor("probabilities", "FP32", &[-1, 2])],
    }
}

#[test]
fn one_matrix_takes_the_features_in_schema_order_and_classes_are_ordered_as_numbers() {
    let bound = bind(&classifier(2), &numbers(&["b", "a"]), None, Task::Classification, &texts(&["10", "9"])).unwrap();
    assert_eq!(
        bound,
        Signature {
            inputs: vec![InputBinding { tensor: "X".into(), columns: texts(&["b", "a"]) }],
            outputs: OutputBinding {
                label: Some("label".into()),
                probabilities: Some("probabilities".into()),
                classes: texts(&["9", "10"])
            },
        }
    );
}

#[test]
fn a_matrix_of_another_width_names_both_numbers() {
    let error =
        bind(&classifier(3), &numbers(&["b", "a"]), None, Task::Classification, &texts(&["0", "1"])).unwrap_err();
    assert_eq!(error.reason(), "SignatureMismatch");
    assert!(error.to_string().contains("takes 3 columns, it is given 2"), "{error}");
}

#[test]
fn one_tensor_a_feature_is_bound_by_name_whatever_the_order() {
    let tensors = Tensors {
        inputs: vec![tensor("city", "BYTES", &[-1, 1]), tensor("age", "FP32", &[-1, 1])],
        outputs: vec![tensor("variable", "FP32", &[-1, 1])],
    };
    let features = [field("age", FieldType::Number), field("city", FieldType::String)];
    let bound = bind(&tensors, &features, None, Task::Regression, &[]).unwrap();
    assert_eq!(bound.inputs[0], InputBinding { tensor: "city".into(), columns: texts(&["city"]) });
    assert_eq!(bound.outputs, OutputBinding { label: Some("variable".into()), ..OutputBinding::default() });
}

#[test]
fn several_inputs_with_other_names_are_ambiguous_and_the_message_says_what_to_write() {
    let tensors =
        Tensors { inputs: vec![tensor("p", "FP32", &[-1, 1]), tensor("q", "FP32", &[-1, 1])], ..classifier(2) };
    let error = bind(&tensors, &numbers(&["a", "b"]), None, Task::Classification, &texts(&["0", "1"])).unwrap_err();
    assert_eq!(error.reason(), "SignatureAmbiguous");
    assert!(error.to_string().contains(r#""columns": ["a", "b"]"#), "{error}");
}

#[test]
fn two_unnamed_float_outputs_are_ambiguous_for_regression() {
    let tensors =
        Tensors { outputs: vec![tensor("y1", "FP32", &[-1, 1]), tensor("y2", "FP32", &[-1, 1])], ..classifier(2) };
    assert_eq!(
        bind(&tensors, &numbers(&["a", "b"]), None, Task::Regression, &[]).unwrap_err().reason(),
        "SignatureAmbiguous"
    );
    let declared = Signature {
        inputs: vec![InputBinding { tensor: "X".into(), columns: texts(&["a", "b"]) }],
        outputs: OutputBinding { label: Some("y2".into()), ..OutputBinding::default() },
    };
    let bound = bind(&tensors, &numbers(&["a", "b"]), Some(&declared), Task::Regression, &[]).unwrap();
    assert_eq!(bound.outputs.label.as_deref(), Some("y2"));
}

#[test]
fn a_declared_signature_is_checked_against_tensors_and_columns() {
    let declare = |tensor: &str, columns: &[&str], label: &str| Signature {
        inputs: vec![InputBinding { tensor: tensor.into(), columns: texts(columns) }],
        outputs: OutputBinding { label: Some(label.into()), ..OutputBinding::default() },
    };
    let features = numbers(&["a", "b"]);
    for (signature, word) in [
        (declare("Y", &["a", "b"], "label"), "\"X\""),
        (declare("X", &["a"], "label"), "it is given 1"),
        (declare("X", &["a", "zip"], "label"), "\"zip\""),
        (declare("X", &["a", "b"], "class"), "\"class\""),
    ] {
        let error =
            bind(&classifier(2), &features, Some(&signature), Task::Classification, &texts(&["0", "1"])).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn text_columns_do_not_go_into_number_tensors() {
    let features = [field("a", FieldType::Number), field("city", FieldType::String)];
    let error = bind(&classifier(2), &features, None, Task::Classification, &texts(&["0", "1"])).unwrap_err();
    assert!(error.to_string().contains("\"city\" is of type String"), "{error}");
}

#[test]
fn a_class_too_many_is_a_mismatch_that_names_the_classes() {
    let error =
        bind(&classifier(2), &numbers(&["a", "b"]), None, Task::Classification, &texts(&["0", "1", "2"])).unwrap_err();
    assert!(error.to_string().contains("there are 3 classes"), "{error}");
}
