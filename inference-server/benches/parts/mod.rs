//! What the benchmark is made of: clients, echoes, processes on a core of their own, a table.

pub mod child;
pub mod echo;
pub mod http1;
pub mod http2;
pub mod models;
pub mod table;

use std::{io, time::Duration};

use tokio::task::JoinHandle;

async fn gather(tasks: Vec<JoinHandle<io::Result<Vec<Duration>>>>) -> io::Result<Vec<Duration>> {
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("no panic")?);
    }
    Ok(all)
}
