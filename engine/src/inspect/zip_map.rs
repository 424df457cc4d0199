//! `ZipMap`, which scikit-learn's converters put behind a classifier: found, and replaced by a node that hands on the tensor of
//! probabilities, so that no map a row is ever made. Pure.

use super::{
    graph::Names,
    types,
    wire::{Field, Reader, Value, put_bytes, put_number},
};
use crate::LoadError;

const ML_DOMAIN: &str = "ai.onnx.ml";

/// A node that turns rows of probabilities into maps, whose output leaves the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZipMap {
    /// Tensor with the probabilities.
    pub input: String,
    /// The model's output.
    pub output: String,
    /// The classes, as text.
    pub classes: Vec<String>,
}

/// `ZipMap` nodes whose result leaves the model and goes nowhere else.
pub(super) fn find(names: &Names<'_>) -> Vec<ZipMap> {
    let mut found = Vec::new();
    for node in names.nodes.iter().filter(|node| node.operator == "ZipMap" && node.domain == ML_DOMAIN) {
        let ([input], [output]) = (node.inputs.as_slice(), node.outputs.as_slice()) else { continue };
        let leaves = names.outputs.iter().any(|(name, _)| name.as_bytes() == *output);
        let used = names.nodes.iter().any(|other| other.inputs.contains(output));
        if leaves && !used && !node.classes.is_empty() {
            let classes = node.classes.clone();
            found.push(ZipMap { input: super::text(input), output: super::text(output), classes });
        }
    }
    found
}

/// A graph whose `zip_maps` hand on what they are given.
pub(super) fn rewrite(bytes: &[u8], zip_maps: &[ZipMap]) -> Result<Vec<u8>, LoadError> {
    let mut rewritten = Vec::with_capacity(bytes.len() + 64);
    let mut reader = Reader::new(bytes);
    while let Some(field) = reader.field()? {
        match replaced(&field, zip_maps)? {
            Some(other) => put_bytes(&mut rewritten, field.number, &other),
            None => rewritten.extend_from_slice(field.raw),
        }
    }
    Ok(rewritten)
}

/// What stands in the place of a field, if something else should.
fn replaced(field: &Field<'_>, zip_maps: &[ZipMap]) -> Result<Option<Vec<u8>>, LoadError> {
    let Value::Bytes(inner) = field.value else { return Ok(None) };
    match field.number {
        1 => {
            let mut reader = Reader::new(inner);
            let (mut output, mut operator) = (&[][..], &[][..]);
            while let Some(part) = reader.field()? {
                match (part.number, part.value) {
                    (2, Value::Bytes(name)) => output = name,
                    (4, Value::Bytes(name)) => operator = name,
                    _ => {}
                }
            }
            let map = zip_maps.iter().find(|map| operator == b"ZipMap" && map.output.as_bytes() == output);
            Ok(map.map(identity))
        }
        12 => {
            let (name, _) = types::value_info(inner)?;
            Ok(zip_maps.iter().find(|map| map.output == name).map(probabilities))
        }
        _ => Ok(None),
    }
}

/// A node that hands on a tensor, in the operators' own domain.
fn identity(map: &ZipMap) -> Vec<u8> {
    let mut node = Vec::new();
    put_bytes(&mut node, 1, map.input.as_bytes());
    put_bytes(&mut node, 2, map.output.as_bytes());
    put_bytes(&mut node, 4, b"Identity");
    node
}

/// The output as a tensor of FP32: any number of rows, one column a class.
fn probabilities(map: &ZipMap) -> Vec<u8> {
    let (mut rows, mut columns, mut shape, mut tensor, mut kind, mut value) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut rows, 2, b"rows");
    put_number(&mut columns, 1, map.classes.len() as u64);
    put_bytes(&mut shape, 1, &rows);
    put_bytes(&mut shape, 1, &columns);
    put_number(&mut tensor, 1, 1);
    put_bytes(&mut tensor, 2, &shape);
    put_bytes(&mut kind, 1, &tensor);
    put_bytes(&mut value, 1, map.output.as_bytes());
    put_bytes(&mut value, 2, &kind);
    value
}
