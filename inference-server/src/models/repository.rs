//! The repository folder in use: what it holds now, what of that is loaded at the start, at a client's word, or because it changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use millrace_contract::repository::{Control, ModelConfig, Repository};
use millrace_store::Error as StoreError;

use super::{
    Entry, FIRST_PAUSE, Key, Models, Spec, Standing,
    layout::{self, CONFIG_FILE, File, Found},
    loading, longer,
};
use crate::{
    config,
    errors::{Reason, Refusal},
    load::Failure,
    schema,
    status::Trouble,
};

/// Largest `config.json`, bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What the folder says: of each model the versions to serve, or why that cannot be told.
pub(super) type Survey = BTreeMap<String, Result<Vec<Spec>, Trouble>>;

impl Models {
    fn repository(&self) -> Option<&Repository> {
        self.keeper.config().repository.as_ref()
    }

    /// Clients may load and unload.
    pub fn has_repository_extension(&self) -> bool {
        self.repository().is_some_and(|repository| repository.control == Control::Explicit)
    }

    fn explicit(&self) -> Result<&Repository, Refusal> {
        let message = "the model-repository extension is off; set repository.control to Explicit in the configuration";
        self.repository()
            .filter(|_| self.has_repository_extension())
            .ok_or_else(|| Refusal::new(Reason::Unsupported, message))
    }

    /// The versions of a model that the configuration names itself.
    fn named(&self, name: &str) -> Vec<Spec> {
        let config = self.keeper.config();
        let named = config.model.iter().chain(&config.models).filter(|model| model.name == name);
        named.map(|model| Spec::of(model, config)).collect()
    }

    /// Looks into the folder; for one model, or for all.
    async fn survey(&self, repository: &Repository, only: Option<&str>) -> Result<Survey, Failure> {
        let loader = &self.keeper.loader;
        let listed = loader.open_location(&repository.uri)?.list().await?;
        let files: Vec<File> = listed.into_iter().map(|entry| File { path: entry.relative, tag: entry.tag }).collect();
        let mut survey = Survey::new();
        for (name, found) in layout::read(&files) {
            if !self.named(&name).is_empty() {
                tracing::warn!(
                    model = name,
                    "the configuration names this model itself: that of the repository is not served"
                );
                continue;
            }
            if only.is_none_or(|only| only == name) {
                let specs = self.specs(repository, &name, &found).await?;
                survey.insert(name, specs);
            }
        }
        Ok(survey)
    }

    async fn specs(
        &self,
        repository: &Repository,
        name: &str,
        found: &Found,
    ) -> Result<Result<Vec<Spec>, Trouble>, Failure> {
        let mut own = ModelConfig::default();
        if found.has_config {
            let location = self.keeper.loader.open_location(&repository.uri)?.join(&format!("{name}/{CONFIG_FILE}"))?;
            let bytes = match location.get(MAX_CONFIG_BYTES).await {
                Ok(bytes) => bytes,
                // What was there a moment ago and is not now is worth another look at all of it.
                Err(error) if error.is_transient() || matches!(error, StoreError::NotFound { .. }) => {
                    return Err(error.into());
                }
                // Only this model has settings that cannot be read.
                Err(error) => return Ok(Err(Failure::from(error).trouble())),
            };
            own = match own_config(&bytes) {
                Ok(own) => own,
                Err(error) => return Ok(Err(Trouble::new("InvalidConfig", format!("{}: {error}", location.uri())))),
            };
        }
        let specs = layout::specs(name, found, &own, self.keeper.config(), &repository.uri);
        if specs.is_empty() {
            let why = format!("the version policy chooses none of the versions that {name:?} has");
            return Ok(Err(Trouble::new("NoVersion", why)));
        }
        Ok(Ok(specs))
    }

    /// The look at the start, repeated while the store does not answer: what is to be loaded.
    pub(super) async fn first_survey(&self) -> Survey {
        let Some(repository) = self.repository() else { return Survey::new() };
        let mut pause = FIRST_PAUSE;
        loop {
            match self.survey(repository, None).await {
                Ok(mut survey) => {
                    if repository.control == Control::Explicit {
                        survey.retain(|name, _| repository.load.contains(name));
                    }
                    return survey;
                }
                Err(failure) => {
                    let trouble = failure.trouble();
                    tracing::error!(reason = trouble.reason, "the repository cannot be read: {}", trouble.message);
                    self.not_found_yet(trouble);
                }
            }
            tokio::time::sleep(pause).await;
            pause = longer(pause);
        }
    }

