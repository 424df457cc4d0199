//! `signature.json` as a trainer writes it, read strictly: what is not understood is told, never ignored. Pure.

use millrace_contract::model::{InputBinding, OutputBinding, Signature};
use serde::Deserialize;

const MAX_COLUMNS: usize = 512;
const MAX_CLASSES: usize = 1024;

/// The contract's types with unknown fields refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StrictSignature {
    inputs: Vec<StrictInput>,
    #[serde(default)]
    outputs: StrictOutputs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StrictInput {
    tensor: String,
    columns: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StrictOutputs {
    label: Option<String>,
    probabilities: Option<String>,
    #[serde(default)]
    classes: Vec<Class>,
}

/// Classes are text in the contract; trainers write the integers they trained on.
#[derive(Deserialize)]
#[serde(untagged)]
enum Class {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

/// Reads a signature, or says in a sentence what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Signature, String> {
    let read: StrictSignature = serde_json::from_slice(bytes).map_err(|e| {
        format!(
            "signature.json can't be read: {e}; expected {{\"inputs\": [{{\"tensor\", \"columns\"}}], \"outputs\": \
             {{\"label\", \"probabilities\", \"classes\"}}}}"
        )
    })?;
    let inputs: Vec<InputBinding> =
        read.inputs.into_iter().map(|StrictInput { tensor, columns }| InputBinding { tensor, columns }).collect();
    let columns: usize = inputs.iter().map(|i| i.columns.len()).sum();
    let StrictOutputs { label, probabilities, classes } = read.outputs;
    if inputs.is_empty() || inputs.iter().any(|i| i.tensor.is_empty() || i.columns.is_empty()) {
        return Err("signature.json: inputs must name at least one tensor, each with at least one column".to_owned());
    }
    if columns > MAX_COLUMNS || classes.len() > MAX_CLASSES {
        return Err(format!("signature.json: at most {MAX_COLUMNS} columns and {MAX_CLASSES} classes are allowed"));
    }
    let text = |class| match class {
        Class::Text(text) => text,
        Class::Integer(number) => number.to_string(),
        Class::Boolean(truth) => truth.to_string(),
    };
    let classes = classes.into_iter().map(text).collect();
    Ok(Signature { inputs, outputs: OutputBinding { label, probabilities, classes } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_read_with_classes_as_text() {
        let text = br#"{"inputs":[{"tensor":"X","columns":["a","b"]}],"outputs":{"label":"y","classes":[0,1]}}"#;
        let expected = Signature {
            inputs: vec![InputBinding { tensor: "X".to_owned(), columns: vec!["a".to_owned(), "b".to_owned()] }],
            outputs: OutputBinding {
                label: Some("y".to_owned()),
                probabilities: None,
                classes: vec!["0".to_owned(), "1".to_owned()],
            },
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let cases = [
            ("", "can't be read"),
            (r#"{"inputs":[{"tensor":"X","columns":["a"]}],"output":{}}"#, "unknown field `output`"),
            (r#"{"inputs":[{"tensor":"X","column":["a"]}]}"#, "unknown field `column`"),
            (r#"{"inputs":[]}"#, "at least one tensor"),
            (r#"{"inputs":[{"tensor":"X","columns":[]}]}"#, "at least one column"),
        ];
        for (text, expected) in cases {
            let problem = parse(text.as_bytes()).expect_err(text);
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }
}
