//! The file that may name another model than the configuration's own (`modelFile`): read at the start, then looked at again and again. What
//! it names is loaded beside what answers, answers, and only then does the former go. An operator so swaps the model of a running pod.

use std::{
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use millrace_contract::{
    server::{ServedModel, ServerConfig},
    sketch::RefusedModel,
};
use tokio::time::Instant;

use super::{FIRST_PAUSE, Key, Models, Spec, Standing, loading, longer};
use crate::{config, load::Failure, schema, status::Trouble};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the file says.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    /// This is served.
    Model(Box<Spec>),
    /// Nothing that could be served: what is served stays.
    Unreadable(String),
}

/// A model that could not be loaded.
#[derive(Debug)]
struct Failed {
    spec: Box<Spec>,
    /// When it is tried again; never, where that would not help.
    again: Option<Instant>,
    pause: Duration,
}

impl Failed {
    fn is_left_alone(&self, spec: &Spec) -> bool {
        *self.spec == *spec && self.again.is_none_or(|again| Instant::now() < again)
    }
}

/// What a text means beside this configuration: nothing means the configuration's own model.
fn meaning(text: &str, own: &ServedModel, config: &ServerConfig, origin: &str) -> Told {
    if text.trim().is_empty() {
        return Told::Model(Box::new(Spec::of(own, config)));
    }
    let model: ServedModel = match config::told(text, origin, &schema::served_model()) {
        Ok(model) => model,
        Err(why) => return Told::Unreadable(why),
    };
    if model.name != own.name {
        let why = format!("it names model {:?}, and clients of this server know {:?} only", model.name, own.name);
        return Told::Unreadable(why);
    }
    let is_taken = config.models.iter().any(|other| (&other.name, &other.version) == (&model.name, &model.version));
    if is_taken {
        let version = model.version.as_deref().unwrap_or("none");
        return Told::Unreadable(format!("`models` has version {version:?} already"));
    }
    Told::Model(Box::new(Spec::of(&model, config)))
}

