//! gRPC's own health service: the process by the empty name, the inference service by its name, and each model by its own. Whoever watches one
//! is told that the server is stopping, which is the last thing to tell: the call ends, as the server could not while it lasts.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

use super::http::Api;
use crate::errors::Reason;

/// Name of the service whose health is that of the process.
const SERVICE: &str = "inference.GRPCInferenceService";
/// How often a watched name is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Health by what the models say.
#[derive(Clone, Debug)]
pub struct ModelHealth(pub Arc<Api>);

impl ModelHealth {
    fn of(&self, service: &str) -> ServingStatus {
        let status = &self.0.status;
        let serves = match service {
            "" | SERVICE => status.is_ready(),
            model => match status.models().find(model, None) {
                Ok(_) => !status.is_stopping(),
                Err(refusal) if refusal.reason == Reason::UnknownModel => return ServingStatus::ServiceUnknown,
                Err(_) => false,
            },
        };
        if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
    }
}

type Watched = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for ModelHealth {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match self.of(&service) {
            ServingStatus::ServiceUnknown => {
                Err(Status::not_found(format!("there is no service or model {service:?}")))
            }
            known => Ok(Response::new(response(known))),
        }
    }

    type WatchStream = Watched;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watched>, Status> {
        let (health, service) = (self.clone(), request.into_inner().service);
        let changes = stream::unfold(None, move |last| {
            let (health, service) = (health.clone(), service.clone());
            async move {
                loop {
                    let is_last = health.0.status.is_stopping();
                    let now = health.of(&service);
                    if last != Some(now) {
                        return Some((Ok(response(now)), Some(now)));
                    }
                    if is_last {
                        return None;
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
