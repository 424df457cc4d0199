//! Leader election: of two replicas one reconciles. Who loses the lease ends its process, as a write under way can't be called
//! back; what another leader may have done meanwhile is met by the preconditions of every write.
//!
//! Whoever waits for the lease sleeps until it expires, and does not see that it was given back before. So the lease is looked at
//! twice a second besides, and asked for anew once nobody holds it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::settings::Settings;

/// How long the lease may take to be given back at the end.
const RELEASE_DEADLINE: Duration = Duration::from_secs(3);

/// Pause between two looks at a lease that another replica holds.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Why this replica does not lead.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// The lease can't be used.
    #[error("lease {name}: {source}")]
    Lease {
        /// Name of the lease.
        name: String,
        /// What came back.
        #[source]
        source: LeaseManagerError,
    },
    /// Another replica leads now, or may.
    #[error("the lease was lost; the process ends, so that two never write at a time")]
    Lost,
}

/// A lease that is asked for, or held.
pub struct Leadership {
    client: Client,
    settings: Settings,
    asked: Asked,
}

/// One keeper of the lease: it takes it when it can, and renews it.
struct Asked {
    holds: watch::Receiver<bool>,
    manager: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Leadership {
    /// Begins to ask for the lease.
    pub async fn seek(client: Client, settings: &Settings) -> Result<Self, LeaderError> {
        let asked = Asked::new(client.clone(), settings).await?;
        Ok(Self { client, settings: settings.clone(), asked })
    }

    /// Returns once this replica leads.
    pub async fn won(&mut self) -> Result<(), LeaderError> {
        loop {
            tokio::select! {
                won = self.asked.holds.wait_for(|holds| *holds) => {
                    return won.map(|_| ()).map_err(|_| LeaderError::Lost);
                }
                () = given_back(&self.client, &self.settings) => {}
            }
            self.asked = Asked::new(self.client.clone(), &self.settings).await?;
        }
    }

    /// Returns once this replica does not lead any more.
    pub async fn lost(&self) -> LeaderError {
        let mut holds = self.asked.holds.clone();
        // An error means that the lease's keeper has ended, which is a loss too.
        let _ = holds.wait_for(|holds| !*holds).await;
        LeaderError::Lost
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    pub async fn release(self) {
        drop(self.asked.holds);
        let _ = timeout(RELEASE_DEADLINE, self.asked.manager).await;
    }
}

impl Asked {
    async fn new(client: Client, settings: &Settings) -> Result<Self, LeaderError> {
        let manager = LeaseManagerBuilder::new(client, &settings.lease)
            .with_namespace(&settings.namespace)
            .with_identity(&settings.identity)
            .with_duration(settings.lease_seconds)
            .with_grace(settings.lease_seconds / 3)
            .build()
            .await
            .map_err(|source| LeaderError::Lease { name: settings.lease.clone(), source })?;
        let (holds, manager) = manager.watch().await;
        Ok(Self { holds, manager })
    }
}

/// Returns once nobody holds the lease, at two looks in a row: who may take it has had its time.
async fn given_back(client: &Client, settings: &Settings) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &settings.namespace);
    let mut was_free = false;
    loop {
        // What can't be read now is read the next time; the keeper waits for the lease all the same.
        if let Ok(Some(lease)) = leases.get_opt(&settings.lease).await {
            let is_free = lease.spec.and_then(|spec| spec.holder_identity).is_none_or(|holder| holder.is_empty());
            if was_free && is_free {
                return;
            }
            was_free = is_free;
        }
        sleep(LOOK_PAUSE).await;
    }
}
