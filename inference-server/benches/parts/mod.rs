//! What the benchmark is made of: clients, echoes, processes on a core of their own, a table.

pub mod bench;
pub mod child;
pub mod echo;
pub mod http1;
pub mod http2;
pub mod idle;
pub mod many;
pub mod models;
pub mod rates;
pub mod sketches;
pub mod table;
pub mod tails;
pub mod tuning;

#[path = "../../tests/it/repository.rs"]
#[allow(dead_code, reason = "only its plain models are needed here")]
mod repository;

use std::{io, time::Duration};

use tokio::task::JoinHandle;

async fn gather(tasks: Vec<JoinHandle<io::Result<Vec<Duration>>>>) -> io::Result<Vec<Duration>> {
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("no panic")?);
    }
    Ok(all)
}
