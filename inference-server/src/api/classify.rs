//! The classification extension: in place of an output's values, its highest classes as texts `value:class`, highest first. Pure.

use std::cmp::Ordering;

use millrace_engine::{Data, NamedTensor, Tensor};

use crate::errors::{Reason, Refusal};

/// The `top` highest of each row; of the whole tensor when it has no more than one axis.
///
/// # Errors
/// [`Reason::Unsupported`] for outputs that hold no numbers.
pub fn classify(output: &NamedTensor, top: u32) -> Result<NamedTensor, Refusal> {
    let NamedTensor { name, tensor } = output;
    if let Data::Bytes(_) = tensor.data {
        let message = format!("output {name:?} is {}, which has no highest classes", tensor.data.datatype());
        return Err(Refusal::new(Reason::Unsupported, message));
    }
    let has_rows = tensor.shape.len() > 1;
    let rows = if has_rows { tensor.rows() } else { 1 };
    let classes = tensor.data.len().checked_div(rows).unwrap_or_default();
    let kept = usize::try_from(top).unwrap_or(usize::MAX).min(classes);
    let mut texts = Vec::with_capacity(rows * kept);
    // There may be any number of rows that have no class.
    let rows = if kept == 0 { 0 } else { rows };
    for row in 0..rows {
        let mut ranked: Vec<(f64, usize)> =
            (0..classes).map(|class| (tensor.data.number(row * classes + class).unwrap_or(f64::NAN), class)).collect();
        ranked.sort_by(|&(left, a), &(right, b)| by_height(left, right).then(a.cmp(&b)));
        let highest = ranked.iter().take(kept);
        texts.extend(highest.map(|&(_, class)| format!("{}:{class}", written(&tensor.data, row * classes + class))));
    }
    let kept = i64::try_from(kept).unwrap_or(i64::MAX);
    let shape = if has_rows { vec![tensor.shape[0], kept] } else { vec![kept] };
    Ok(NamedTensor { name: name.clone(), tensor: Tensor { shape, data: Data::Bytes(texts) } })
}

/// The higher one first; what is no number comes last, behind even the lowest.
fn by_height(left: f64, right: f64) -> Ordering {
    left.is_nan().cmp(&right.is_nan()).then_with(|| right.total_cmp(&left))
}

fn written(data: &Data, index: usize) -> String {
    match data.plain() {
        Data::Bool(values) => values.get(index).map_or_else(String::new, |&value| u8::from(value).to_string()),
        other => other.text(index).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(shape: &[i64], data: Data) -> NamedTensor {
        NamedTensor { name: "Y".into(), tensor: Tensor { shape: shape.to_vec(), data } }
    }

    fn texts(texts: &[&str]) -> Data {
        Data::Bytes(texts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_highest_classes_of_each_row_come_first() {
        let scores = output(&[2, 3], Data::Fp32(vec![0.5, 0.25, 0.75, 1.0, 3.0, 2.0]));
        assert_eq!(classify(&scores, 2).unwrap(), output(&[2, 2], texts(&["0.75:2", "0.5:0", "3:1", "2:2"])));
    }

    #[test]
    fn one_axis_is_one_row_and_there_are_no_more_classes_than_values() {
        let scores = output(&[3], Data::Int64(vec![7, 9, 7]));
        assert_eq!(classify(&scores, 9).unwrap(), output(&[3], texts(&["9:1", "7:0", "7:2"])));
        assert_eq!(classify(&output(&[0, 3], Data::Fp32(vec![])), 2).unwrap(), output(&[0, 0], texts(&[])));
    }

    #[test]
    fn rows_without_a_class_are_not_gone_through_one_by_one() {
        let none = output(&[1 << 62, 0], Data::Fp32(vec![]));
        assert_eq!(classify(&none, 3).unwrap(), output(&[1 << 62, 0], texts(&[])));
    }

    #[test]
    fn what_is_no_number_comes_last_and_text_has_no_classes() {
        let scores = output(&[2], Data::Fp32(vec![f32::NAN, -1.0]));
        assert_eq!(classify(&scores, 1).unwrap(), output(&[1], texts(&["-1:1"])));
        let scores = output(&[3], Data::Fp32(vec![f32::NAN, f32::NEG_INFINITY, -f32::NAN]));
        assert_eq!(classify(&scores, 3).unwrap(), output(&[3], texts(&["-inf:1", "NaN:0", "NaN:2"])));
        let refusal = classify(&output(&[1], texts(&["a"])), 1).unwrap_err();
        assert!(refusal.message.contains("\"Y\" is BYTES"), "{refusal}");
    }
}
