//! Leader election between replicas, on a real API server.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use millrace_operator::{
    leader::{LeaderError, Leadership},
    settings::Settings,
    testkit::World,
};
use serde_json::json;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);
/// A lease that nobody gives back expires after so many seconds.
const LEASE_SECONDS: u64 = 24;

async fn seek(world: &World, identity: &str) -> Leadership {
    let mut settings = Settings::for_tests();
    settings.namespace = world.namespace.clone();
    settings.identity = identity.to_owned();
    settings.lease_seconds = LEASE_SECONDS;
    Leadership::seek(world.client.clone(), &settings).await.unwrap()
}

#[tokio::test]
async fn one_of_two_leads_and_the_other_takes_over_when_the_lease_is_given_back() {
    let world = World::new().await.unwrap();
    let mut first = seek(&world, "first").await;
    timeout(DEADLINE, first.won()).await.unwrap().unwrap();
    let mut second = seek(&world, "second").await;
    assert!(timeout(Duration::from_secs(2), second.won()).await.is_err(), "two replicas lead");
    first.release().await;
    // Sooner than the lease would have expired by itself.
    timeout(Duration::from_secs(LEASE_SECONDS - 1), second.won()).await.unwrap().unwrap();
    second.release().await;
}

#[tokio::test]
async fn a_leader_whose_lease_is_taken_learns_it() {
    let world = World::new().await.unwrap();
    let mut leader = seek(&world, "leader").await;
    timeout(DEADLINE, leader.won()).await.unwrap().unwrap();
    let far = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3_600);
    let taken = json!({"spec": {
        "holderIdentity": "somebody else", "leaseDurationSeconds": 3_600,
        "renewTime": far.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    }});
    world.merge::<Lease>("millrace-operator", taken).await.unwrap();
    let lost = timeout(DEADLINE, leader.lost()).await.unwrap();
    assert!(matches!(lost, LeaderError::Lost));
}
