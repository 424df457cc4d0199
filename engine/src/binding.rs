//! Runs on a device through ONNX Runtime's I/O binding: inputs are staged in memory that the device can fetch from (pinned), outputs come
//! back into such memory, and for recorded graphs both lie at one place on the device from run to run.
//!
//! The tests run these paths with the CPU as the device. On a GPU they have not been run: figures and faults there are unknown.

use std::fmt;

use millrace_contract::placement::Device;
use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::{IoBinding, Session},
    value::{DynTensor, DynTensorValueType},
};

use crate::{
    Data, NamedTensor, RunError, Tensor,
    slots::{put, whole},
};

/// Which memory the sides of a copy are in.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    host: AllocationDevice<'static>,
    device: AllocationDevice<'static>,
    id: i32,
}

impl Memory {
    pub fn of(device: Device, id: u32) -> Self {
        let id = i32::try_from(id).unwrap_or(i32::MAX);
        match device {
            Device::Cpu => Self { host: AllocationDevice::CPU, device: AllocationDevice::CPU, id: 0 },
            Device::Cuda | Device::TensorRt => {
                Self { host: AllocationDevice::CUDA_PINNED, device: AllocationDevice::CUDA, id }
            }
        }
    }

    fn info(&self, on_device: bool, kind: MemoryType) -> ort::Result<MemoryInfo<'static>> {
        let place = if on_device { &self.device } else { &self.host };
        MemoryInfo::new(place.clone(), self.id, AllocatorType::Device, kind)
    }
}

/// A binding for the shapes that were last run.
pub(crate) struct Bound {
    binding: IoBinding,
    shapes: Vec<Vec<i64>>,
    staged: Vec<DynTensor>,
    /// Inputs and outputs on the device, where graphs are recorded.
    resident: Option<Resident>,
}

struct Resident {
    inputs: Vec<DynTensor>,
    outputs: Vec<DynTensor>,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("shapes", &self.shapes).finish_non_exhaustive()
    }
}

/// Whether a binding can hold these: numbers that fill their shapes.
pub(crate) fn can_bind(inputs: &[NamedTensor]) -> bool {
    inputs.iter().all(|input| whole(&input.tensor).is_some())
}

impl Bound {
    /// A binding for inputs of these shapes. With `outputs`, the shapes that the outputs always have, all stay on the device.
    pub fn new(
        session: &Session,
        memory: &Memory,
        inputs: &[NamedTensor],
        outputs: Option<&[(String, Tensor)]>,
    ) -> ort::Result<Self> {
        let mut binding = session.create_binding()?;
        let host = Allocator::new(session, memory.info(false, MemoryType::CPUInput)?)?;
        let mut staged = Vec::with_capacity(inputs.len());
        for input in inputs {
            staged.push(like(&host, &input.tensor)?);
        }
        let mut resident = None;
        match outputs {
            None => {
                for output in session.outputs() {
                    binding.bind_output_to_device(output.name(), &memory.info(false, MemoryType::CPUOutput)?)?;
                }
            }
            Some(outputs) => {
                let device = Allocator::new(session, memory.info(true, MemoryType::Default)?)?;
                let mut there = Resident { inputs: Vec::new(), outputs: Vec::new() };
                for input in inputs {
                    let place = like(&device, &input.tensor)?;
                    binding.bind_input(input.name.as_str(), &place)?;
                    there.inputs.push(place);
                }
                for (name, tensor) in outputs {
                    let mut place = like(&device, tensor)?;
                    binding.bind_output(name.as_str(), &mut place)?;
                    there.outputs.push(place);
                }
                resident = Some(there);
            }
        }
        let shapes = inputs.iter().map(|input| input.tensor.shape.clone()).collect();
        Ok(Self { binding, shapes, staged, resident })
    }

    /// Made for inputs of these shapes.
    pub fn fits(&self, inputs: &[NamedTensor]) -> bool {
        self.shapes.len() == inputs.len()
            && self.shapes.iter().zip(inputs).all(|(shape, input)| *shape == input.tensor.shape)
    }

