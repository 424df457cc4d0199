//! A request's tensors checked against the model before it takes a place: names, element types, shapes, lengths. What passes here can
//! be put into a batch without another look.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use millrace_contract::model::{TensorSpec, Tensors};
use millrace_engine::{NamedTensor, element_count};
use tokio::sync::oneshot;

use crate::{
    errors::{Reason, Refusal},
    queue::{Reply, Work},
    schedule::Schedule,
};

/// What the door needs to know of the model.
#[derive(Clone, Debug)]
pub struct Door {
    tensors: Tensors,
    /// Whether requests may share a run: every input and output has an open first axis.
    batches: bool,
    timeout: Duration,
    schedule: Arc<Schedule>,
}

impl Door {
    /// The door to a model that waits at most `timeout` in `schedule`.
    pub fn new(tensors: Tensors, timeout: Duration, schedule: Arc<Schedule>) -> Self {
        let open = |spec: &TensorSpec| spec.shape.first() == Some(&-1);
        let batches = tensors.inputs.iter().chain(&tensors.outputs).all(open);
        Self { tensors, batches, timeout, schedule }
    }

    /// The model's tensors.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Checks the inputs, takes a place and queues them; the answer comes from the returned future.
    ///
    /// # Errors
    /// [`Reason::InvalidTensor`], [`Reason::QueueFull`], [`Reason::Stopping`].
    pub fn admit(&self, inputs: Vec<NamedTensor>, now: Instant) -> Result<Waiting, Refusal> {
        let inputs = check(&self.tensors, inputs)?;
        let permit = self.schedule.permit()?;
        let (reply, answer) = oneshot::channel();
        let deadline = now + self.timeout;
        let rows = inputs.first().map_or(1, |input| input.tensor.rows());
        let key = if self.batches { batch_key(&inputs) } else { None };
        self.schedule.push(permit, Work { inputs, rows, key, enqueued: now, deadline, reply })?;
        Ok(Waiting { answer: Some(answer), schedule: Arc::clone(&self.schedule), deadline })
    }
}

/// The shape of a row of each input; none when the inputs have different numbers of rows, or none.
fn batch_key(inputs: &[NamedTensor]) -> Option<Vec<i64>> {
    let rows = inputs.first()?.tensor.shape.first()?;
    let equal = *rows > 0 && inputs.iter().all(|input| input.tensor.shape.first() == Some(rows));
    equal.then(|| {
        inputs
            .iter()
            .flat_map(|input| {
                [input.tensor.shape.len() as i64].into_iter().chain(input.tensor.shape[1..].iter().copied())
            })
            .collect()
    })
}

/// The inputs in the model's order, if they are exactly those that it takes.
fn check(tensors: &Tensors, mut given: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Refusal> {
    let invalid = |message: String| Err(Refusal::new(Reason::InvalidTensor, message));
    let names = || tensors.inputs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut ordered = Vec::with_capacity(tensors.inputs.len());
    for spec in &tensors.inputs {
        let Some(index) = given.iter().position(|input| input.name == spec.name) else {
            return invalid(format!("input {:?} is missing; the model takes {}", spec.name, names()));
        };
        let input = given.swap_remove(index);
        check_tensor(spec, &input)?;
        ordered.push(input);
    }
    match given.first() {
        None => Ok(ordered),
        Some(extra) if tensors.inputs.iter().any(|spec| spec.name == extra.name) => {
            invalid(format!("input {:?} is given more than once", extra.name))
        }
        Some(extra) => invalid(format!("input {:?} is unknown; the model takes {}", extra.name, names())),
    }
}

fn check_tensor(spec: &TensorSpec, input: &NamedTensor) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::new(Reason::InvalidTensor, message));
    let (name, tensor) = (&input.name, &input.tensor);
    if tensor.data.datatype().as_str() != spec.datatype {
        return invalid(format!(
            "input {name:?}: expected datatype {}, given {}",
            spec.datatype,
            tensor.data.datatype()
        ));
    }
    let fits = tensor.shape.len() == spec.shape.len()
        && tensor
            .shape
            .iter()
            .zip(&spec.shape)
            .all(|(&given, &declared)| given >= 0 && (declared < 0 || given == declared));
    if !fits {
        return invalid(format!("input {name:?}: expected shape {:?}, given {:?}", spec.shape, tensor.shape));
    }
    match element_count(&tensor.shape) {
        Some(count) if count == tensor.data.len() => Ok(()),
        Some(count) => invalid(format!(
            "input {name:?}: shape {:?} needs {count} elements, given {}",
            tensor.shape,
            tensor.data.len()
        )),
        None => invalid(format!("input {name:?}: shape {:?} has more elements than can be counted", tensor.shape)),
    }
}

/// An answer to come. Dropped before it has come (the client went away), it gives the place back at once.
#[derive(Debug)]
pub struct Waiting {
    answer: Option<oneshot::Receiver<Reply>>,
    schedule: Arc<Schedule>,
    deadline: Instant,
}

impl Waiting {
    /// Waits for the answer. A request that is still queued at its deadline is turned down then, not when a lane gets to it; one that
    /// runs already is waited for.
    ///
    /// # Errors
    /// What the lane or the queue says of the request.
    pub async fn answer(mut self) -> Reply {
        match tokio::time::timeout_at(self.deadline.into(), &mut self).await {
            Ok(reply) => reply,
            Err(_) => {
                self.schedule.sweep(Instant::now().max(self.deadline));
                (&mut self).await
            }
        }
    }
}

impl Future for Waiting {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Reply> {
        let Some(answer) = self.answer.as_mut() else {
            return Poll::Ready(Err(Refusal::new(Reason::Stopping, "the answer was already taken")));
        };
        let reply = match Pin::new(answer).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(reply)) => reply,
            Poll::Ready(Err(_)) => Err(Refusal::new(Reason::Stopping, "the server stopped before the request was run")),
        };
        self.answer = None;
        Poll::Ready(reply)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            drop(answer);
            self.schedule.sweep(Instant::now());
        }
    }
}
