//! Loads every model that is named, one after another, and prints for each `OK` and the device, or the reason why not:
//! `load_models [--device CUDA|TensorRT] [--fallback] MODEL...`

use millrace_engine::{Device, Fallback, LoadError, LoadOptions, ModelFile, Placement, Settings};

fn main() {
    let mut placement = Placement::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--device" => {
                let device = words.next();
                placement.device = match device.as_deref() {
                    Some("CUDA") => Device::Cuda,
                    Some("TensorRT") => Device::TensorRt,
                    Some(_) | None => Device::Cpu,
                };
            }
            "--fallback" => placement.fallback = Fallback::Cpu,
            path => match load(path, placement) {
                Ok(device) => println!("OK\t{path}\t{device}"),
                Err(error) => println!("{}\t{path}\t{}", error.reason(), error.to_string().replace('\n', " ")),
            },
        }
    }
}

fn load(path: &str, placement: Placement) -> Result<Device, LoadError> {
    let bytes = std::fs::read(path).map_err(|e| LoadError::Invalid(e.to_string()))?;
    let file = ModelFile::check(&bytes, None, Settings { placement, ..Settings::default() })?;
    Ok(file.open(LoadOptions::default())?.device())
}
