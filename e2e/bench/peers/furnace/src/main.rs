//! furnace-server over one ONNX model of one FP32 input and one FP32 output: furnace-peer MODEL NAME HTTP_PORT GRPC_PORT BATCH.
//! Runs take their session from a mutex, as its engine trait runs by shared reference.

use std::{env, sync::Mutex, time::Duration};

use furnace::{DataType, HostTensor, IoSpec, Model, ModelError, Server, TensorModel, Values};
use ort::{
    session::Session,
    value::{TensorRef, ValueType},
};

#[derive(Debug)]
struct Onnx {
    name: String,
    session: Mutex<Session>,
    input: IoSpec,
    output: IoSpec,
}

fn spec(name: &str, value: &ValueType) -> IoSpec {
    let ValueType::Tensor { shape, .. } = value else { panic!("{name} is no tensor") };
    let open: Vec<Option<usize>> = shape.iter().skip(1).map(|&d| usize::try_from(d).ok()).collect();
    IoSpec::new(name, DataType::Fp32, &open)
}

impl TensorModel for Onnx {
    fn name(&self) -> &str {
        &self.name
    }

    fn backend(&self) -> &str {
        "onnxruntime"
    }

    fn inputs(&self) -> Vec<IoSpec> {
        vec![self.input.clone()]
    }

    fn outputs(&self) -> Vec<IoSpec> {
        vec![self.output.clone()]
    }

    fn run(&self, inputs: Vec<HostTensor>) -> furnace::Result<Vec<HostTensor>> {
        let failed = |error: ort::Error| ModelError::InferenceFailed(error.to_string());
        let [HostTensor { shape, values: Values::F32(data) }] = inputs.as_slice() else {
            return Err(ModelError::InferenceFailed("one FP32 input is taken".to_owned()).into());
        };
        let input = TensorRef::from_array_view((shape.clone(), data.as_slice())).map_err(failed)?;
        let mut session = self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let outputs = session.run(ort::inputs![self.input.name.as_str() => input]).map_err(failed)?;
        let (shape, data) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        let shape = shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
        Ok(vec![HostTensor { shape, values: Values::F32(data.to_vec()) }])
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path, name, http, grpc, batch] = arguments.as_slice() else {
        return Err("furnace-peer MODEL NAME HTTP_PORT GRPC_PORT BATCH".into());
    };
    let environment = ort::init().build()?;
    let session = Session::builder(&environment)?.with_intra_threads(1)?.commit_from_file(path)?;
    let input = spec(session.inputs()[0].name(), session.inputs()[0].dtype());
    let output = spec(session.outputs()[0].name(), session.outputs()[0].dtype());
    let model = Model::custom(Onnx { name: name.clone(), session: Mutex::new(session), input, output });
    let (http, grpc, batch) = (http.parse()?, grpc.parse()?, batch.parse()?);
    let server = Server::new().host("127.0.0.1").port(http).max_batch_size(batch).request_timeout(Duration::from_secs(10));
    let server = server.configure(|config| {
        config.grpc_port = Some(grpc);
        config.max_concurrent_requests = 4096;
    });
    server.model(model).serve().await?;
    Ok(())
}
