//! `inference-server inspect`: what a model file takes and gives, and a request for it that was tried out before it is printed.

use std::{fmt::Write as _, path::Path};

use bytes::Bytes;
use millrace_contract::{
    model::{MAX_MODEL_BYTES, TensorSpec, Tensors},
    server::Batching,
};
use millrace_engine::{Data, Datatype, LoadOptions, ModelFile, NamedTensor, RunError, Settings, Tensor, element_count};

use crate::{load::STORE_PREFIX, rows::Sharing, status::Trouble};

/// Elements above which a sample is made by a shell pipeline in place of being written out.
const WRITTEN_OUT: usize = 256;

/// The page about a model: a file, or a URI of one.
///
/// # Errors
/// Why it cannot be read or is no model that can be served.
pub async fn inspect(model: &str) -> Result<String, Trouble> {
    let (bytes, settings) = read(model).await?;
    let name = Path::new(model).file_stem().map_or("model".into(), |stem| stem.to_string_lossy().into_owned());
    let source = model.to_owned();
    let page = move || page(&source, &name, &bytes, settings);
    tokio::task::spawn_blocking(page).await.map_err(|e| Trouble::new("Internal", e))?
}

async fn read(model: &str) -> Result<(Bytes, Settings), Trouble> {
    if model.contains("://") {
        let told = |e: millrace_store::Error| Trouble::new(e.reason(), e);
        let location = millrace_store::open(model, STORE_PREFIX).map_err(told)?;
        let bytes = location.get_in_parts(MAX_MODEL_BYTES, millrace_store::Parts::default()).await.map_err(told)?;
        return Ok((bytes, Settings::default()));
    }
    let unreadable = |e| Trouble::new("NotFound", format!("cannot read {model}: {e}"));
    let path = Path::new(model).canonicalize().map_err(unreadable)?;
    let bytes = tokio::fs::read(&path).await.map_err(unreadable)?;
    Ok((bytes.into(), Settings { folder: path.parent().map(Path::to_path_buf), ..Settings::default() }))
}

