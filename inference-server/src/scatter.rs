//! Requests put together along the first axis before a run, and each one's rows of inputs or outputs taken out again. Pure.

use std::sync::Arc;

use millrace_engine::{Data, NamedTensor, Tensor};

use crate::{
    errors::{Reason, Refusal},
    queue::Work,
};

/// The inputs of all requests, one below the other; their own are moved out. One request's tensors are moved as they are.
pub fn gather(batch: &mut [Work]) -> Vec<NamedTensor> {
    let Some((first, others)) = batch.split_first_mut() else { return Vec::new() };
    let mut inputs = std::mem::take(&mut first.inputs);
    if others.is_empty() {
        return inputs;
    }
    for (index, whole) in inputs.iter_mut().enumerate() {
        let parts = || others.iter().filter_map(|work| work.inputs.get(index));
        let elements = whole.tensor.data.len() + parts().map(|part| part.tensor.data.len()).sum::<usize>();
        let mut data = Data::with_capacity(whole.tensor.data.datatype(), elements);
        data.append(std::mem::replace(&mut whole.tensor.data, Data::Bool(Vec::new())));
        whole.tensor.data = data;
    }
    for work in others {
        for (whole, part) in inputs.iter_mut().zip(std::mem::take(&mut work.inputs)) {
            if let (Some(rows), Some(more)) = (whole.tensor.shape.first_mut(), part.tensor.shape.first()) {
                *rows += more;
            }
            let same_type = whole.tensor.data.append(part.tensor.data);
            debug_assert!(same_type, "admit lets only the model's own element types through");
        }
    }
    inputs
}

/// Each request's part of the outputs.
///
/// # Errors
/// [`Reason::ModelFailed`] when several requests ran together and an output has not one row for each of theirs.
pub fn scatter(outputs: Vec<NamedTensor>, rows: &[usize]) -> Result<Vec<Arc<Vec<NamedTensor>>>, Refusal> {
    if rows.len() <= 1 {
        return Ok(vec![Arc::new(outputs)]);
    }
    let total: usize = rows.iter().sum();
    for output in &outputs {
        if output.tensor.shape.is_empty() || output.tensor.rows() != total {
            let message = format!(
                "output {:?} of shape {:?} has not one row for each of {total}",
                output.name, output.tensor.shape
            );
            return Err(Refusal::new(Reason::ModelFailed, message));
        }
    }
    Ok(rows_of(&outputs, rows).into_iter().map(Arc::new).collect())
}

/// A copy of each request's rows.
pub fn rows_of(tensors: &[NamedTensor], rows: &[usize]) -> Vec<Vec<NamedTensor>> {
    let mut first = 0;
    let mut parts = Vec::with_capacity(rows.len());
    for &count in rows {
        parts.push(
            tensors
                .iter()
                .map(|whole| NamedTensor { name: whole.name.clone(), tensor: part(&whole.tensor, first, count) })
                .collect(),
        );
        first += count;
    }
    parts
}

fn part(whole: &Tensor, first: usize, count: usize) -> Tensor {
    let row_len = whole.row_len().unwrap_or_default();
    let mut shape = whole.shape.clone();
    if let Some(rows) = shape.first_mut() {
        *rows = i64::try_from(count).unwrap_or(i64::MAX);
    }
    Tensor { shape, data: whole.data.slice(first * row_len, count * row_len) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::oneshot;

    use super::*;
    use crate::request::Sketched;

    fn tensor(name: &str, shape: &[i64], values: &[f32]) -> NamedTensor {
        NamedTensor {
            name: name.to_owned(),
            tensor: Tensor { shape: shape.to_vec(), data: Data::Fp32(values.to_vec()) },
        }
    }

    fn work(rows: usize, inputs: Vec<NamedTensor>) -> Work {
        let now = Instant::now();
        let reply = oneshot::channel().0;
        let sketched = Sketched::default();
        Work { inputs, rows, shares: true, priority: 1, sketched, enqueued: now, deadline: now, reply }
    }

    #[test]
    fn rows_are_put_together_in_order_and_come_back_to_whom_they_belong() {
        let mut batch =
            [work(1, vec![tensor("X", &[1, 2], &[1., 2.])]), work(2, vec![tensor("X", &[2, 2], &[3., 4., 5., 6.])])];
        let inputs = gather(&mut batch);
        assert_eq!(inputs, [tensor("X", &[3, 2], &[1., 2., 3., 4., 5., 6.])]);
        let parts = scatter(vec![tensor("Y", &[3], &[7., 8., 9.])], &[1, 2]).unwrap();
        assert_eq!(*parts[0], [tensor("Y", &[1], &[7.])]);
        assert_eq!(*parts[1], [tensor("Y", &[2], &[8., 9.])]);
        assert_eq!(rows_of(&inputs, &[1, 2])[1], [tensor("X", &[2, 2], &[3., 4., 5., 6.])]);
    }

    #[test]
    fn outputs_without_a_row_each_cannot_be_told_apart() {
        let refusal = scatter(vec![tensor("mean", &[1], &[7.])], &[1, 2]).unwrap_err();
        assert!(refusal.message.contains("\"mean\""), "{refusal}");
        assert_eq!(*scatter(vec![tensor("mean", &[1], &[7.])], &[3]).unwrap()[0], [tensor("mean", &[1], &[7.])]);
    }
}
