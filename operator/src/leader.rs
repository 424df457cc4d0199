//! Leader election: of two replicas one reconciles. Who loses the lease ends its process, as a write under way can't be called
//! back; what another leader may have done meanwhile is met by the preconditions of every write.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::settings::Settings;

/// How long the lease may take to be given back at the end.
const RELEASE_DEADLINE: Duration = Duration::from_secs(3);

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
    holds: watch::Receiver<bool>,
    manager: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Leadership {
    /// Begins to ask for the lease.
    pub async fn seek(client: Client, settings: &Settings) -> Result<Self, LeaderError> {
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

    /// Returns once this replica leads.
    pub async fn won(&mut self) -> Result<(), LeaderError> {
        self.holds.wait_for(|holds| *holds).await.map(|_| ()).map_err(|_| LeaderError::Lost)
    }

    /// Returns once this replica does not lead any more.
    pub async fn lost(&self) -> LeaderError {
        let mut holds = self.holds.clone();
        // An error means that the lease's keeper has ended, which is a loss too.
        let _ = holds.wait_for(|holds| !*holds).await;
        LeaderError::Lost
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    pub async fn release(self) {
        drop(self.holds);
        let _ = timeout(RELEASE_DEADLINE, self.manager).await;
    }
}
