//! A look into the bytes of an ONNX file before ONNX Runtime sees them: is it whole, does every tensor hold what it claims, does it name
//! other files or operators of other libraries, and will it grow when it is loaded? Field numbers are those of `onnx.proto`. Pure.
//!
//! What ONNX Runtime checks itself (types, missing operators, cycles) is left to it.

mod boundary;
mod functions;
mod graph;
mod tensors;
mod types;
pub(crate) mod wire;
mod zip_map;

pub(crate) use graph::Weight;
pub(crate) use tensors::Location;
pub(crate) use types::Kind;
use wire::{Reader, Value};
pub(crate) use zip_map::ZipMap;

use crate::LoadError;

/// What a file holds that matters before it is loaded.
#[derive(Debug, Default)]
pub(crate) struct Outline<'a> {
    /// Tensors in other files.
    pub external: Vec<Location>,
    /// Tensors in the file, those of the outermost graph.
    pub weights: Vec<Weight<'a>>,
    /// Outputs that are maps from classes to probabilities.
    pub zip_maps: Vec<ZipMap>,
    /// Every input has one shape only.
    pub fixed: bool,
    /// The first operator of a domain that ONNX Runtime does not have: domain and operator.
    pub custom: Option<(String, String)>,
}

/// Bytes at the start of files that are not ONNX, but that people put where a model should be.
const ARCHIVES: [(&[u8], &str); 8] = [
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ\x00", "compressed by xz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
];
/// Where a tar file says what it is.
const TAR_MARK: usize = 257;
/// Where a file in ONNX Runtime's own format says what it is.
const ORT_FORMAT_MARK: usize = 4;

/// Refuses bytes that are no whole, self-consistent ONNX model, and tells what the rest needs to know.
///
/// # Errors
/// [`LoadError`] with the first thing that is wrong. Tensors in other files and custom operators are not judged here.
pub(crate) fn outline(bytes: &[u8]) -> Result<Outline<'_>, LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Invalid("it is empty".to_owned()));
    }
    not_an_archive(bytes)?;
    let model = graph::Model::read(bytes)?;
    model.outline()
}

fn not_an_archive(bytes: &[u8]) -> Result<(), LoadError> {
    let known = ARCHIVES.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, kind)| *kind);
    let tar = bytes.get(TAR_MARK..).is_some_and(|rest| rest.starts_with(b"ustar")).then_some("a tar archive");
    if let Some(kind) = known.or(tar) {
        return Err(LoadError::Archive { kind });
    }
    // ONNX Runtime would take such a file for its own format and read it past every check made here.
    if bytes.get(ORT_FORMAT_MARK..).is_some_and(|rest| rest.starts_with(b"ORTM")) {
        return Err(LoadError::Invalid("it is in ONNX Runtime's own format; save it as ONNX".to_owned()));
    }
    Ok(())
}

/// Text for names and messages; what is no UTF-8 is shown as such.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The model with every `ZipMap` in `zip_maps` made to hand on the tensor it is given: the same numbers, without a map a row.
///
/// # Errors
/// Not for bytes that [`outline`] took.
pub(crate) fn without_zip_maps(bytes: &[u8], zip_maps: &[ZipMap]) -> Result<Vec<u8>, LoadError> {
    let mut rewritten = Vec::with_capacity(bytes.len() + 64);
    let (mut reader, mut has_operators) = (Reader::new(bytes), false);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (graph::MODEL_GRAPH, Value::Bytes(inner)) => {
                wire::put_bytes(&mut rewritten, graph::MODEL_GRAPH, &zip_map::rewrite(inner, zip_maps)?);
            }
            (MODEL_OPERATOR_SET, Value::Bytes(inner)) => {
                has_operators |= is_of_onnx_itself(inner)?;
                rewritten.extend_from_slice(field.raw);
            }
            _ => rewritten.extend_from_slice(field.raw),
        }
    }
    if !has_operators {
        let mut version = Vec::new();
        wire::put_number(&mut version, 2, OPERATOR_SET);
        wire::put_bytes(&mut rewritten, MODEL_OPERATOR_SET, &version);
    }
    Ok(rewritten)
}

const MODEL_OPERATOR_SET: u64 = 8;
/// Version of the operators for a model that uses none of them so far.
const OPERATOR_SET: u64 = 13;

fn is_of_onnx_itself(operator_set: &[u8]) -> Result<bool, LoadError> {
    let (mut reader, mut domain) = (Reader::new(operator_set), &[][..]);
    while let Some(field) = reader.field()? {
        if let (1, Value::Bytes(name)) = (field.number, field.value) {
            domain = name;
        }
    }
    Ok(domain.is_empty() || domain == b"ai.onnx")
}

#[cfg(test)]
mod tests;
