//! gRPC's reflection, in both of its versions: clients such as grpcurl ask for the messages in place of having them.

use tonic::service::RoutesBuilder;
use tonic_reflection::server::Builder;

/// Adds reflection. Descriptors that cannot be read, which a test would show, leave it out.
pub fn add(routes: &mut RoutesBuilder) {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(super::pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(first), Ok(older)) => _ = routes.add_service(first).add_service(older),
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "no reflection"),
    }
}
