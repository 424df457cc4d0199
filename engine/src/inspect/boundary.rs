//! Inputs and outputs of a model: what can go in and come out through the protocol. Pure.

use std::collections::HashSet;

use super::{Kind, graph::Names, types::element_name, zip_map::ZipMap};
use crate::{Datatype, LoadError};

/// Inputs and outputs: tensors of known types, with names that can be asked for.
pub(super) fn check(names: &Names<'_>, zip_maps: &[ZipMap]) -> Result<(), LoadError> {
    for (side, values) in [("input", &names.inputs), ("output", &names.outputs)] {
        let mut seen = HashSet::new();
        for (name, kind) in values {
            if name.is_empty() || name.contains('\0') || name.contains(char::REPLACEMENT_CHARACTER) {
                return Err(LoadError::Invalid(format!("an {side} is named {name:?}")));
            }
            if !seen.insert(name) {
                return Err(LoadError::Invalid(format!("two {side}s are named {name:?}")));
            }
            let mapped = side == "output" && zip_maps.iter().any(|map| &map.output == name);
            if !mapped {
                taken(side, name, kind)?;
            }
        }
    }
    Ok(())
}

fn taken(side: &'static str, name: &str, kind: &Kind) -> Result<(), LoadError> {
    match kind {
        // What it is will be known, and checked, when ONNX Runtime has inferred it.
        Kind::Unknown if side == "output" => Ok(()),
        // ONNX Runtime would tell it as a scalar, which some operators do not survive.
        Kind::Unknown | Kind::Tensor { rank: None, .. } if side == "input" => {
            Err(LoadError::NoShape { name: name.to_owned() })
        }
        Kind::Optional(inner) if side == "input" && matches!(**inner, Kind::Tensor { .. }) => taken(side, name, inner),
        Kind::Tensor { element, dims, rank: _ } => {
            let datatype: Datatype = element_name(*element).parse().map_err(|_| LoadError::UnsupportedElement {
                side,
                name: name.to_owned(),
                element: element_name(*element).to_owned(),
            })?;
            let fixed: Vec<i64> = dims.iter().copied().filter(|&dimension| dimension > 0).collect();
            let bytes = crate::element_count(&fixed).and_then(|count| count.checked_mul(datatype.bytes()));
            match bytes.filter(|&bytes| isize::try_from(bytes).is_ok()) {
                Some(_) => Ok(()),
                None => Err(LoadError::TooLarge(format!("{side} {name:?} has more bytes than can be counted"))),
            }
        }
        Kind::Unknown | Kind::Optional(_) | Kind::Sequence(_) | Kind::Map { .. } | Kind::Other(_) => {
            Err(LoadError::NotATensor {
                side,
                name: name.to_owned(),
                kind: kind.describe(),
                remedy: if kind.is_class_maps() {
                    "for a scikit-learn classifier, convert it with options={'zipmap': False}"
                } else {
                    "change the model so that all its inputs and outputs are tensors"
                },
            })
        }
    }
}
