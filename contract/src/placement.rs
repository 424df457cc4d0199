//! Where a model runs: on the CPU or on a GPU, and what to do when that is not there.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a model should run. Every field may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Placement {
    /// What runs it. Default CPU.
    pub device: Device,
    /// Which GPU, counted from 0 as `CUDA_VISIBLE_DEVICES` leaves them; without meaning on the CPU. Default 0.
    pub device_id: u32,
    /// When the device cannot be used. Default Refuse.
    pub fallback: Fallback,
    /// Record the kernels of a run once and replay them: only on a GPU, and only for models all of whose shapes are fixed. Default false.
    pub graphs: bool,
}

impl Placement {
    /// Nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Device {
    /// The processors.
    #[default]
    #[serde(rename = "CPU")]
    Cpu,
    /// An NVIDIA GPU, by ONNX Runtime's own kernels.
    #[serde(rename = "CUDA")]
    Cuda,
    /// An NVIDIA GPU, by engines that TensorRT builds from the model; what it cannot build runs by CUDA kernels.
    #[serde(rename = "TensorRT")]
    TensorRt,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
            Self::TensorRt => "TensorRT",
        })
    }
}

/// What to do when the device cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Fallback {
    /// Do not load: a server that silently runs a hundred times slower is worse than one that says it is not ready.
    #[default]
    Refuse,
    /// Run on the CPU and log it.
    #[serde(rename = "CPU")]
    Cpu,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_is_written_in_the_words_of_the_documentation() {
        let placement: Placement =
            serde_json::from_str(r#"{"device": "TensorRT", "deviceId": 1, "fallback": "CPU"}"#).unwrap();
        let expected = Placement { device: Device::TensorRt, device_id: 1, fallback: Fallback::Cpu, graphs: false };
        assert_eq!(placement, expected);
        assert_eq!(serde_json::from_str::<Placement>("{}").unwrap(), Placement::default());
        assert!(serde_json::from_str::<Placement>(r#"{"device": "GPU"}"#).is_err());
    }
}