fn page(source: &str, name: &str, bytes: &[u8], settings: Settings) -> Result<String, Trouble> {
    let told = |e: millrace_engine::LoadError| Trouble::new(e.reason(), e);
    let file = ModelFile::check(bytes, None, settings).map_err(told)?;
    let mut model = file.open(LoadOptions::default()).map_err(told)?;
    let tensors = model.tensors().clone();
    let mut page = format!("{source}\n  digest  {}\n  bytes   {}\n", model.digest(), bytes.len());
    table("inputs", &tensors.inputs, &mut page);
    if !model.optional_inputs().is_empty() {
        table("inputs that may be left out", model.optional_inputs(), &mut page);
    }
    table("outputs", &tensors.outputs, &mut page);
    let serve = if source.contains("://") {
        format!(
            "serve --config FILE   # models: [{{name: {name}, artifact: {{uri: {source}, digest: {}}}}}]",
            model.digest()
        )
    } else {
        format!("serve {source}")
    };
    _ = writeln!(page, "serve it\n  inference-server {serve}");
    _ = writeln!(page, "batching\n  {}", Sharing::of(&mut model, Batching::default().max_size).sentence());
    let sample = sample(&tensors);
    match sample.as_deref().map(|sample| model.run(sample)) {
        Some(Ok(_)) => {}
        Some(Err(RunError::Model(why))) => {
            _ = writeln!(
                page,
                "  # The model refuses zeros ({}): put values of yours into the request.",
                one_line(&why)
            );
        }
        Some(Err(_)) | None => _ = writeln!(page, "  # The inputs are too large for a sample to be tried out."),
    }
    let asked = match tensors.inputs.iter().find(|spec| spec.datatype.parse::<Datatype>().ok() == Some(Datatype::Bf16))
    {
        Some(spec) => {
            format!("# Input {} is BF16, which has no JSON form: send it as binary data or over gRPC.", spec.name)
        }
        None => request(name, &tensors),
    };
    _ = writeln!(page, "ask it\n  {asked}");
    Ok(page)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn table(title: &str, specs: &[TensorSpec], page: &mut String) {
    let width = specs.iter().map(|spec| spec.name.len()).max().unwrap_or_default();
    _ = writeln!(page, "{title}");
    for TensorSpec { name, datatype, shape } in specs {
        _ = writeln!(page, "  {name:width$}  {datatype:6}  {shape:?}");
    }
}

/// A shape with its open dimensions taken as 1.
fn closed(spec: &TensorSpec) -> Vec<i64> {
    spec.shape.iter().map(|&dimension| if dimension < 0 { 1 } else { dimension }).collect()
}

fn sample(tensors: &Tensors) -> Option<Vec<NamedTensor>> {
    let of = |spec: &TensorSpec| {
        let shape = closed(spec);
        let datatype: Datatype = spec.datatype.parse().ok()?;
        let count = element_count(&shape).filter(|&count| count <= 1 << 26)?;
        Some(NamedTensor { name: spec.name.clone(), tensor: Tensor { shape, data: Data::zeros(datatype, count) } })
    };
    tensors.inputs.iter().map(of).collect()
}

/// A command for a shell that asks a server on this machine.
fn request(name: &str, tensors: &Tensors) -> String {
    let url = format!("localhost:8080/v2/models/{name}/infer");
    let counts: Vec<usize> =
        tensors.inputs.iter().map(|spec| element_count(&closed(spec)).unwrap_or_default()).collect();
    if counts.iter().sum::<usize>() <= WRITTEN_OUT {
        let inputs: Vec<String> = tensors
            .inputs
            .iter()
            .zip(&counts)
            .map(|(spec, &count)| format!("{}[{}]}}", head(spec), vec![zero(spec); count].join(", ")))
            .collect();
        let body = format!(r#"{{"inputs": [{}]}}"#, inputs.join(", "));
        return format!("curl -s {url} -d {}", quoted(&body));
    }
    let mut steps = vec!["printf '{\"inputs\": ['".to_owned()];
    for (index, (spec, count)) in tensors.inputs.iter().zip(&counts).enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        steps.push(format!("printf %s {}", quoted(&format!("{comma}{}[", head(spec)))));
        if *count > 0 {
            steps.push(format!("yes {} | head -n {count} | paste -sd, -", quoted(zero(spec))));
        }
        steps.push("printf ']}'".to_owned());
    }
    steps.push("printf ']}'".to_owned());
    format!("{{ {}; }} | curl -s {url} -d @-", steps.join("; "))
}

fn head(spec: &TensorSpec) -> String {
    let name = serde_json::Value::from(spec.name.as_str());
    format!(r#"{{"name": {name}, "shape": {:?}, "datatype": "{}", "data": "#, closed(spec), spec.datatype)
}

fn zero(spec: &TensorSpec) -> &'static str {
    match spec.datatype.as_str() {
        "BOOL" => "false",
        "BYTES" => "\"\"",
        "FP16" | "BF16" | "FP32" | "FP64" => "0.0",
        _ => "0",
    }
}

/// In single quotes, as a shell reads it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, datatype: &str, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: datatype.into(), shape: shape.into() }
    }

    #[test]
    fn a_small_request_is_written_out_for_every_kind_of_element() {
        let tensors = Tensors {
            inputs: vec![tensor("x", "FP32", &[-1, 2]), tensor("it's", "BYTES", &[1]), tensor("n", "INT64", &[])],
            outputs: Vec::new(),
        };
        assert_eq!(
            request("m", &tensors),
            r#"curl -s localhost:8080/v2/models/m/infer -d '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.0, 0.0]}, {"name": "it'\''s", "shape": [1], "datatype": "BYTES", "data": [""]}, {"name": "n", "shape": [], "datatype": "INT64", "data": [0]}]}'"#
        );
    }

    #[test]
    fn a_large_request_is_made_by_a_pipeline_whose_output_is_the_request() {
        let tensors = Tensors {
            inputs: vec![tensor("image", "FP32", &[-1, 3, 20, 20]), tensor("empty", "INT64", &[0])],
            outputs: Vec::new(),
        };
        let command = request("m", &tensors);
        let (make, send) = command.split_once(" | curl").unwrap();
        assert_eq!(send, " -s localhost:8080/v2/models/m/infer -d @-");
        let made = std::process::Command::new("sh").args(["-c", make]).output().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        assert_eq!(body["inputs"][0]["data"].as_array().unwrap().len(), 1200);
        assert_eq!(
            (&body["inputs"][0]["shape"], &body["inputs"][1]["data"]),
            (&serde_json::json!([1, 3, 20, 20]), &serde_json::json!([]))
        );
    }
}
