//! `ModelProto` and `GraphProto`: nodes, their attributes and the graphs in those, walked with a bound on depth and on number. Pure.

use std::collections::{HashMap, HashSet};

use super::{
    Kind, Outline, boundary,
    functions::{self, Calls, Operator},
    tensors::{self, TensorFacts},
    types::{self, element_name},
    wire::{Reader, Value},
    zip_map,
};
use crate::{Datatype, LoadError};

/// Messages in messages: deeper than any exporter writes, shallow enough for the stack, and for protobuf's own limit of 100.
const MAX_DEPTH: u32 = 64;
/// Nodes, attributes, tensors and values: each costs ONNX Runtime some hundred bytes, whatever it costs in the file.
const MAX_PARTS: usize = 4_000_000;
/// Elements that a constant shape may ask an operator to make.
const MAX_MADE: usize = 1 << 28;

pub(super) const MODEL_GRAPH: u64 = 7;
const MODEL_FUNCTION: u64 = 25;
const MODEL_TRAINING: u64 = 20;

/// Domains whose operators are in ONNX Runtime itself.
const DOMAINS: [&str; 8] = [
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.training",
    "ai.onnx.preview.training",
    "com.microsoft",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
];

/// A tensor of the outermost graph, its elements as they lie in memory.
#[derive(Clone, Debug)]
pub(crate) struct Weight<'a> {
    pub name: String,
    pub datatype: Datatype,
    pub dims: Vec<i64>,
    pub raw: &'a [u8],
}

/// The parts of a model.
pub(super) struct Model<'a> {
    graph: &'a [u8],
    training: Vec<&'a [u8]>,
    functions: Vec<(Operator, &'a [u8])>,
}

impl<'a> Model<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, LoadError> {
        let mut reader = Reader::new(bytes);
        let (mut graphs, mut training, mut functions) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(field) = reader.field()? {
            match (field.number, field.value) {
                (MODEL_GRAPH, Value::Bytes(inner)) => graphs.push(inner),
                (MODEL_TRAINING, Value::Bytes(inner)) => training.push(inner),
                (super::MODEL_OPERATOR_SET, Value::Bytes(inner)) => _ = super::is_of_onnx_itself(inner)?,
                (MODEL_FUNCTION, Value::Bytes(inner)) => functions.push((functions::name(inner)?, inner)),
                _ => {}
            }
        }
        match graphs.as_slice() {
            [graph] => Ok(Self { graph, training, functions }),
            [] => Err(LoadError::Invalid("it holds no graph".to_owned())),
            _ => Err(LoadError::Invalid("it holds more than one graph".to_owned())),
        }
    }

    pub fn outline(&self) -> Result<Outline<'a>, LoadError> {
        let local: HashSet<Operator> = self.functions.iter().map(|(name, _)| name.clone()).collect();
        let mut walk = Walk { parts: 0, local, outline: Outline::default(), calls: Vec::new(), nodes: 0 };
        let mut bodies: HashMap<Operator, Calls> = HashMap::new();
        for (name, body) in &self.functions {
            walk.function(body)?;
            // Functions of one name are told apart by what calls them: together they are at least as large as either.
            bodies.entry(name.clone()).or_default().add(walk.take_calls());
        }
        for training in &self.training {
            walk.training(training)?;
        }
        walk.take_calls();
        walk.graph(self.graph, MAX_DEPTH, true)?;
        functions::expanded(&walk.take_calls(), &bodies)?;
        Ok(walk.outline)
    }
}

struct Walk<'a> {
    parts: usize,
    local: HashSet<Operator>,
    outline: Outline<'a>,
    calls: Vec<Operator>,
    nodes: u64,
}

/// What a graph says of values by their names.
#[derive(Default)]
pub(super) struct Names<'a> {
    /// Tensors that are few integers: shapes, mostly.
    integers: HashMap<String, Vec<i64>>,
    pub inputs: Vec<(String, Kind)>,
    pub outputs: Vec<(String, Kind)>,
    pub nodes: Vec<Node<'a>>,
}

/// What of a node is looked at again when the whole graph is known.
pub(super) struct Node<'a> {
    pub operator: String,
    pub domain: String,
    pub inputs: Vec<&'a [u8]>,
    pub outputs: Vec<&'a [u8]>,
    pub classes: Vec<String>,
}

impl<'a> Walk<'a> {
    fn take_calls(&mut self) -> Calls {
        Calls { nodes: std::mem::take(&mut self.nodes), functions: std::mem::take(&mut self.calls) }
    }