    pub fn run(&mut self, session: &mut Session, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        let failed = |e: ort::Error| RunError::Model(e.to_string());
        for (at, input) in inputs.iter().enumerate() {
            put(&mut self.staged[at], &input.tensor.data)?;
            match &mut self.resident {
                // Binding starts the copy to the device.
                None => self.binding.bind_input(input.name.as_str(), &self.staged[at]).map_err(failed)?,
                Some(resident) => self.staged[at].copy_into(&mut resident.inputs[at]).map_err(failed)?,
            }
        }
        self.binding.synchronize_inputs().map_err(failed)?;
        let outputs = session.run_binding(&self.binding).map_err(failed)?;
        self.binding.synchronize_outputs().map_err(failed)?;
        let mut read = Vec::with_capacity(outputs.len());
        for (at, (name, value)) in outputs.iter().enumerate() {
            let tensor = match &self.resident {
                None => Tensor::from_ort(name, &value)?,
                Some(resident) => {
                    let back = resident.outputs[at].to(AllocationDevice::CPU, 0).map_err(failed)?;
                    Tensor::from_ort::<DynTensorValueType>(name, &back)?
                }
            };
            read.push(NamedTensor { name: name.to_owned(), tensor });
        }
        Ok(read)
    }
}

fn like(allocator: &Allocator, tensor: &Tensor) -> ort::Result<DynTensor> {
    DynTensor::new(allocator, tensor.data.datatype().to_ort(), tensor.shape.clone())
}

/// A tensor of a shape without elements in it, to tell type and shape.
pub(crate) fn outline(shape: &[i64], datatype: crate::Datatype) -> Tensor {
    Tensor { shape: shape.to_vec(), data: Data::with_capacity(datatype, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Datatype, LoadOptions, ModelFile, Placement, Settings};

    fn session(name: &str) -> Session {
        let path = format!("{}/tests/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).unwrap();
        let file = ModelFile::check(&bytes, None, Settings::default()).unwrap();
        file.session(LoadOptions::default(), &Placement::default()).unwrap()
    }

    fn named(name: &str, shape: &[i64], data: Data) -> NamedTensor {
        NamedTensor { name: name.into(), tensor: Tensor { shape: shape.to_vec(), data } }
    }

    #[test]
    fn staged_inputs_and_outputs_of_any_shape_give_the_plain_answers() {
        let mut session = session("regressor");
        let memory = Memory::of(Device::Cpu, 0);
        let input = |a: f32| vec![named("X", &[2, 2], Data::Fp32(vec![a, 0.0, 0.0, 1.0]))];
        let mut bound = Bound::new(&session, &memory, &input(0.0), None).unwrap();
        assert!(bound.fits(&input(1.0)) && !bound.fits(&[named("X", &[1, 2], Data::Fp32(vec![0.0; 2]))]));
        for a in [1.0, 2.0, 3.0] {
            let expected = named("variable", &[2, 1], Data::Fp32(vec![3.0 * a + 0.5, -0.5]));
            assert_eq!(bound.run(&mut session, &input(a)).unwrap(), [expected]);
        }
    }

    #[test]
    fn what_stays_on_the_device_is_filled_and_read_at_one_place() {
        let mut session = session("fixed");
        let input = |a: f32| vec![named("X", &[2, 2], Data::Fp32(vec![a, 1.0, 2.0, 3.0]))];
        let outputs = [("variable".to_owned(), outline(&[2, 1], Datatype::Fp32))];
        let mut bound = Bound::new(&session, &Memory::of(Device::Cpu, 0), &input(0.0), Some(&outputs)).unwrap();
        for a in [10.0, 20.0] {
            let expected = named("variable", &[2, 1], Data::Fp32(vec![a + 1.0, 5.0]));
            assert_eq!(bound.run(&mut session, &input(a)).unwrap(), [expected]);
        }
    }

    #[test]
    fn texts_and_unfilled_shapes_are_not_bound() {
        assert!(!can_bind(&[named("X", &[1], Data::Bytes(vec!["a".into()]))]));
        assert!(!can_bind(&[named("X", &[2], Data::Fp32(vec![1.0]))]));
        assert!(can_bind(&[named("X", &[1], Data::Fp16(vec![half::f16::ONE]))]));
    }
}
