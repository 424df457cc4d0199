//! Whether two answers of the Open Inference Protocol say the same, however they came. Pure.
//!
//! Classes are integers, booleans and text, and the place of the greatest number of each row where an answer has numbers only, in
//! rows of two and more. Numbers agree when they differ by at most the tolerance times the greater of 1 and the live number.

mod form;
mod grpc;
mod raw;
mod rest;

use bytes::Bytes;

pub use self::form::Form;
use crate::traffic::Agreement;

/// Most outputs of an answer that is compared: each of one is looked for among those of the other.
const MOST_OUTPUTS: usize = 1_024;

/// What a server said, all of it.
#[derive(Debug)]
pub struct Said {
    /// How.
    pub form: Form,
    /// In these bytes.
    pub body: Bytes,
}

impl Said {
    /// The outputs of an answer; none where it is no answer of the protocol, or compressed.
    fn outputs(&self) -> Option<Vec<Output>> {
        match self.form {
            Form::Json => rest::read(&self.body, self.body.len()),
            Form::Binary(json_length) => rest::read(&self.body, json_length?),
            Form::Message => grpc::read(&self.body),
            Form::Encoded => None,
        }
    }

    /// Whether it may say anything and can't be read.
    fn is_compressed(&self) -> bool {
        match self.form {
            Form::Json | Form::Binary(_) => false,
            Form::Message => grpc::is_compressed(&self.body),
            Form::Encoded => true,
        }
    }
}

/// One output of an answer.
#[derive(Debug, PartialEq)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    data: Data,
}

/// The elements of an output, in row-major order; one of these by its datatype, however it is written.
#[derive(Debug, PartialEq)]
enum Data {
    Numbers(Vec<f64>),
    /// Integers, those of UINT64 by their bits, and booleans.
    Integers(Vec<i64>),
    Texts(Vec<Bytes>),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Integers(integers) => integers.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    fn is_numbers(&self) -> bool {
        matches!(self, Self::Numbers(_))
    }
}

/// Compare a live answer with its copy's; none when the live one can't be compared with anything, for it is none of the protocol, or
/// when the copy's is compressed. A copy that lacks what the live answer has does not agree; what it has more is not looked at.
pub fn compare(live: &Said, copy: &Said, tolerance: f64) -> Option<Agreement> {
    let live = live.outputs()?;
    if copy.is_compressed() {
        return None;
    }
    let same = |copy: Vec<Output>| agreement(&live, &copy, tolerance);
    Some(copy.outputs().and_then(same).unwrap_or_else(|| disagreement(&live)))
}

/// Whatever the live answer has that could agree does not.
fn disagreement(live: &[Output]) -> Agreement {
    let has = |wanted: &dyn Fn(&Output) -> bool| live.iter().any(wanted).then_some(false);
    let is_row = |output: &Output| width(&output.shape, output.data.len()).is_some();
    Agreement {
        classes: has(&|output| !output.data.is_numbers() || is_row(output)),
        numbers: has(&|output| output.data.is_numbers()),
    }
}

/// None where the copy lacks something.
fn agreement(live: &[Output], copy: &[Output], tolerance: f64) -> Option<Agreement> {
    let mut total = Agreement::default();
    let mut by_greatest = Agreement::default();
    for output in live {
        let other = copy.iter().find(|other| other.name == output.name && other.datatype == output.datatype)?;
        if output.data.len() != other.data.len() {
            return None;
        }
        if let (Data::Numbers(ours), Data::Numbers(theirs)) = (&output.data, &other.data) {
            let close = ours.iter().zip(theirs).all(|(ours, theirs)| is_close(*ours, *theirs, tolerance));
            also(&mut total.numbers, close);
            if let Some(width) = width(&output.shape, ours.len()) {
                also(&mut by_greatest.classes, greatest(ours, width) == greatest(theirs, width));
            }
        } else {
            also(&mut total.classes, output.data == other.data);
        }
    }
    Some(Agreement { classes: total.classes.or(by_greatest.classes), ..total })
}

fn also(so_far: &mut Option<bool>, agrees: bool) {
    *so_far = Some(so_far.unwrap_or(true) && agrees);
}

fn is_close(ours: f64, theirs: f64, tolerance: f64) -> bool {
    // Infinities are close to themselves only; a number that is none agrees with another one.
    ours == theirs || (ours.is_nan() && theirs.is_nan()) || (ours - theirs).abs() <= tolerance * ours.abs().max(1.0)
}

fn width(shape: &[i64], count: usize) -> Option<usize> {
    let width = usize::try_from(*shape.get(1..)?.last()?).ok()?;
    (width > 1 && count.is_multiple_of(width)).then_some(width)
}

