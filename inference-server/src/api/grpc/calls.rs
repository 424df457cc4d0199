//! The calls of the inference service, each from its message to the answer's.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use http::HeaderMap;
use tonic::{Request, Response, Status, Streaming};

use super::{Service, infer::Said, status, version};
use crate::{
    api::{
        config,
        message::{EXTENSIONS, PLATFORM, SERVER_NAME, SERVER_VERSION},
        pb::{self, grpc_inference_service_server::GrpcInferenceService},
        statistics,
    },
    errors::{Reason, Refusal},
    limits::Flow,
};

/// Requests of one stream that are worked on at the same time.
const STREAMED: usize = 8;

/// What a call holds, as [`super::Grpc`] noted it.
fn flow_of<T>(request: &Request<T>) -> Option<Arc<Flow>> {
    request.extensions().get().cloned()
}

type Answers = Pin<Box<dyn Stream<Item = Result<pb::ModelStreamInferResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<pb::ServerLiveRequest>) -> Result<Response<pb::ServerLiveResponse>, Status> {
        Ok(Response::new(pb::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<pb::ServerReadyRequest>,
    ) -> Result<Response<pb::ServerReadyResponse>, Status> {
        Ok(Response::new(pb::ServerReadyResponse { ready: self.api.status.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<pb::ModelReadyRequest>,
    ) -> Result<Response<pb::ModelReadyResponse>, Status> {
        let pb::ModelReadyRequest { name, version } = request.into_inner();
        match self.find(&name, &version) {
            Err(refusal) if refusal.reason == Reason::UnknownModel => Err(status(&refusal)),
            found => {
                let ready = found.is_ok() && !self.api.status.is_stopping();
                Ok(Response::new(pb::ModelReadyResponse { ready }))
            }
        }
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Result<Response<pb::ServerMetadataResponse>, Status> {
        Ok(Response::new(pb::ServerMetadataResponse {
            name: SERVER_NAME.to_owned(),
            version: SERVER_VERSION.to_owned(),
            extensions: EXTENSIONS.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Result<Response<pb::ModelMetadataResponse>, Status> {
        let pb::ModelMetadataRequest { name, version } = request.into_inner();
        let serving = self.find(&name, &version).map_err(|refusal| status(&refusal))?;
        let tensor = |spec: &millrace_contract::model::TensorSpec| pb::model_metadata_response::TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.datatype.clone(),
            shape: spec.shape.clone(),
        };
        let tensors = serving.door.tensors();
        Ok(Response::new(pb::ModelMetadataResponse {
            name: serving.name.to_string(),
            versions: self.api.status.models().versions(&name).iter().map(ToString::to_string).collect(),
            platform: PLATFORM.to_owned(),
            inputs: tensors.inputs.iter().map(tensor).collect(),
            outputs: tensors.outputs.iter().map(tensor).collect(),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<pb::ModelInferRequest>,
    ) -> Result<Response<pb::ModelInferResponse>, Status> {
        let flow = flow_of(&request);
        let (metadata, _, message) = request.into_parts();
        self.call(message, metadata, flow.as_deref()).await.map(Response::new)
    }

    type ModelStreamInferStream = Answers;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<pb::ModelInferRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (service, flow) = (self.clone(), flow_of(&request));
        let said = Said::of_stream(request.metadata());
        let answers = request.into_inner().map(move |message| {
            let (service, flow) = (service.clone(), flow.clone());
            async move {
                let message = message?;
                let _held = flow.as_deref().map(Flow::message);
                let id = message.id.clone();
                let begun = service.api.beside.telemetry.begin(&HeaderMap::new());
                Ok(match service.infer(message, said, begun, flow.as_deref()).await {
                    Ok(response) => {
                        pb::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
                    }
                    // The identifier tells the client which of its requests failed.
                    Err(status) => pb::ModelStreamInferResponse {
                        error_message: status.message().to_owned(),
                        infer_response: Some(pb::ModelInferResponse { id, ..pb::ModelInferResponse::default() }),
                    },
                })
            }
        });
        Ok(Response::new(Box::pin(answers.buffered(STREAMED))))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Result<Response<pb::ModelConfigResponse>, Status> {
        let pb::ModelConfigRequest { name, version } = request.into_inner();
        let serving = self.find(&name, &version).map_err(|refusal| status(&refusal))?;
        Ok(Response::new(pb::ModelConfigResponse { config: Some(config::of(&serving)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<pb::ModelStatisticsRequest>,
    ) -> Result<Response<pb::ModelStatisticsResponse>, Status> {
        let pb::ModelStatisticsRequest { name, version: asked } = request.into_inner();
        let found = statistics::of(self.api.status.models(), version(&name), version(&asked));
        let model_stats = found.map_err(|refusal| status(&refusal))?.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<pb::RepositoryIndexRequest>,
    ) -> Result<Response<pb::RepositoryIndexResponse>, Status> {
        let entries = self.api.status.models().index(request.into_inner().ready).await.map_err(|e| status(&e))?;
        let models = entries.into_iter().map(|entry| pb::repository_index_response::ModelIndex {
            name: entry.name.to_string(),
            version: entry.version.as_deref().unwrap_or_default().to_owned(),
            state: entry.state.to_owned(),
            reason: entry.reason,
        });
        Ok(Response::new(pb::RepositoryIndexResponse { models: models.collect() }))
    }

    async fn repository_model_load(
        &self,
        request: Request<pb::RepositoryModelLoadRequest>,
    ) -> Result<Response<pb::RepositoryModelLoadResponse>, Status> {
        let pb::RepositoryModelLoadRequest { model_name, parameters, .. } = request.into_inner();
        if let Some(parameter) = parameters.keys().find(|name| *name == "config" || name.starts_with("file:")) {
            let message =
                format!("parameter {parameter:?}: models are loaded as the repository holds them; change them there");
            return Err(status(&Refusal::new(Reason::Unsupported, message)));
        }
        self.api.status.models().load(&model_name).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(pb::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<Response<pb::RepositoryModelUnloadResponse>, Status> {
        let name = request.into_inner().model_name;
        self.api.status.models().unload(&name).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(pb::RepositoryModelUnloadResponse {}))
    }
}
