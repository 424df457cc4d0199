//! `kubectl-millrace`: arguments, and from a subcommand to its exit code.
//!
//! | file          |        | holds                                                                        |
//! |---------------|--------|------------------------------------------------------------------------------|
//! | `args.rs`     |        | arguments and their help                                                     |
//! | `cluster.rs`  | reads  | the client, as kubectl would make it; the objects of a namespace             |
//! | `chain.rs`    | pure   | which object leads to which, both ways                                       |
//! | `status.rs`   | pure   | objects → trees of lines                                                     |
//! | `service.rs`  | pure   | the lines of an InferenceService                                             |
//! | `tree.rs`     | pure   | trees of lines → text, with colours or without                               |
//! | `approve.rs`  | writes | `spec.approved` of a ModelVersion                                            |
//! | `request.rs`  | writes | the annotations `millrace.dev/command` and `-by` of an InferenceService      |
//! | `replay.rs`   | reads  | a decision and what it rested on                                             |
//! | `lint.rs`     | reads  | files → documents → problems; no cluster                                     |
//! | `schema.rs`   | pure   | a value against a structural schema                                          |

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::Parser;
use jiff::Timestamp;

mod approve;
mod args;
mod chain;
mod cluster;
#[cfg(test)]
mod fixtures;
mod lint;
mod replay;
mod request;
mod schema;
mod service;
mod status;
mod tree;
mod waiting;

use args::{Args, Command};
use request::Wish;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { connection, command } = args;
    match command {
        Command::Lint { paths } => return lint::run(&paths),
        Command::Status { name } => {
            let (client, namespace) = connection.connect().await?;
            let chain = cluster::chain(&client, &namespace).await?;
            let text = status::render(&chain, name.as_deref(), colours(), Timestamp::now())
                .map_err(|message| anyhow::anyhow!("{message}"))?;
            print(&text)?;
        }
        Command::Approve { version, comment } => {
            let (client, namespace) = connection.connect().await?;
            print(&approve::run(client, &namespace, &version, comment).await?)?;
        }
        Command::Promote { service, full, wait } => ask(connection, Wish::Promote { full }, &service, wait).await?,
        Command::Pause { service, wait } => ask(connection, Wish::Pause, &service, wait).await?,
        Command::Resume { service, wait } => ask(connection, Wish::Resume, &service, wait).await?,
        Command::Rollback { service, to, wait } => ask(connection, Wish::Rollback { to }, &service, wait).await?,
        Command::Rehearse { service, version, requests, wait } => {
            ask(connection, Wish::Rehearse { version, requests }, &service, wait).await?;
        }
        Command::Replay { service, id } => {
            let (client, namespace) = connection.connect().await?;
            let (text, is_same) = replay::run(client, &namespace, &service, id).await?;
            print(&text)?;
            return Ok(if is_same { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Abort { service, wait } => ask(connection, Wish::Abort, &service, wait).await?,
        Command::Retry { service, version, wait } => {
            ask(connection, Wish::Retry { version }, &service, wait).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(connection: args::Connection, wish: Wish, service: &str, wait: args::Wait) -> anyhow::Result<()> {
    let (client, namespace) = connection.connect().await?;
    print(&request::run(client, &namespace, service, &wish, wait.timeout).await?)
}

/// A reader that has seen enough, as `head`, is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