    /// Looks into the folder again and again, for as long as the process lives; where the configuration says `Poll`, else only waits.
    pub async fn follow_repository<T>(self: &Arc<Self>) -> T {
        let Some(repository) = self.repository().filter(|repository| repository.control == Control::Poll) else {
            return std::future::pending().await;
        };
        let mut tried = BTreeMap::<Key, Spec>::new();
        loop {
            tokio::time::sleep(Duration::from_secs(repository.poll_seconds.max(1).into())).await;
            match self.survey(repository, None).await {
                Ok(survey) => self.follow(survey, &mut tried).await,
                Err(failure) => {
                    tracing::error!(reason = failure.trouble().reason, "the repository cannot be read: {failure}")
                }
            }
        }
    }

    /// Makes the table what the folder says. `tried` are files that could not be loaded, which are left alone until they change.
    async fn follow(self: &Arc<Self>, survey: Survey, tried: &mut BTreeMap<Key, Spec>) {
        let gone = self.keeper.gone(|name| survey.contains_key(name));
        for (name, specs) in survey {
            match specs {
                Ok(specs) => {
                    self.keeper.of_repository(&name.as_str().into());
                    let fresh: Vec<Spec> =
                        specs.iter().filter(|spec| tried.get(&spec.key) != Some(*spec)).cloned().collect();
                    let nothing_failed = fresh.len() == specs.len();
                    for (spec, failure) in self.bring_all_up(&fresh).await {
                        if failure.is_transient() {
                            tried.remove(&spec.key);
                        } else {
                            tried.insert(spec.key.clone(), spec);
                        }
                    }
                    if nothing_failed {
                        self.retire_others(&name, &specs).await;
                    }
                }
                Err(trouble) => self.told(&name.as_str().into(), trouble),
            }
        }
        for name in gone {
            for key in self.known_keys(&name) {
                tried.remove(&key);
                let _turn = self.keeper.turn(&name).await;
                self.take_down(&key, None).await;
            }
        }
    }

    /// Loads versions one after the other; those that cannot be are returned.
    async fn bring_all_up(self: &Arc<Self>, specs: &[Spec]) -> Vec<(Spec, Failure)> {
        let mut failed = Vec::new();
        for spec in specs {
            let turn = self.keeper.turn(&spec.key.0).await;
            if let Err(failure) = self.bring_up(spec, turn).await {
                failed.push((spec.clone(), failure));
            }
        }
        failed
    }

    /// Unloads the versions that are not to be served any more, once all those that are do answer.
    async fn retire_others(&self, name: &str, specs: &[Spec]) {
        let answers = |spec: &Spec| matches!(self.standing(&spec.key), Some(Standing::Ready(..)));
        if !specs.iter().all(answers) {
            return;
        }
        for key in self.known_keys(name) {
            if !specs.iter().any(|spec| spec.key == key) {
                let _turn = self.keeper.turn(&key.0).await;
                self.take_down(&key, None).await;
            }
        }
    }

    fn known_keys(&self, name: &str) -> Vec<Key> {
        let name: Arc<str> = name.into();
        self.table.load().versions(&name).into_iter().map(|version| (Arc::clone(&name), version)).collect()
    }

    /// A trouble of a model of the repository as a whole: what answers goes on, and tells it.
    pub(super) fn told(&self, name: &Arc<str>, trouble: Trouble) {
        // Also a model of which nothing was ever loaded is to be forgotten when its folder goes away.
        self.keeper.of_repository(name);
        tracing::error!(model = %name, reason = trouble.reason, "{}", trouble.message);
        // Looked at and written in one go: a version that is taken down in between would be put back, and never be freed.
        self.change(|table| table.trouble(name, &trouble));
    }

    /// Everything that the server knows and everything that the repository holds; with `ready_only`, what answers.
    ///
    /// # Errors
    /// [`Reason::Unsupported`] where the extension is off, [`Reason::NotReady`] when the repository cannot be read.
    pub async fn index(self: &Arc<Self>, ready_only: bool) -> Result<Vec<Entry>, Refusal> {
        let repository = self.explicit()?.clone();
        let mut rows = self.known();
        if ready_only {
            rows.retain(|row| row.state == "READY");
            return Ok(rows);
        }
        let models = Arc::clone(self);
        let survey = self.on_runtime(async move { models.survey(&repository, None).await }).await?;
        let survey =
            survey.map_err(|e| Refusal::new(Reason::NotReady, format!("the repository cannot be read: {e}")))?;
        let known: BTreeSet<Arc<str>> = rows.iter().map(|row| Arc::clone(&row.name)).collect();
        for (name, specs) in survey.into_iter().filter(|(name, _)| !known.contains(name.as_str())) {
            let row = |version, reason| Entry {
                name: name.as_str().into(),
                version,
                state: "UNAVAILABLE",
                reason,
                digest: None,
            };
            match specs {
                Ok(specs) => rows.extend(specs.into_iter().map(|spec| row(spec.key.1.0, NOT_LOADED.to_owned()))),
                Err(trouble) => rows.push(row(None, trouble.to_string())),
            }
        }
        rows.sort_by(|a, b| {
            a.name.cmp(&b.name).then_with(|| super::Version(a.version.clone()).cmp(&super::Version(b.version.clone())))
        });
        Ok(rows)
    }

