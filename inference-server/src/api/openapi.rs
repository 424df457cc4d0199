//! The OpenAPI document of the REST side, for people and generators of clients. Written here by hand beside the routes it describes; a test
//! holds it against them.

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    http::document,
    message::{SERVER_NAME, SERVER_VERSION},
};

/// One path of the protocol.
struct Route {
    method: Method,
    path: &'static str,
    summary: &'static str,
    /// Name of the schema of its answer.
    answer: &'static str,
}

const fn get(path: &'static str, summary: &'static str, answer: &'static str) -> Route {
    Route { method: Method::GET, path, summary, answer }
}

const fn post(path: &'static str, summary: &'static str, answer: &'static str) -> Route {
    Route { method: Method::POST, path, summary, answer }
}

const INFER: &str =
    "Run the model. With header Inference-Header-Content-Length the JSON is followed by binary tensors.";

/// All paths; those of a model are there with a version too.
const ROUTES: [Route; 14] = [
    get("/v2", "Name, version and extensions of the server.", "ServerMetadata"),
    get("/v2/health/live", "The process answers.", "Live"),
    get("/v2/health/ready", "Every model that is meant to be served can be asked.", "Ready"),
    get("/v2/models/{model}", "Inputs and outputs of a model.", "ModelMetadata"),
    get("/v2/models/{model}/ready", "The model can be asked.", "Ready"),
    get("/v2/models/{model}/config", "The model's configuration in Triton's terms.", "ModelConfig"),
    get("/v2/models/{model}/stats", "Counts and times of the model.", "Statistics"),
    post("/v2/models/{model}/infer", INFER, "InferResponse"),
    get("/v2/models/stats", "Counts and times of all models.", "Statistics"),
    post("/v2/repository/index", "Models of the repository and where they stand.", "RepositoryIndex"),
    post("/v2/repository/models/{model}/load", "Load a model, or load it anew.", "Empty"),
    post("/v2/repository/models/{model}/unload", "Stop serving a model.", "Empty"),
    get("/v2/openapi.json", "This document.", "Empty"),
    get("/openapi.json", "This document.", "Empty"),
];

const MODEL: &str = "/v2/models/{model}";

/// The whole document.
pub fn openapi() -> Value {
    let mut paths = Map::new();
    for route in &ROUTES {
        add(&mut paths, route.path, route);
        if let Some(rest) = route.path.strip_prefix(MODEL) {
            add(&mut paths, &format!("{MODEL}/versions/{{version}}{rest}"), route);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": SERVER_NAME,
            "version": SERVER_VERSION,
            "description": "The Open Inference Protocol, version 2, with the binary tensor data, classification, model configuration, model \
                repository and statistics extensions.",
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

fn add(paths: &mut Map<String, Value>, path: &str, route: &Route) {
    let parameters: Vec<Value> = ["model", "version"]
        .into_iter()
        .filter(|name| path.contains(&format!("{{{name}}}")))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": {"schema": reference(route.answer)}}},
            "default": {"description": "Not done, and why.", "content": {"application/json": {"schema": reference("Error")}}},
        },
    });
    if path.ends_with("/infer") {
        operation["requestBody"] = json!({
            "required": true,
            "content": {
                "application/json": {"schema": reference("InferRequest")},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        });
        operation["responses"]["200"]["content"]["application/octet-stream"] =
            json!({"schema": {"type": "string", "format": "binary"}});
        operation["responses"]["429"] =
            json!({"description": "The queue is full; header Retry-After says when to come back."});
    }
    let entry = paths.entry(path).or_insert_with(|| json!({}));
    entry[route.method.as_str().to_lowercase()] = operation;
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn schemas() -> Value {
    let datatypes: Vec<&str> = millrace_engine::Datatype::ALL.iter().map(|datatype| datatype.as_str()).collect();
    let text = json!({"type": "string"});
    let count = json!({"type": "integer", "minimum": 0});
    let shape = json!({"type": "array", "items": {"type": "integer", "format": "int64"}});
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties});
    let list = |name: &str| json!({"type": "array", "items": reference(name)});
    json!({
        "Datatype": {"type": "string", "enum": datatypes},
        "Parameters": {"type": "object", "additionalProperties": true},
        "Data": {
            "type": "array",
            "description": "Elements in row-major order, flat or nested as the shape. null is NaN in floating-point tensors. BF16 has no JSON form.",
        },
        "TensorMetadata": object(&["name", "datatype", "shape"], json!({"name": text, "datatype": reference("Datatype"), "shape": shape})),
        "ServerMetadata": object(&["name", "version", "extensions"], json!({
            "name": text, "version": text, "extensions": {"type": "array", "items": text},
        })),
        "Live": object(&["live"], json!({"live": {"type": "boolean"}})),
        "Ready": object(&["ready"], json!({"name": text, "ready": {"type": "boolean"}})),
        "ModelMetadata": object(&["name", "platform", "inputs", "outputs"], json!({
            "name": text, "versions": {"type": "array", "items": text}, "platform": text,
            "inputs": list("TensorMetadata"), "outputs": list("TensorMetadata"),
        })),
        "ModelConfig": {"type": "object"},
        "InferRequest": object(&["inputs"], json!({
            "id": text, "parameters": reference("Parameters"), "inputs": list("RequestInput"), "outputs": list("RequestOutput"),
        })),
        "RequestInput": object(&["name", "datatype", "shape"], json!({
            "name": text, "datatype": reference("Datatype"), "shape": shape, "parameters": reference("Parameters"), "data": reference("Data"),
        })),
        "RequestOutput": object(&["name"], json!({"name": text, "parameters": reference("Parameters")})),
        "InferResponse": object(&["model_name", "outputs"], json!({
            "model_name": text, "model_version": text, "id": text, "outputs": list("ResponseOutput"),
        })),
        "ResponseOutput": object(&["name", "datatype", "shape"], json!({
            "name": text, "datatype": reference("Datatype"), "shape": shape, "parameters": reference("Parameters"), "data": reference("Data"),
        })),
        "Duration": object(&["count", "ns"], json!({"count": count, "ns": count})),
        "Statistics": object(&["model_stats"], json!({"model_stats": {"type": "array", "items": {"type": "object"}}})),
        "RepositoryIndex": {"type": "array", "items": object(&["name", "state"], json!({
            "name": text, "version": text, "state": text, "reason": text,
        }))},
        "Empty": {"type": "object"},
        "Error": object(&["error"], json!({"error": text})),
    })
}

/// `GET /v2/openapi.json` and `/openapi.json`.
pub async fn serve() -> Response {
    document(StatusCode::OK, &openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of a document.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    match member {
                        Value::String(target) if name == "$ref" => found.push(target.clone()),
                        _ => references(member, found),
                    }
                }
            }
            Value::Array(elements) => elements.iter().for_each(|element| references(element, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let document = openapi();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 30);
        for target in found {
            assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
        }
    }

    #[test]
    fn paths_of_a_model_are_there_with_and_without_a_version() {
        let document = openapi();
        for path in ["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"] {
            assert!(document["paths"][path]["post"].is_object(), "{path}");
        }
        let versioned = &document["paths"]["/v2/models/{model}/versions/{version}/ready"]["get"];
        assert_eq!(versioned["parameters"].as_array().map(Vec::len), Some(2));
    }
}
