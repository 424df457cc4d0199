//! Tables of requests, as clients write them.

use millrace_engine::Data;

use super::*;

const GOOD: &str = r#"{"inputs":[{"name":"X","shape":[1,2],"datatype":"FP32","data":[1,2]}]}"#;

fn parsed(body: &str) -> Result<Infer, Refusal> {
    read(body.as_bytes(), None, &Limits::default())
}

fn tensor(name: &str, shape: &[i64], data: Data) -> NamedTensor {
    NamedTensor { name: name.to_owned(), tensor: Tensor { shape: shape.to_vec(), data } }
}

#[test]
fn a_request_is_read_whatever_the_order_of_its_fields() {
    let expected = Infer { inputs: vec![tensor("X", &[1, 2], Data::Fp32(vec![1.0, 2.0]))], ..Infer::default() };
    for body in [
        GOOD,
        r#"{"inputs": [{"data": [[1, 2.0]], "datatype": "FP32", "name": "X", "shape": [1, 2]}]}"#,
        r#" {"model": {"any": [1, {}]}, "inputs" : [ {"shape" : [1, 2] , "data": [1, 2], "datatype":"FP32","name":"X"} ] } "#,
        r#"{"id": null, "outputs": null, "parameters": null, "inputs": [{"n\u0061me": "X", "datatype": "FP32", "shape": [1, 2], "parameters": {"content_type": "np", "x": [1]}, "data": [1, 2]}]}"#,
    ] {
        assert_eq!(parsed(body).as_ref(), Ok(&expected), "{body}");
    }
}

#[test]
fn id_parameters_and_outputs_are_kept() {
    let body = r#"{"id": "7", "parameters": {"priority": 2, "timeout": 1500, "binary_data_output": true, "sequence_id": 9},
        "inputs": [], "outputs": [{"name": "A", "parameters": {"binary_data": false}}, {"name": "B", "parameters": {"classification": 3}}]}"#;
    let infer = parsed(body).unwrap();
    assert_eq!(infer.id.as_deref(), Some("7"));
    assert_eq!(
        infer.options,
        Options { priority: 2, timeout: Some(Duration::from_micros(1500)), binary_output: true, ..Options::default() }
    );
    let wanted = |name: &str, binary, classification| Wanted { name: name.into(), binary, classification };
    assert_eq!(infer.wanted, [wanted("A", Some(false), None), wanted("B", None, Some(3))]);
}

#[test]
fn binary_inputs_are_taken_in_their_order_beside_others() {
    let json = r#"{"inputs":[
        {"name":"A","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}},
        {"name":"B","datatype":"INT8","shape":[2],"data":[1,2]},
        {"name":"C","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}},
        {"name":"D","datatype":"BF16","shape":[0],"parameters":{"binary_data_size":0}}]}"#;
    let body = [json.as_bytes(), &[0, 0, 0x80, 0x3f, 1, 0, 0, 0, b'x']].concat();
    let infer = read(&body, Some(json.len()), &Limits::default()).unwrap();
    let expected = [
        tensor("A", &[1], Data::Fp32(vec![1.0])),
        tensor("B", &[2], Data::Int8(vec![1, 2])),
        tensor("C", &[1], Data::Bytes(vec!["x".into()])),
        tensor("D", &[0], Data::Bf16(vec![])),
    ];
    assert_eq!(infer.inputs, expected);
}

