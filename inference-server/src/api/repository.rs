//! The model-repository extension over REST: what there is, load, unload. Off unless the configuration says `repository.control: Explicit`,
//! as whoever can reach the port could otherwise change what it serves.

use std::sync::Arc;

use axum::{
    Router,
    body::to_bytes,
    extract::{Path, Request, State},
    response::Response,
    routing::post,
};
use http::StatusCode;
use serde::Deserialize;

use super::http::{Api, document, refused};
use crate::errors::{Reason, Refusal};

/// Largest body of these requests, bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Name of the extension in the server's metadata.
pub const EXTENSION: &str = "model_repository";

/// The paths of the extension.
pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
}

/// What an index is asked for.
#[derive(Debug, Default, Deserialize)]
struct IndexRequest {
    /// Only what answers.
    #[serde(default)]
    ready: bool,
}

/// What may be said with a load or an unload.
#[derive(Debug, Default, Deserialize)]
struct ModelRequest {
    #[serde(default)]
    parameters: serde_json::Map<String, serde_json::Value>,
}

impl ModelRequest {
    /// A client may choose what is loaded, not what it is made of.
    fn supported(&self) -> Result<(), Refusal> {
        let unknown = self.parameters.keys().find(|name| *name == "config" || name.starts_with("file:"));
        unknown.map_or(Ok(()), |name| {
            let message =
                format!("parameter {name:?}: models are loaded as the repository holds them; change them there");
            Err(Refusal::new(Reason::Unsupported, message))
        })
    }
}

async fn body<T: Default + for<'de> Deserialize<'de>>(request: Request) -> Result<T, Refusal> {
    let bytes = to_bytes(request.into_body(), MAX_BODY_BYTES)
        .await
        .map_err(|e| Refusal::new(Reason::BodyTooLarge, format!("the body could not be read: {e}")))?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| Refusal::new(Reason::InvalidRequest, format!("the body is no repository request: {e}")))
}

async fn index(State(api): State<Arc<Api>>, request: Request) -> Response {
    let rows = async {
        let IndexRequest { ready } = body(request).await?;
        api.status.models().index(ready).await
    };
    match rows.await {
        Ok(rows) => document(StatusCode::OK, &rows),
        Err(refusal) => refused(&refusal),
    }
}

async fn load(State(api): State<Arc<Api>>, Path(model): Path<String>, request: Request) -> Response {
    let loaded = async {
        body::<ModelRequest>(request).await?.supported()?;
        api.status.models().load(&model).await
    };
    done(loaded.await)
}

async fn unload(State(api): State<Arc<Api>>, Path(model): Path<String>, request: Request) -> Response {
    let unloaded = async {
        body::<ModelRequest>(request).await?;
        api.status.models().unload(&model).await
    };
    done(unloaded.await)
}

fn done(result: Result<(), Refusal>) -> Response {
    match result {
        Ok(()) => document(StatusCode::OK, &serde_json::Map::new()),
        Err(refusal) => refused(&refusal),
    }
}
