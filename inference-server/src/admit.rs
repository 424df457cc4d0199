//! A request's tensors checked against the model before it takes a place: names, element types, shapes, lengths. What passes here can
//! be put into a batch without another look.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use millrace_contract::model::{TensorSpec, Tensors};
use millrace_engine::{Data, NamedTensor, OutputClasses, Tensor, element_count};
use tokio::sync::oneshot;

use crate::{
    beside::Aside,
    errors::{Reason, Refusal},
    inline::Inline,
    models::signature::Interface,
    queue::{Entry, Full, Places, Reply, Work},
    request::{Answer, Infer, Wanted},
    schedule::Schedule,
};

/// What the door needs to know of the model, and where its requests go.
#[derive(Debug)]
pub struct Door {
    /// Name in the protocol.
    pub name: Arc<str>,
    /// Version in the protocol.
    pub version: Option<Arc<str>>,
    /// What the model takes and gives.
    pub tensors: Tensors,
    /// Inputs that may be left out: the model has values for them.
    pub optional: Vec<TensorSpec>,
    /// Outputs whose columns are classes that the model names.
    pub classes: Vec<OutputClasses>,
    /// Requests may share a run.
    pub shares: bool,
    /// Longest that a request may wait.
    pub timeout: Duration,
    /// Priority of requests that ask for none.
    pub priority: u64,
    /// Bounds what waits.
    pub places: Arc<Places>,
    /// Where requests wait for lanes.
    pub schedule: Arc<Schedule>,
    /// Where they are run without waiting, if the model has sessions on the cores.
    pub inline: Option<Arc<Inline>>,
    /// Response cache and payload log, where the model has them.
    pub aside: OnceLock<Aside>,
}

/// Whether requests may share a run: every input and output has an open first axis.
pub fn batches(tensors: &Tensors) -> bool {
    let open = |spec: &TensorSpec| spec.shape.first() == Some(&-1);
    !tensors.inputs.is_empty() && tensors.inputs.iter().chain(&tensors.outputs).all(open)
}

impl Door {
    /// The model's tensors.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Outputs whose columns are classes that the model names.
    pub fn classes(&self) -> &[OutputClasses] {
        &self.classes
    }

    /// What clients see of the model.
    pub fn interface(&self) -> Interface<'_> {
        Interface { tensors: &self.tensors, optional: &self.optional, classes: &self.classes }
    }

    /// Checks a request, waits for its turn and answers it with all outputs of the model. Dropped before it is done (the client went
    /// away), it gives its place back at once.
    ///
    /// # Errors
    /// [`Reason::InvalidTensor`], [`Reason::QueueFull`], [`Reason::QueueTimeout`], [`Reason::ModelFailed`], [`Reason::Stopping`].
    pub async fn infer(&self, request: Infer, now: Instant) -> Result<Answer, Refusal> {
        let Infer { id, inputs, wanted, options } = request;
        check_wanted(&self.tensors, &wanted)?;
        let inputs = check(&self.tensors, &self.optional, inputs)?;
        let answer_with =
            |id, outputs| Answer { id, model: Arc::clone(&self.name), version: self.version.clone(), outputs };
        let aside = match self.aside.get() {
            None => None,
            Some(aside) => match aside.before(id.as_deref(), &inputs, options.sketched, now) {
                Ok(outputs) => return Ok(answer_with(id, outputs)),
                Err(pending) => Some((aside, pending)),
            },
        };
        let bytes = inputs.iter().map(|input| bytes_of(&input.tensor)).sum();
        let permit = self.places.try_take(bytes).map_err(|full| self.full(full))?;
        let (reply, answer) = oneshot::channel();
        let deadline = now + options.timeout.map_or(self.timeout, |asked| asked.min(self.timeout));
        let rows = inputs.first().map_or(1, |input| input.tensor.rows());
        let priority = if options.priority == 0 { self.priority } else { options.priority };
        let shares = self.shares && may_share(&self.tensors, &inputs);
        let work = Work { inputs, rows, shares, priority, sketched: options.sketched, enqueued: now, deadline, reply };
        let mut waiting = Waiting { answer: Some(answer), schedule: Arc::clone(&self.schedule), deadline };
        let entry = Entry { permit, work };
        let core = self.inline.as_ref().and_then(|inline| Some((inline, inline.core(rows, bytes)?)));
        let outputs = match core {
            Some((inline, core)) => {
                inline.push(core, entry);
                // Its turn comes within microseconds, and looks at the deadline: no timer is worth it. Who moves it to a lane sets one.
                (&mut waiting).await?
            }
            None => {
                self.schedule.push(entry)?;
                waiting.answer().await?
            }
        };
        if let Some((aside, pending)) = aside {
            aside.after(pending, &outputs, now);
        }
        Ok(answer_with(id, outputs))
    }

    fn full(&self, full: Full) -> Refusal {
        let message = match full {
            Full::Requests(limit) => format!("all {limit} places of the queue are taken; try again later"),
            Full::Bytes(limit) => format!("the requests that wait hold the {limit} bytes they may; try again later"),
        };
        Refusal::new(Reason::QueueFull, message)
    }
}