    /// One more part of the file is looked at.
    fn count(&mut self) -> Result<(), LoadError> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(LoadError::TooLarge(format!(
                "the model has more than {MAX_PARTS} nodes, attributes and tensors"
            )));
        }
        Ok(())
    }

    fn training(&mut self, bytes: &'a [u8]) -> Result<(), LoadError> {
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.field()? {
            if let (1 | 2, Value::Bytes(inner)) = (field.number, field.value) {
                self.graph(inner, MAX_DEPTH, false)?;
            }
        }
        Ok(())
    }

    fn function(&mut self, bytes: &'a [u8]) -> Result<(), LoadError> {
        let mut reader = Reader::new(bytes);
        let mut names = Names::default();
        while let Some(field) = reader.field()? {
            match (field.number, field.value) {
                (7, Value::Bytes(inner)) => self.node(inner, MAX_DEPTH, &mut names)?,
                (11, Value::Bytes(inner)) => _ = self.attribute(inner, MAX_DEPTH)?,
                _ => {}
            }
        }
        constant_shapes(&names)
    }

    fn graph(&mut self, bytes: &'a [u8], depth: u32, outermost: bool) -> Result<(), LoadError> {
        let depth = deeper(depth)?;
        let mut reader = Reader::new(bytes);
        let mut names = Names::default();
        while let Some(field) = reader.field()? {
            match (field.number, field.value) {
                (1, Value::Bytes(inner)) => self.node(inner, depth, &mut names)?,
                (5, Value::Bytes(inner)) => self.initializer(inner, outermost, &mut names)?,
                (11, Value::Bytes(inner)) if outermost => names.inputs.push(types::value_info(inner)?),
                (12, Value::Bytes(inner)) if outermost => names.outputs.push(types::value_info(inner)?),
                (11..=13, Value::Bytes(_)) => self.count()?,
                (15, Value::Bytes(inner)) => self.sparse(inner)?,
                _ => {}
            }
        }
        constant_shapes(&names)?;
        if outermost {
            self.outline.zip_maps = zip_map::find(&names);
            boundary::check(&names, &self.outline.zip_maps)?;
            self.outline.fixed = names.inputs.iter().all(|(_, kind)| kind.is_fixed());
        }
        Ok(())
    }

    fn initializer(&mut self, bytes: &'a [u8], outermost: bool, names: &mut Names<'a>) -> Result<(), LoadError> {
        let facts = self.tensor(bytes)?;
        let TensorFacts { name, data_type, dims, raw, integers, external: _ } = facts;
        if let Some(integers) = integers {
            names.integers.insert(name.clone(), integers);
        }
        if let (true, Some(raw), Ok(datatype)) = (outermost, raw, element_name(data_type).parse()) {
            self.outline.weights.push(Weight { name, datatype, dims, raw });
        }
        Ok(())
    }

    fn tensor(&mut self, bytes: &'a [u8]) -> Result<TensorFacts<'a>, LoadError> {
        self.count()?;
        let mut facts = tensors::read(bytes)?;
        self.outline.external.extend(facts.external.take());
        Ok(facts)
    }

    fn sparse(&mut self, bytes: &'a [u8]) -> Result<(), LoadError> {
        let mut reader = Reader::new(bytes);
        let mut dims = Vec::new();
        while let Some(field) = reader.field()? {
            match (field.number, field.value) {
                (1 | 2, Value::Bytes(inner)) => _ = self.tensor(inner)?,
                (3, value) => super::wire::numbers(value, &mut dims)?,
                _ => {}
            }
        }
        // It is made dense when it is loaded.
        made("a sparse tensor", &dims)
    }

    fn node(&mut self, bytes: &'a [u8], depth: u32, names: &mut Names<'a>) -> Result<(), LoadError> {
        self.count()?;
        let depth = deeper(depth)?;
        let mut reader = Reader::new(bytes);
        let mut node = Node {
            operator: String::new(),
            domain: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            classes: Vec::new(),
        };
        let mut constant = None;
        while let Some(field) = reader.field()? {
            let Value::Bytes(inner) = field.value else { continue };
            match field.number {
                1 => node.inputs.push(inner),
                2 => node.outputs.push(inner),
                4 => node.operator = super::text(inner),
                5 => {
                    let attribute = self.attribute(inner, depth)?;
                    constant = constant.or(attribute.integers);
                    node.classes.extend(attribute.classes);
                }
                7 => node.domain = super::text(inner),
                _ => {}
            }
        }
        if let ("Constant", Some(integers), [output]) = (node.operator.as_str(), constant, node.outputs.as_slice()) {
            names.integers.insert(super::text(output), integers);
        }
        self.operator(&node)?;
        names.nodes.push(node);
        Ok(())
    }

    /// Notes which operator a node calls; refuses those that open files.
    fn operator(&mut self, node: &Node<'_>) -> Result<(), LoadError> {
        self.nodes += 1;
        let (domain, operator) = (node.domain.clone(), node.operator.clone());
        if operator == "EPContext" {
            return Err(LoadError::CustomOperator { operator, domain });
        }
        let key = (domain, operator);
        if self.local.contains(&key) {
            self.calls.push(key);
        } else if !DOMAINS.contains(&key.0.as_str()) && self.outline.custom.is_none() {
            self.outline.custom = Some(key);
        }
        Ok(())
    }

    fn attribute(&mut self, bytes: &'a [u8], depth: u32) -> Result<Attribute, LoadError> {
        self.count()?;
        let depth = deeper(depth)?;
        let mut reader = Reader::new(bytes);
        let (mut name, mut integers, mut texts, mut numbers) = (String::new(), None, Vec::new(), Vec::new());
        let (mut tensors, mut graphs) = (0, 0);
        while let Some(field) = reader.field()? {
            match (field.number, field.value) {
                (1, Value::Bytes(text)) => name = super::text(text),
                (5, Value::Bytes(inner)) => {
                    tensors += 1;
                    integers = self.tensor(inner)?.integers;
                }
                (6, Value::Bytes(inner)) => {
                    graphs += 1;
                    self.graph(inner, depth, false)?;
                }
                (8, value) if numbers.len() <= MAX_CLASSES => super::wire::numbers(value, &mut numbers)?,
                (9, Value::Bytes(text)) if texts.len() <= MAX_CLASSES => texts.push(text),
                (10, Value::Bytes(inner)) => _ = self.tensor(inner)?,
                (11, Value::Bytes(inner)) => self.graph(inner, depth, false)?,
                (22 | 23, Value::Bytes(inner)) => self.sparse(inner)?,
                _ => {}
            }
        }
        // Protobuf would merge the two into one that nobody has checked.
        if tensors > 1 || graphs > 1 {
            return Err(LoadError::Invalid(format!("attribute {name:?} is given twice")));
        }
        let classes = match name.as_str() {
            "classlabels_int64s" => numbers.iter().map(ToString::to_string).collect(),
            "classlabels_strings" => texts.into_iter().map(super::text).collect(),
            "value_ints" => {
                integers = Some(numbers);
                Vec::new()
            }
            _ => Vec::new(),
        };
        Ok(Attribute { integers, classes })
    }
}

