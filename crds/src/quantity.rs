//! A Kubernetes quantity as users write it: `2`, `500m`, `1Gi`.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::api::resource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A Kubernetes quantity; a bare integer or text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    /// A bare integer.
    Integer(i64),
    /// Text such as `500m`.
    Text(String),
}

impl From<&Quantity> for resource::Quantity {
    fn from(quantity: &Quantity) -> Self {
        match quantity {
            Quantity::Integer(number) => Self(number.to_string()),
            Quantity::Text(text) => Self(text.clone()),
        }
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
            "maxLength": 32,
        })
    }
}
