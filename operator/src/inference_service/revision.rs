//! What a revision is: a hash of model digest, server block and server image. Pure.
//!
//! An operator upgrade that brings another server image changes no running revision: as long as model and server block are those
//! of a revision that is there, its recorded image is kept, and with it the hash.

use millrace_contract::Digest;
use millrace_crds::{
    ModelVersion,
    inference_service::{InferenceServiceStatus, RevisionStatus, Server},
};
use serde::Serialize;

use super::pair::named_revisions;
use crate::names::short_hash;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    digest: &'a Digest,
    server: &'a Server,
    image: &'a str,
}

/// The hash of a revision, eight hex digits.
pub fn hash(digest: &Digest, server: &Server, image: &str) -> String {
    short_hash(&Identity { digest, server, image })
}

/// A revision that the spec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// ModelVersion it serves.
    pub model_version: String,
    /// Its hash.
    pub hash: String,
    /// Server image it is pinned to.
    pub image: String,
    /// Digest of the model.
    pub digest: Digest,
}

impl Revision {
    /// The revision that serves `version` with this server block: one that is there already keeps its image, a new one is
    /// pinned to `new_image`.
    pub fn of(version: &ModelVersion, server: &Server, status: &InferenceServiceStatus, new_image: &str) -> Self {
        let digest = &version.spec.artifact.digest;
        let kept = named_revisions(status)
            .filter(|known| hash(digest, server, &known.image) == known.revision)
            .map(|known| &*known.image)
            .next();
        let image = kept.unwrap_or(new_image);
        Self {
            model_version: version.metadata.name.clone().unwrap_or_default(),
            hash: hash(digest, server, image),
            image: image.to_owned(),
            digest: digest.clone(),
        }
    }

    /// Its first entry in status.
    pub fn recorded(&self) -> RevisionStatus {
        RevisionStatus {
            model_version: self.model_version.clone(),
            revision: self.hash.clone(),
            image: self.image.clone(),
            digest: Some(self.digest.clone()),
            ..RevisionStatus::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_contract::server_options::AccessLog;

    use super::*;
    use crate::inference_service::fixtures::model_version;

    fn serving(version: &ModelVersion, image: &str) -> InferenceServiceStatus {
        let stable = Revision::of(version, &Server::default(), &InferenceServiceStatus::default(), image).recorded();
        InferenceServiceStatus { stable: Some(stable), ..InferenceServiceStatus::default() }
    }

    #[test]
    fn the_hash_knows_model_server_block_and_image() {
        let digest = Digest::of("model");
        let other_server = Server { concurrency: 2, ..Server::default() };
        let logging = Server { access_log: Some(AccessLog { sample_rate: 1.0 }), ..Server::default() };
        let base = hash(&digest, &Server::default(), "server:1");
        assert_eq!(base.len(), 8);
        assert_ne!(base, hash(&Digest::of("other"), &Server::default(), "server:1"));
        assert_ne!(base, hash(&digest, &other_server, "server:1"));
        assert_ne!(base, hash(&digest, &logging, "server:1"));
        assert_ne!(base, hash(&digest, &Server::default(), "server:2"));
        assert_eq!(base, hash(&digest, &Server::default(), "server:1"));
    }

    #[test]
    fn a_field_of_the_server_block_that_nobody_set_is_not_in_the_hash() {
        // The order is part of it, too.
        let batching = r#"{"maxSize":32,"maxDelayMicroseconds":0}"#;
        let queue = r#"{"maxRequests":512,"timeoutMilliseconds":5000}"#;
        let first_release = format!(r#"{{"batching":{batching},"queue":{queue},"concurrency":1}}"#);
        let now = serde_json::to_string(&Server::default()).unwrap();
        assert_eq!(now, first_release, "an upgrade would roll every service out anew");
    }

    #[test]
    fn an_upgrade_of_the_operator_leaves_a_running_revision_as_it_is() {
        let version = model_version("fraud", 1);
        let status = serving(&version, "server:1");
        let wanted = Revision::of(&version, &Server::default(), &status, "server:2");
        assert_eq!(wanted.recorded(), status.stable.unwrap());
    }

    #[test]
    fn a_changed_server_block_takes_the_new_image() {
        let version = model_version("fraud", 1);
        let status = serving(&version, "server:1");
        let wanted = Revision::of(&version, &Server { concurrency: 2, ..Server::default() }, &status, "server:2");
        assert_eq!(wanted.image, "server:2");
    }

    #[test]
    fn a_new_model_takes_the_new_image() {
        let status = serving(&model_version("fraud", 1), "server:1");
        let wanted = Revision::of(&model_version("fraud", 2), &Server::default(), &status, "server:2");
        assert_eq!((wanted.image.as_str(), wanted.model_version.as_str()), ("server:2", "fraud-2"));
    }
}
