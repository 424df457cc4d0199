//! Compiles `proto/` in Rust alone: messages and service, and the descriptors that reflection answers with.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/open_inference.proto");
    let descriptors = protox::compile(["proto/open_inference.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("open_inference.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        .bytes(".inference.InferTensorContents.bytes_contents")
        .codec_path("crate::api::codec::GuardedCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