    /// Loads a model as the configuration names it, or else as it is in the repository now, beside what answers, and switches to it.
    ///
    /// # Errors
    /// [`Reason::Unsupported`] where the extension is off, [`Reason::UnknownModel`], [`Reason::LoadFailed`] with why; what answered
    /// before then goes on.
    pub async fn load(self: &Arc<Self>, name: &str) -> Result<(), Refusal> {
        let repository = self.explicit()?.clone();
        let (models, name) = (Arc::clone(self), name.to_owned());
        self.on_runtime(async move { models.load_now(&repository, &name).await }).await?
    }

    async fn load_now(self: &Arc<Self>, repository: &Repository, name: &str) -> Result<(), Refusal> {
        let mut specs = self.named(name);
        if specs.is_empty() {
            specs = self.in_repository(repository, name).await?;
            self.keeper.of_repository(&name.into());
        }
        let troubles = self.bring_all_up(&specs).await;
        if let Some((_, failure)) = troubles.first() {
            // Nobody tries again by itself: they are not on their way.
            self.change(|table| troubles.iter().for_each(|(spec, _)| table.give_up(&spec.key)));
            return Err(not_loaded(name, &failure.trouble()));
        }
        self.retire_others(name, &specs).await;
        Ok(())
    }

    /// The versions to serve of a model of the repository, as it is now.
    async fn in_repository(&self, repository: &Repository, name: &str) -> Result<Vec<Spec>, Refusal> {
        let survey = self.survey(repository, Some(name)).await;
        let survey = survey.map_err(|failure| not_loaded(name, &failure.trouble()))?;
        let Some(specs) = survey.into_values().next() else {
            let message = format!("the repository {} has no model {name:?}", repository.uri);
            return Err(Refusal::new(Reason::UnknownModel, message));
        };
        specs.map_err(|trouble| {
            let refusal = not_loaded(name, &trouble);
            self.told(&name.into(), trouble);
            refusal
        })
    }

    /// Unloads all versions of a model: they answer what they have, then their memory is freed. One that the start still tries to load is
    /// tried no more.
    ///
    /// # Errors
    /// [`Reason::Unsupported`] where the extension is off, [`Reason::UnknownModel`].
    pub async fn unload(self: &Arc<Self>, name: &str) -> Result<(), Refusal> {
        self.explicit()?;
        let keys = self.known_keys(name);
        if keys.is_empty() {
            return Err(Refusal::new(Reason::UnknownModel, format!("model {name:?} is not loaded")));
        }
        let models = Arc::clone(self);
        self.on_runtime(async move {
            for key in keys {
                models.keeper.note_unloaded(&key);
                let _turn = models.keeper.turn(&key.0).await;
                let unloaded = Trouble::new("Unloaded", "it was unloaded; load it to serve it again");
                models.take_down(&key, Some(Standing::Unavailable(unloaded))).await;
            }
        })
        .await
    }

    /// Runs to its end even if whoever asked for it goes away.
    async fn on_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let ended = self.keeper.runtime().spawn(work).await;
        ended.map_err(|_| Refusal::new(Reason::Stopping, "the server is stopping"))
    }

    /// Loads what the look at the start found.
    pub(super) async fn start_repository(self: &Arc<Self>, survey: Survey) {
        for (name, specs) in survey {
            match specs {
                Ok(specs) => {
                    for spec in &specs {
                        self.keeper.of_repository(&spec.key.0);
                        self.change(|table| {
                            // What a client has loaded or unloaded meanwhile stands as it does.
                            if table.standing(&spec.key).is_none() {
                                table.set(&spec.key, Standing::Loading(loading()));
                            }
                        });
                    }
                    // Its reason is in the index; the others do not wait for it.
                    let all = specs.iter().map(|spec| self.insist(spec));
                    _ = futures::future::join_all(all).await;
                }
                Err(trouble) => self.told(&name.as_str().into(), trouble),
            }
        }
    }
}

const NOT_LOADED: &str = "NotLoaded: it is in the repository; load it to serve it";

fn not_loaded(name: &str, trouble: &Trouble) -> Refusal {
    Refusal::new(Reason::LoadFailed, format!("model {name:?} was not loaded: {trouble}"))
}

fn own_config(bytes: &[u8]) -> Result<ModelConfig, String> {
    let document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    config::written(document, &schema::model())
}
