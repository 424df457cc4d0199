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
    match size_of(graph, bodies) {
        None => Err(LoadError::Invalid("a function of the model calls itself".to_owned())),
        Some(size) if size > MAX_EXPANDED => Err(LoadError::TooLarge(format!(
            "the model has {size} nodes once its functions are expanded, more than {MAX_EXPANDED}"
        ))),
        Some(_) => Ok(()),
    }
}

/// A function on the way down: what it has so far, and how many of its calls that is.
struct Open<'a> {
    body: &'a Calls,
    name: Option<&'a Operator>,
    size: u64,
    done: usize,
}

/// Nodes of a graph with all functions expanded; `None` when one calls itself. Depth first, each function and each call looked at once: the
/// file may hold millions of calls, and chains as long as there are functions, which the stack would not.
fn size_of(graph: &Calls, bodies: &HashMap<Operator, Calls>) -> Option<u64> {
    let mut sizes: HashMap<&Operator, Option<u64>> = HashMap::new();
    let mut stack = vec![Open { body: graph, name: None, size: graph.nodes, done: 0 }];
    loop {
        let open = stack.last_mut()?;
        let Some(called) = open.body.functions.get(open.done) else {
            let Open { name, size, .. } = stack.pop()?;
            let Some(name) = name else { return Some(size) };
            sizes.insert(name, Some(size));
            continue;
        };
        match sizes.get(called) {
            Some(known) => {
                // One that is on the way down itself has no size yet, and never will.
                open.size = open.size.saturating_add((*known)?);
                open.done += 1;
            }
            None => {
                let (name, body) = bodies.get_key_value(called)?;
                sizes.insert(name, None);
                stack.push(Open { body, name: Some(name), size: body.nodes, done: 0 });
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(level: usize) -> Operator {
        ("local".to_owned(), format!("F{level}"))
    }

    fn calls(nodes: u64, functions: Vec<Operator>) -> Calls {
        Calls { nodes, functions }
    }

    /// Whoever looks at each call once for each function is not done within minutes.
    #[test]
    fn the_longest_chain_of_functions_with_many_calls_is_counted() {
        let leaf = operator(MAX_FUNCTIONS);
        let mut bodies: HashMap<Operator, Calls> = (1..MAX_FUNCTIONS)
            .map(|level| {
                let mut functions = vec![leaf.clone(); 100];
                functions.push(operator(level - 1));
                (operator(level), calls(101, functions))
            })
            .collect();
        bodies.insert(operator(0), calls(1, Vec::new()));
        let graph = calls(1, vec![operator(MAX_FUNCTIONS - 1)]);
        assert_eq!(size_of(&graph, &bodies), None, "the leaf is missing");
        bodies.insert(leaf, calls(3, Vec::new()));
        assert_eq!(size_of(&graph, &bodies), Some(2 + (101 + 100 * 3) * 4095));
    }

    #[test]
    fn calls_in_a_circle_have_no_size_and_those_that_meet_again_have() {
        let circle =
            HashMap::from([(operator(0), calls(1, vec![operator(1)])), (operator(1), calls(1, vec![operator(0)]))]);
        assert_eq!(size_of(&calls(1, vec![operator(0)]), &circle), None);
        let diamond = HashMap::from([
            (operator(0), calls(5, Vec::new())),
            (operator(1), calls(1, vec![operator(0)])),
            (operator(2), calls(1, vec![operator(0), operator(1), operator(0)])),
        ]);
        assert_eq!(size_of(&calls(1, vec![operator(2), operator(1)]), &diamond), Some(1 + (1 + 5 + 6 + 5) + 6));
        assert_eq!(size_of(&calls(7, Vec::new()), &diamond), Some(7), "what nobody calls does not count");
    }
}
