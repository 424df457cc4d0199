//! Functions of the model itself, which ONNX Runtime puts in place of their calls: how large the model becomes by that. Pure.

use std::collections::HashMap;

use super::wire::{Reader, Value};
use crate::LoadError;

/// Most functions; exporters that use them write some hundred.
const MAX_FUNCTIONS: usize = 4096;
/// Nodes after every function of the model was put in place of its calls.
const MAX_EXPANDED: u64 = 4_000_000;

/// Domain and name of an operator or function.
pub(super) type Operator = (String, String);

/// What a body calls: how many nodes it has, and which functions of the model among them.
#[derive(Default)]
pub(super) struct Calls {
    pub nodes: u64,
    pub functions: Vec<Operator>,
}

impl Calls {
    pub fn add(&mut self, other: Self) {
        self.nodes += other.nodes;
        self.functions.extend(other.functions);
    }
}

/// Functions are put in place of their calls: a few that call each other twice fill any memory.
pub(super) fn expanded(graph: &Calls, bodies: &HashMap<Operator, Calls>) -> Result<(), LoadError> {
    if bodies.len() > MAX_FUNCTIONS {
        return Err(LoadError::TooLarge(format!("the model has more than {MAX_FUNCTIONS} functions")));
    }
    let mut sizes: HashMap<&Operator, u64> = HashMap::new();
    // A function's size is known once those of all it calls are; as many rounds as functions are enough, unless one calls itself.
    for _ in 0..=bodies.len() {
        for (name, body) in bodies {
            if sizes.contains_key(name) {
                continue;
            }
            if let Some(size) = size_of(body, &sizes, bodies) {
                sizes.insert(name, size);
            }
        }
        if sizes.len() == bodies.len() {
            break;
        }
    }
    match size_of(graph, &sizes, bodies) {
        None => Err(LoadError::Invalid("a function of the model calls itself".to_owned())),
        Some(size) if size > MAX_EXPANDED => Err(LoadError::TooLarge(format!(
            "the model has {size} nodes once its functions are expanded, more than {MAX_EXPANDED}"
        ))),
        Some(_) => Ok(()),
    }
}

fn size_of(body: &Calls, sizes: &HashMap<&Operator, u64>, bodies: &HashMap<Operator, Calls>) -> Option<u64> {
    let mut size = body.nodes;
    for called in &body.functions {
        let (name, _) = bodies.get_key_value(called)?;
        size = size.saturating_add(*sizes.get(name)?);
    }
    Some(size)
}

/// Domain and name of a `FunctionProto`.
pub(super) fn name(bytes: &[u8]) -> Result<Operator, LoadError> {
    let mut reader = Reader::new(bytes);
    let (mut name, mut domain) = (String::new(), String::new());
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => name = super::text(text),
            (10, Value::Bytes(text)) => domain = super::text(text),
            _ => {}
        }
    }
    Ok((domain, name))
}