#[test]
fn what_is_wrong_with_a_binary_request_is_told() {
    let input = |size: usize| {
        format!(r#"{{"name":"A","datatype":"FP32","shape":[1],"parameters":{{"binary_data_size":{size}}}}}"#)
    };
    let json = |size: usize| format!(r#"{{"inputs":[{}]}}"#, input(size));
    let limits = Limits::default();
    let four = json(4);
    for (text, length, tail, word) in [
        (&four, None, 0, "header Inference-Header-Content-Length is not"),
        (&four, Some(four.len() + 9), 4, "the body has only"),
        (&four, Some(0), 0, "raw requests without JSON are not supported"),
        (&four, Some(four.len()), 3, "binary_data_size is 4, the body has only 3 bytes left"),
        (&four, Some(four.len()), 5, "1 bytes more than"),
        (&json(5), Some(four.len()), 5, "shape [1] of FP32 needs 4 bytes, given 5"),
        (&four, Some(four.len() - 1), 5, "expected ',' or '}'"),
        (&four.replace("\"datatype\"", "\"data\":[1],\"datatype\""), Some(four.len() + 11), 4, "both data and"),
    ] {
        let body = [text.as_bytes(), &vec![0; tail]].concat();
        let refusal = read(&body, length, &limits).unwrap_err();
        assert!(refusal.message.contains(word), "{refusal}");
    }
}

#[test]
fn mistakes_are_told_with_place_or_tensor() {
    let with = |field: &str, other: &str| GOOD.replace(field, other);
    for (body, reason, word) in [
        ("{".into(), Reason::InvalidRequest, "a name in quotes at line 1 column 2"),
        (String::new(), Reason::InvalidRequest, "expected an object at line 1 column 1"),
        ("{}".into(), Reason::InvalidRequest, "field \"inputs\" is missing"),
        ("[]".into(), Reason::InvalidRequest, "expected an object"),
        (format!("{GOOD} x"), Reason::InvalidRequest, "the end of the body"),
        (with("[1,2]}", "[1,2]"), Reason::InvalidRequest, "',' or '}'"),
        (with("\"name\"", "\"nom\""), Reason::InvalidRequest, "input 0 has no field \"name\""),
        (with("\"datatype\"", "\"dtype\""), Reason::InvalidRequest, "input \"X\" has no field \"datatype\""),
        (with("\"shape\"", "\"dims\""), Reason::InvalidRequest, "input \"X\" has no field \"shape\""),
        (with("\"data\"", "\"values\""), Reason::InvalidTensor, "input \"X\": it has no data"),
        (with("\"X\"", "7"), Reason::InvalidRequest, "a string as name"),
        (with("FP32", "FP8"), Reason::InvalidTensor, "input \"X\": unknown or unsupported datatype \"FP8\""),
        (with("[1,2],\"d", "[1.5],\"d"), Reason::InvalidRequest, "a whole number as dimension"),
        (with("[1,2],\"d", "[-1,2],\"d"), Reason::InvalidTensor, "given [-1, 2]"),
        (with("[1,2]}", "[1,\"a\"]}"), Reason::InvalidTensor, "input \"X\": expected FP32, the data hold a string"),
        (with("\"name\"", "\"data\":[1,2],\"name\""), Reason::InvalidRequest, "no field twice"),
        (
            with("\"data\":[1,2]", "\"parameters\":{\"shared_memory_region\":\"r\"}"),
            Reason::Unsupported,
            "shared_memory_region",
        ),
        (
            with("{\"inputs\"", "{\"parameters\":{\"timeout\":\"x\"},\"inputs\""),
            Reason::InvalidRequest,
            "a timeout in microseconds",
        ),
        (with("{\"inputs\"", "{\"outputs\":[{}],\"inputs\""), Reason::InvalidRequest, "output 0 has no field \"name\""),
    ] {
        let refusal = parsed(&body).unwrap_err();
        assert_eq!(refusal.reason, reason, "{body}: {refusal}");
        assert!(refusal.message.contains(word), "{body}: {refusal}");
    }
}

#[test]
fn lists_without_end_are_refused() {
    let input = r#"{"name":"X","shape":[0],"datatype":"FP32","data":[]}"#;
    let body = format!("{{\"inputs\":[{}]}}", vec![input; 1025].join(","));
    assert!(parsed(&body).unwrap_err().message.contains("more than 1024 inputs"));
    let body = format!("{{\"inputs\":[],\"outputs\":[{}]}}", vec![r#"{"name":"Y"}"#; 1025].join(","));
    assert!(parsed(&body).unwrap_err().message.contains("more than 1024 outputs"));
    let body = GOOD.replace("[1,2],\"d", &format!("[{}],\"d", vec!["1"; 100_000].join(",")));
    assert!(parsed(&body).unwrap_err().message.contains("65 dimensions, the limit is 64"));
}
