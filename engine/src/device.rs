//! Where a model runs: on the CPU, or on an NVIDIA GPU through ONNX Runtime's CUDA or TensorRT provider, and what to do when the GPU or
//! the provider is not there. Looks for devices, loads nothing.

use std::path::Path;

use millrace_contract::placement::{Device, Fallback, Placement};
use ort::{
    ep::{CUDA, ExecutionProvider, ExecutionProviderDispatch, TensorRT},
    session::builder::SessionBuilder,
};

use crate::LoadError;

/// Node files and folders that a driver of NVIDIA makes; `dxg` is the one of WSL.
const TRACES: [&str; 4] = ["/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version", "/dev/dxg"];

/// The builder with the device's providers.
pub(crate) fn apply(placement: &Placement, builder: SessionBuilder, fixed: bool) -> Result<SessionBuilder, LoadError> {
    if placement.device == Device::Cpu {
        return Ok(builder);
    }
    provider_present(placement.device)?;
    gpu_present(placement, |path| Path::new(path).exists())?;
    builder.with_execution_providers(providers(placement, fixed)).map_err(|e| missing(placement, e.to_string()))
}

/// What ONNX Runtime said when it made a session: of the device, where that is to blame, else of the model.
pub(crate) fn blame(placement: &Placement, said: String) -> LoadError {
    if placement.device == Device::Cpu || !is_no_device(&said) {
        return LoadError::Invalid(said);
    }
    missing(placement, said)
}

/// Only without the device should a model fall back: what is wrong with the model is wrong everywhere.
pub(crate) fn may_fall_back(placement: &Placement, error: &LoadError) -> bool {
    let of_device = matches!(error, LoadError::NoCudaDevice { .. } | LoadError::ProviderMissing { .. });
    of_device && placement.fallback == Fallback::Cpu
}

fn providers(placement: &Placement, fixed: bool) -> Vec<ExecutionProviderDispatch> {
    let graphs = placement.graphs && fixed;
    match placement.device {
        Device::Cpu => Vec::new(),
        Device::Cuda => vec![cuda(placement, graphs).build().error_on_failure()],
        Device::TensorRt => vec![
            tensor_rt(placement, graphs).build().error_on_failure(),
            // What TensorRT does not take runs here, beside its graphs.
            cuda(placement, false).build().error_on_failure(),
        ],
    }
}

fn id(placement: &Placement) -> i32 {
    i32::try_from(placement.device_id).unwrap_or(i32::MAX)
}

fn cuda(placement: &Placement, graphs: bool) -> CUDA {
    CUDA::default().with_device_id(id(placement)).with_cuda_graph(graphs)
}

fn tensor_rt(placement: &Placement, graphs: bool) -> TensorRT {
    TensorRT::default().with_device_id(id(placement)).with_cuda_graph(graphs)
}

/// The library that is loaded was built with the provider.
fn provider_present(device: Device) -> Result<(), LoadError> {
    let there = match device {
        Device::Cpu => Ok(true),
        Device::Cuda => CUDA::is_available(),
        Device::TensorRt => TensorRT::is_available(),
    };
    let missing = |why: String| LoadError::ProviderMissing { device, why };
    match there {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing("this libonnxruntime.so was built without it; use the CUDA image".to_owned())),
        Err(e) => Err(missing(e.to_string())),
    }
}

fn gpu_present(placement: &Placement, exists: impl Fn(&str) -> bool) -> Result<(), LoadError> {
    if TRACES.iter().any(|path| exists(path)) {
        return Ok(());
    }
    let why = format!("no driver of NVIDIA is seen ({} is missing)", TRACES[0]);
    Err(LoadError::NoCudaDevice { device: placement.device, id: placement.device_id, why })
}

/// A device that is not there, or a library that the provider needs.
fn missing(placement: &Placement, said: String) -> LoadError {
    let (device, id) = (placement.device, placement.device_id);
    if is_no_device(&said) {
        LoadError::NoCudaDevice { device, id, why: said }
    } else {
        LoadError::ProviderMissing { device, why: said }
    }
}

/// The words of CUDA's errors 35, 100 and 101: driver too old or missing, no device, no such device.
fn is_no_device(said: &str) -> bool {
    let lower = said.to_lowercase();
    let words = [
        "no cuda-capable device",
        "invalid device ordinal",
        "cuda driver version",
        "failure 100:",
        "failure 101:",
        "failure 35:",
    ];
    words.iter().any(|words| lower.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_there_is_no_device_and_with_one_the_provider_is_asked() {
        let placement = Placement { device: Device::Cuda, device_id: 1, ..Placement::default() };
        let error = gpu_present(&placement, |_| false).unwrap_err();
        assert_eq!(error.reason(), "NoCudaDevice");
        assert!(error.to_string().starts_with("CUDA device 1 cannot be used: no driver"), "{error}");
        assert!(gpu_present(&placement, |path| path == "/dev/nvidiactl").is_ok());
    }

    #[test]
    fn the_gpu_that_was_asked_for_is_the_one_that_the_providers_are_told() {
        let placement = Placement { device: Device::TensorRt, device_id: 3, ..Placement::default() };
        // The options can be read in no other way.
        let told = [format!("{:?}", cuda(&placement, false)), format!("{:?}", tensor_rt(&placement, true))];
        for told in &told {
            assert!(told.contains("\"device_id\"") && told.contains("\"3\""), "{told}");
        }
        assert_eq!(
            (providers(&placement, true).len(), id(&Placement { device_id: u32::MAX, ..placement })),
            (2, i32::MAX)
        );
    }

    #[test]
    fn what_a_provider_says_is_told_apart() {
        let placement = Placement { device: Device::TensorRt, ..Placement::default() };
        let said = |words: &str| missing(&placement, words.to_owned()).reason();
        assert_eq!(said("CUDA failure 100: no CUDA-capable device is detected"), "NoCudaDevice");
        assert_eq!(said("invalid device ordinal"), "NoCudaDevice");
        assert_eq!(said("libcublasLt.so.13: cannot open shared object file"), "ProviderMissing");
        assert_eq!(blame(&placement, "CUDA failure 101: invalid device ordinal".to_owned()).reason(), "NoCudaDevice");
        assert_eq!(blame(&placement, "no such operator".to_owned()).reason(), "InvalidModel");
    }

    #[test]
    fn a_model_falls_back_for_want_of_a_device_only_and_only_where_that_is_allowed() {
        let gone = gpu_present(&Placement { device: Device::Cuda, ..Placement::default() }, |_| false).unwrap_err();
        let allowed = Placement { device: Device::Cuda, fallback: Fallback::Cpu, ..Placement::default() };
        assert!(may_fall_back(&allowed, &gone));
        assert!(!may_fall_back(&allowed, &LoadError::Invalid("truncated".to_owned())));
        assert!(!may_fall_back(&Placement { fallback: Fallback::Refuse, ..allowed }, &gone));
    }
}