impl Models {
    /// What is to be served as the model that the process lives for. Nothing where the configuration has none.
    async fn told_to_serve(&self) -> Option<Told> {
        let config = self.keeper.config();
        let own = config.model.as_ref()?;
        let Some(file) = &config.model_file else { return Some(Told::Model(Box::new(Spec::of(own, config)))) };
        let text = match tokio::fs::read_to_string(Path::new(file)).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Some(Told::Unreadable(error.to_string())),
        };
        Some(meaning(&text, own, config, file))
    }

    /// The model to begin with. A file that can't be read leaves the configuration's own.
    pub(super) async fn first_model(&self) -> Option<Spec> {
        match self.told_to_serve().await? {
            Told::Model(spec) => Some(*spec),
            Told::Unreadable(why) => {
                self.unreadable(&why);
                let config = self.keeper.config();
                config.model.as_ref().map(|own| Spec::of(own, config))
            }
        }
    }

    /// Loads the model that the process lives for; another one, where the file comes to say so meanwhile.
    pub(super) async fn insist_on_first(self: &Arc<Self>, mut spec: Spec) -> Result<(), Trouble> {
        loop {
            let other = tokio::select! {
                biased;
                ended = self.insist(&spec) => return ended,
                other = self.another_than(&spec) => other,
            };
            let former = std::mem::replace(&mut spec, other);
            self.live_for(&spec.key);
            if former.key != spec.key {
                self.change(|table| table.remove(&former.key));
            }
            self.set(&spec.key, Standing::Loading(loading()));
        }
    }

    async fn another_than(&self, spec: &Spec) -> Spec {
        if self.keeper.config().model_file.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(Told::Model(told)) = self.told_to_serve().await
                && *told != *spec
            {
                return *told;
            }
        }
    }

    /// Follows the file for as long as the process lives; without one, only waits.
    pub async fn follow_file<T>(self: &Arc<Self>) -> T {
        if self.keeper.config().model_file.is_none() {
            return std::future::pending().await;
        }
        let (mut failed, mut unreadable) = (None::<Failed>, String::new());
        loop {
            tokio::time::sleep(LOOK).await;
            match self.told_to_serve().await {
                Some(Told::Model(spec)) => {
                    unreadable.clear();
                    failed = self.follow_told(spec, failed).await;
                }
                Some(Told::Unreadable(why)) if why != unreadable => {
                    self.unreadable(&why);
                    unreadable = why;
                }
                Some(Told::Unreadable(_)) | None => {}
            }
        }
    }

    fn unreadable(&self, why: &str) {
        let file = self.keeper.config().model_file.as_deref().unwrap_or_default();
        tracing::error!(file, "the file of the model can't be used, what is served stays: {why}");
    }

    /// Serves what the file says, where that is not served yet. Returns what could not be loaded.
    async fn follow_told(self: &Arc<Self>, spec: Box<Spec>, failed: Option<Failed>) -> Option<Failed> {
        let is_served = self.primary_key().as_ref() == Some(&spec.key) && self.keeper.serves(&spec);
        if !is_served && failed.as_ref().is_some_and(|failed| failed.is_left_alone(&spec)) {
            return failed;
        }
        let pause = failed.as_ref().filter(|failed| *failed.spec == *spec).map_or(FIRST_PAUSE, |failed| failed.pause);
        if let Some(failed) = failed {
            self.forget_failure(&failed.spec.key, &spec.key);
        }
        if is_served {
            // Where this very version was to be replaced, it has told why that failed.
            self.change(|table| table.trouble_is_over(&spec.key));
            return None;
        }
        let failure = self.swap_to(&spec).await.err()?;
        let Trouble { reason, message } = failure.trouble();
        self.note_refused(Some(RefusedModel { revision: spec.revision.clone(), reason, message }));
        let again = failure.is_transient().then(|| Instant::now() + pause);
        Some(Failed { spec, again, pause: longer(pause) })
    }

    fn note_refused(&self, refused: Option<RefusedModel>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// What could not be loaded is not asked for any more, or is tried again: it leaves no row in the index.
    fn forget_failure(&self, failed: &Key, wanted: &Key) {
        self.note_refused(None);
        let answers = matches!(self.standing(failed), Some(Standing::Ready(..)));
        if failed != wanted && !answers {
            self.change(|table| table.remove(failed));
        }
    }

    /// Loads a model beside the one that the process lives for, lives for it from then on, and lets the former go. Requests that the former
    /// has are answered by it; at every moment one of both takes those that name no version.
    async fn swap_to(self: &Arc<Self>, spec: &Spec) -> Result<(), Failure> {
        let former = self.primary_key();
        let turn = self.keeper.turn(&spec.key.0).await;
        self.bring_up(spec, turn).await?;
        self.live_for(&spec.key);
        tracing::info!(model = %spec.key.0, version = %spec.key.1, revision = spec.revision, "swapped, as the file says");
        if let Some(former) = former.filter(|former| *former != spec.key) {
            let turn = self.keeper.turn(&former.0).await;
            let models = Arc::clone(self);
            // The file is followed meanwhile; the next swap waits for its turn, so that never more than two models are in memory.
            self.keeper.drain_in_background(async move {
                models.take_down(&former, None).await;
                drop(turn);
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millrace_contract::{
        Digest,
        model::{Artifact, ModelFormat},
    };

    use super::*;

    fn model(name: &str, version: &str) -> ServedModel {
        let artifact = Artifact { uri: "s3://b/m.onnx".into(), digest: Digest::of(version), format: ModelFormat::Onnx };
        ServedModel { version: Some(version.to_owned()), ..ServedModel::new(name, artifact) }
    }

    #[test]
    fn a_file_says_what_is_served_and_an_empty_one_that_it_is_the_configurations_own() {
        let config = ServerConfig {
            model: Some(model("m", "1")),
            models: vec![model("m", "7")],
            concurrency: 3,
            ..ServerConfig::default()
        };
        let own = config.model.clone().unwrap();
        let json = |model: &ServedModel| serde_json::to_string(model).unwrap();
        let said = |text: &str| match meaning(text, &own, &config, "file") {
            Told::Model(spec) => format!("{} {}, {} sessions", spec.key.0, spec.key.1, spec.concurrency),
            Told::Unreadable(why) => why,
        };
        assert_eq!(said(""), "m 1, 3 sessions");
        assert_eq!(said(" \n"), "m 1, 3 sessions");
        assert_eq!(said(&json(&model("m", "2"))), "m 2, 3 sessions");
        assert_eq!(said(&json(&own)), "m 1, 3 sessions");
        let newer = json(&model("m", "2")).replacen('{', r#"{"later": 1, "#, 1);
        assert_eq!(said(&newer), "m 2, 3 sessions", "a newer operator may say more");
        let whole = json(&model("m", "2"));
        for (text, expected) in [
            (whole[..whole.len() / 2].to_owned(), "EOF while parsing"),
            ("{}".to_owned(), "missing field"),
            (json(&model("other", "2")), "it names model \"other\""),
            (json(&model("m", "7")), "`models` has version \"7\" already"),
        ] {
            assert!(said(&text).contains(expected), "{text}: {}", said(&text));
        }
    }
}