/// Most classes a model can have names for.
const MAX_CLASSES: usize = 1 << 20;

struct Attribute {
    /// The tensor in it, if that is a few integers.
    integers: Option<Vec<i64>>,
    /// The classes, if it is a list of those.
    classes: Vec<String>,
}

fn deeper(depth: u32) -> Result<u32, LoadError> {
    depth
        .checked_sub(1)
        .ok_or_else(|| LoadError::TooLarge(format!("the model's graphs are nested deeper than {MAX_DEPTH} levels")))
}

/// Operators that make a tensor of the shape they are given: with a constant shape they do so while the model is loaded.
fn constant_shapes(names: &Names<'_>) -> Result<(), LoadError> {
    for node in &names.nodes {
        let shape = match node.operator.as_str() {
            "ConstantOfShape" => node.inputs.first(),
            "Expand" => node.inputs.get(1),
            _ => None,
        };
        if let Some(dims) = shape.and_then(|name| names.integers.get(&super::text(name))) {
            made(&format!("operator {:?}", node.operator), dims)?;
        }
    }
    Ok(())
}

fn made(what: &str, dims: &[i64]) -> Result<(), LoadError> {
    let positive: Vec<i64> = dims.iter().map(|&dimension| dimension.max(0)).collect();
    if crate::element_count(&positive).is_some_and(|count| count <= MAX_MADE) {
        return Ok(());
    }
    Err(LoadError::TooLarge(format!("{what} makes a tensor of shape {dims:?}, more than {MAX_MADE} elements")))
}