fn bytes_of(tensor: &Tensor) -> usize {
    match &tensor.data {
        Data::Bytes(texts) => texts.iter().map(|text| text.len() + size_of::<String>()).sum(),
        data => data.len() * data.datatype().bytes(),
    }
}

/// There is a row, and as many in each input; and there is no input that may be left out: whether rows depend on each other was tried
/// without those, and what such a one holds may be meant for all rows.
fn may_share(tensors: &Tensors, inputs: &[NamedTensor]) -> bool {
    let rows = |input: &NamedTensor| input.tensor.shape.first().copied();
    let first = inputs.first().and_then(rows);
    let has_equal_rows = first.is_some_and(|first| first > 0) && inputs.iter().all(|input| rows(input) == first);
    has_equal_rows && inputs.len() == tensors.inputs.len()
}

/// Asked for again and again, a large output would make an answer many times as large as any the model gives. Ends at the first name that is
/// there twice, so it looks at no more names than the model has.
fn check_wanted(tensors: &Tensors, wanted: &[Wanted]) -> Result<(), Refusal> {
    for (index, Wanted { name, .. }) in wanted.iter().enumerate() {
        if wanted[..index].iter().any(|before| before.name == *name) {
            return Err(Refusal::new(Reason::InvalidTensor, format!("output {name:?} is asked for more than once")));
        }
        if !tensors.outputs.iter().any(|spec| spec.name == *name) {
            let has: Vec<&str> = tensors.outputs.iter().map(|spec| spec.name.as_str()).collect();
            let message = format!("output {name:?} is unknown; the model has {}", has.join(", "));
            return Err(Refusal::new(Reason::InvalidTensor, message));
        }
    }
    Ok(())
}

/// The inputs in the model's order, if they are those that it takes; what may be left out comes last.
fn check(tensors: &Tensors, optional: &[TensorSpec], mut given: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Refusal> {
    let invalid = |message: String| Err(Refusal::new(Reason::InvalidTensor, message));
    let is_ordered = given.len() == tensors.inputs.len()
        && given.iter().zip(&tensors.inputs).all(|(input, spec)| input.name == spec.name);
    if is_ordered {
        for (spec, input) in tensors.inputs.iter().zip(&given) {
            check_tensor(spec, input)?;
        }
        return Ok(given);
    }
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
    for spec in optional {
        if let Some(index) = given.iter().position(|input| input.name == spec.name) {
            let input = given.swap_remove(index);
            check_tensor(spec, &input)?;
            ordered.push(input);
        }
    }
    match given.first() {
        None => Ok(ordered),
        Some(extra) if tensors.inputs.iter().chain(optional).any(|spec| spec.name == extra.name) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_runs_where_rows_are_equal_and_nothing_is_given_that_may_be_left_out() {
        let spec = |name: &str| TensorSpec { name: name.into(), datatype: "FP32".into(), shape: vec![-1, 1] };
        let tensors = Tensors { inputs: vec![spec("x"), spec("y")], outputs: vec![spec("z")] };
        let of = |name: &str, rows: i64| {
            let tensor = Tensor { shape: vec![rows, 1], data: Data::Fp32(vec![0.5; rows as usize]) };
            NamedTensor { name: name.into(), tensor }
        };
        let shares = |inputs: &[NamedTensor]| may_share(&tensors, inputs);
        assert!(shares(&[of("x", 2), of("y", 2)]));
        assert!(!shares(&[of("x", 2), of("y", 1)]) && !shares(&[of("x", 0), of("y", 0)]));
        assert!(!shares(&[of("x", 2), of("y", 2), of("offset", 2)]), "the offset of one would be another's too");
    }
}
