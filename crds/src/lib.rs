//! The four kinds of `millrace.dev/v1alpha1`: types, defaults, CEL rules, and the constants of labels, conditions and reasons.
//!
//! No client, no clock. `crdgen` writes `crds/manifests/` from here; the samples in `crds/samples/` prove the rules.
//! Fields are only ever added: a released field keeps its name, type and meaning. One was renamed before the first release, as it never
//! worked: `InferenceService.spec.fallback.on` is `when` (kubectl and Helm read a key `on` as `true`).

pub mod common;
pub mod conditions;
pub mod dataset;
pub mod inference_service;
pub mod labels;
pub mod manifests;
pub mod model_version;
pub mod quantity;
pub mod training_job;

pub use dataset::{Dataset, DatasetSpec, DatasetStatus};
pub use inference_service::{InferenceService, InferenceServiceSpec, InferenceServiceStatus};
pub use model_version::{ModelVersion, ModelVersionSpec, ModelVersionStatus};
pub use training_job::{TrainingJob, TrainingJobSpec, TrainingJobStatus};