fn greatest(values: &[f64], width: usize) -> Vec<Option<usize>> {
    let place = |row: &[f64]| {
        let numbered = row.iter().enumerate().filter(|(_, value)| !value.is_nan());
        numbered.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(index, _)| index)
    };
    values.chunks(width).map(place).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn compare(live: &[u8], copy: &[u8], tolerance: f64) -> Option<Agreement> {
        let said = |body: &[u8]| Said { form: Form::Json, body: Bytes::copy_from_slice(body) };
        super::compare(&said(live), &said(copy), tolerance)
    }

    fn answer(outputs: &[(&str, &str, &[i64], Value)]) -> Vec<u8> {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|(name, datatype, shape, data)| json!({"name": name, "datatype": datatype, "shape": shape, "data": data}))
            .collect();
        json!({"model_name": "fraud", "outputs": outputs}).to_string().into_bytes()
    }

    fn classifier(label: i64, probabilities: [f64; 2]) -> Vec<u8> {
        answer(&[("label", "INT64", &[1], json!([label])), ("probabilities", "FP32", &[1, 2], json!([probabilities]))])
    }

    fn agreement(classes: Option<bool>, numbers: Option<bool>) -> Option<Agreement> {
        Some(Agreement { classes, numbers })
    }

    #[test]
    fn classes_and_numbers_are_compared_apart() {
        let live = classifier(1, [0.3, 0.7]);
        let cases = [
            (classifier(1, [0.3, 0.7]), agreement(Some(true), Some(true))),
            (classifier(1, [0.305, 0.695]), agreement(Some(true), Some(true))),
            (classifier(1, [0.2, 0.8]), agreement(Some(true), Some(false))),
            (classifier(0, [0.7, 0.3]), agreement(Some(false), Some(false))),
        ];
        for (copy, expected) in cases {
            assert_eq!(compare(&live, &copy, 0.01), expected, "{}", String::from_utf8_lossy(&copy));
        }
    }

    #[test]
    fn where_there_are_only_numbers_in_rows_the_greatest_is_the_class() {
        let rows = |data: Value| answer(&[("p", "FP32", &[2, 3], data)]);
        let live = rows(json!([0.1, 0.7, 0.2, 0.5, 0.3, 0.2]));
        assert_eq!(
            compare(&live, &rows(json!([[0.2, 0.6, 0.2], [0.5, 0.3, 0.2]])), 0.01),
            agreement(Some(true), Some(false))
        );
        assert_eq!(
            compare(&live, &rows(json!([0.1, 0.7, 0.2, 0.3, 0.5, 0.2])), 1.0),
            agreement(Some(false), Some(true))
        );
        let one = |value: f64| answer(&[("y", "FP64", &[1, 1], json!([value]))]);
        assert_eq!(compare(&one(1000.0), &one(1009.0), 0.01), agreement(None, Some(true)));
        assert_eq!(compare(&one(1000.0), &one(1011.0), 0.01), agreement(None, Some(false)));
    }

    #[test]
    fn a_copy_that_lacks_what_the_live_answer_has_does_not_agree() {
        let live = classifier(1, [0.3, 0.7]);
        for copy in [
            b"not json".to_vec(),
            answer(&[]),
            answer(&[("label", "INT64", &[1], json!([1])), ("other", "FP32", &[1, 2], json!([0.3, 0.7]))]),
            answer(&[("label", "INT32", &[1], json!([1])), ("probabilities", "FP32", &[1, 2], json!([0.3, 0.7]))]),
            answer(&[("label", "INT64", &[1], json!([1])), ("probabilities", "FP32", &[1, 3], json!([0.3, 0.4, 0.3]))]),
        ] {
            assert_eq!(
                compare(&live, &copy, 0.01),
                agreement(Some(false), Some(false)),
                "{}",
                String::from_utf8_lossy(&copy)
            );
        }
        let one = answer(&[("y", "FP64", &[1, 1], json!([1.0]))]);
        assert_eq!(compare(&one, &answer(&[]), 0.01), agreement(None, Some(false)), "it has no classes");
        assert_eq!(compare(b"", b"", 0.01), None, "nothing could agree with this");
    }

    #[test]
    fn what_a_copy_has_more_is_not_looked_at() {
        let live = answer(&[("label", "INT64", &[1], json!([1]))]);
        assert_eq!(compare(&live, &classifier(1, [0.3, 0.7]), 0.01), agreement(Some(true), None));
    }

    #[test]
    fn more_outputs_than_a_model_has_are_not_compared() {
        const SHAPE: &[i64] = &[1];
        let many = |count: usize| {
            let names: Vec<String> = (0..count).map(|index| index.to_string()).collect();
            let outputs: Vec<_> = names.iter().map(|name| (name.as_str(), "INT64", SHAPE, json!([1]))).collect();
            answer(&outputs)
        };
        assert_eq!(compare(&many(MOST_OUTPUTS), &many(MOST_OUTPUTS), 0.01), agreement(Some(true), None));
        assert_eq!(compare(&many(MOST_OUTPUTS + 1), &many(MOST_OUTPUTS + 1), 0.01), None);
        assert_eq!(compare(&many(1), &many(MOST_OUTPUTS + 1), 0.01), agreement(Some(false), None));
    }
}
