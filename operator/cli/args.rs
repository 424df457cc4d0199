//! Arguments and their help.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  kubectl millrace status                     everything in the namespace, from service to data
  kubectl millrace status flights -n team-a   one service (or Dataset, TrainingJob, ModelVersion)
  kubectl millrace approve flights-3 --comment 'checked with the fraud team'
  kubectl millrace promote flights            leave the step now (--full: all requests)
  kubectl millrace pause flights              keep the rollout from going forward (resume)
  kubectl millrace abort flights              reject the canary now
  kubectl millrace retry flights              try the newest rejected revision again
  kubectl millrace rollback flights --to flights-3
  kubectl millrace rehearse flights flights-4 send it copies of live requests, before it answers anybody
  kubectl millrace replay flights 12          compute decision 12 again from what it rested on
  kubectl millrace lint deploy/               check files without a cluster";

/// See and steer models that Millrace trains and serves.
#[derive(Debug, Parser)]
#[command(name = "kubectl-millrace", bin_name = "kubectl millrace", version, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster and namespace.
#[derive(Debug, clap::Args)]
pub struct Connection {
    /// Namespace; the context's own where absent.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig; the current one where absent.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Kubeconfig file; $KUBECONFIG, else ~/.kube/config, where absent.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// How long to wait for the operator.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Wait {
    /// Seconds to wait for the operator; after that the request is void.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub timeout: u32,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the chain: service, revisions, model versions with their gates, training jobs, dataset versions.
    ///
    /// NAME is an InferenceService, or a Dataset, TrainingJob or ModelVersion, for which every service that depends on it is
    /// shown. Without NAME all of the namespace is shown, also what no service uses.
    #[command(after_help = "Examples:\n  kubectl millrace status\n  kubectl millrace status flights -n team-a")]
    Status { name: Option<String> },
    /// Approve a ModelVersion that waits for a person, in your own name.
    ///
    /// Refused where a gate failed, where the evaluation has not ended, and where it is approved already.
    #[command(after_help = "Example:\n  kubectl millrace approve flights-3 --comment 'numbers checked on last week'")]
    Approve {
        /// Name of the ModelVersion, as flights-3.
        version: String,
        /// Why; kept with the approval.
        #[arg(long)]
        comment: Option<String>,
    },
    /// Leave the step, the preparation or the gate of a rollout now, whatever the evidence says.
    #[command(after_help = "Examples:\n  kubectl millrace promote flights\n  kubectl millrace promote flights --full")]
    Promote {
        /// Name of the InferenceService.
        service: String,
        /// Give the new revision all requests at once.
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Keep a rollout from going forward. Bad evidence still rejects the new revision.
    #[command(after_help = "Example:\n  kubectl millrace pause flights")]
    Pause {
        /// Name of the InferenceService.
        service: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a paused rollout go on, or follow the model again after a rollback.
    #[command(after_help = "Example:\n  kubectl millrace resume flights")]
    Resume {
        /// Name of the InferenceService.
        service: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Serve another version than the newest one, until spec.model changes or `resume` is asked for.
    ///
    /// At once while the former revision is warm (spec.rollout.bakeSeconds), else as a rollout that compares nothing.
    #[command(
        after_help = "Examples:\n  kubectl millrace rollback flights\n  kubectl millrace rollback flights --to flights-3"
    )]
    Rollback {
        /// Name of the InferenceService.
        service: String,
        /// ModelVersion to go back to; the one that is still warm where absent.
        #[arg(long)]
        to: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Send copies of live requests to a version that answers nobody, and compare its answers with the live ones.
    ///
    /// The version need not be approved. `kubectl millrace status` shows how far it is and which checks would fail.
    #[command(after_help = "Example:\n  kubectl millrace rehearse flights flights-4 --requests 1000")]
    Rehearse {
        /// Name of the InferenceService.
        service: String,
        /// Name of the ModelVersion.
        version: String,
        /// Copies to compare; 500 where absent.
        #[arg(long, value_parser = clap::value_parser!(i64).range(10..=1_000_000))]
        requests: Option<i64>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Compute a decision on a rollout, a rehearsal or drift again from what it rested on. Ends with 1 where the result is another.
    #[command(after_help = "Example:\n  kubectl millrace replay flights 12")]
    Replay {
        /// Name of the InferenceService.
        service: String,
        /// Id of the decision, as in status.history.
        id: i64,
    },
    /// Reject the canary of an InferenceService, or end its rehearsal: the stable revision gets all requests back.
    #[command(after_help = "Example:\n  kubectl millrace abort flights")]
    Abort {
        /// Name of the InferenceService.
        service: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let an InferenceService try a rejected revision again.
    #[command(
        after_help = "Examples:\n  kubectl millrace retry flights\n  kubectl millrace retry flights --version flights-4"
    )]
    Retry {
        /// Name of the InferenceService.
        service: String,
        /// ModelVersion whose rejection is forgotten; the newest rejected one where absent.
        #[arg(long)]
        version: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Check YAML files without a cluster: unknown fields, types, ranges, patterns, and the CEL rules.
    ///
    /// Documents of other API groups are skipped. Prints FILE: document N: Kind/name: path: problem. Ends with 1 if there is one.
    #[command(
        after_help = "Examples:\n  kubectl millrace lint dataset.yaml deploy/\n  helm template mychart | kubectl millrace lint -"
    )]
    Lint {
        /// Files, folders (all .yaml, .yml and .json files below them), or - for standard input.
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_namespace_may_stand_before_and_after_the_subcommand() {
        for line in [["kubectl-millrace", "-n", "a", "status"], ["kubectl-millrace", "status", "-n", "a"]] {
            assert_eq!(Args::parse_from(line).connection.namespace.as_deref(), Some("a"), "{line:?}");
        }
    }
}
