//! The start: everything that the configuration names is loaded, and tried again while its store does not answer.

use std::sync::Arc;

use millrace_contract::server::ServedModel;

use super::{FIRST_PAUSE, Models, Spec, Standing, Version, loading, longer};
use crate::status::Trouble;

/// Tries for what does not look as if it went away by itself; it may still be an object that is about to be written.
const PERMANENT_TRIES: u32 = 3;

impl Models {
    /// Loads what the configuration names. Returns when all of it is ready or known not to be.
    ///
    /// # Errors
    /// Why `model` cannot be loaded: without it the process has nothing to do. Any other model leaves its reason in the index.
    pub async fn start(self: &Arc<Self>) -> Result<(), Trouble> {
        let config = self.keeper.config();
        let of = |model: &ServedModel| Spec::of(model, config);
        let first = self.first_model().await;
        if let Some(first) = &first {
            self.live_for(&first.key);
        }
        let others: Vec<Spec> = config.models.iter().map(of).collect();
        for spec in first.iter().chain(&others) {
            self.set(&spec.key, Standing::Loading(loading()));
        }
        let named: Vec<_> = first.iter().chain(&others).map(|spec| spec.key.clone()).collect();
        if config.repository.is_none() {
            self.want(named.iter().cloned());
        }
        let first = async {
            match first {
                Some(spec) => self.insist_on_first(spec).await,
                None => Ok(()),
            }
        };
        let others = futures::future::join_all(others.iter().map(|spec| self.insist(spec)));
        let repository = async {
            let survey = self.first_survey().await;
            let found = survey.iter().flat_map(|(name, specs)| match specs {
                Ok(specs) => specs.iter().map(|spec| spec.key.clone()).collect(),
                Err(_) => vec![(name.as_str().into(), Version(None))],
            });
            self.want(named.iter().cloned().chain(found));
            self.start_repository(survey).await;
        };
        let rest = async {
            tokio::join!(others, repository);
            Ok::<_, Trouble>(())
        };
        // A first model that is hopeless ends it; what the others lack is in the index.
        tokio::try_join!(first, rest)?;
        self.keeper.start_is_over();
        Ok(())
    }

    /// Loads a version, trying again for as long as its store does not answer, and a few times otherwise; not after a client has unloaded it.
    pub(super) async fn insist(self: &Arc<Self>, spec: &Spec) -> Result<(), Trouble> {
        let (mut pause, mut permanent) = (FIRST_PAUSE, 0);
        loop {
            let turn = self.keeper.turn(&spec.key.0).await;
            if self.keeper.was_unloaded(&spec.key) {
                return Ok(());
            }
            let place = self.keeper.place().await;
            let Err(failure) = self.bring_up(spec, turn).await else { return Ok(()) };
            drop(place);
            permanent += u32::from(!failure.is_transient());
            if permanent >= PERMANENT_TRIES {
                return Err(failure.trouble());
            }
            tokio::time::sleep(pause).await;
            pause = longer(pause);
        }
    }
}
