//! A real kube-apiserver for tests of reconcilers, with faults between it and the operator.
//!
//! | file          | holds                                                                                   |
//! |---------------|-----------------------------------------------------------------------------------------|
//! | `server.rs`   | etcd and kube-apiserver, started once a test binary, gone with it; the CRDs             |
//! | `world.rs`    | one test's namespace, clock and clients                                                 |
//! | `fault.rs`    | a tower layer: records writes, crashes, loses replies, refuses, serves old lists        |
//! | `stream.rs`   | the stream of a watch, some of whose events are lost                                    |
//! | `hands.rs`    | what kubelet, the Job controller and workers would do, done by hand                     |
//! | `objects.rs`  | objects that tests of several kinds start from                                          |
//! | `dump.rs`     | everything in a namespace, without what differs between two equal runs                  |
//! | `scenario.rs` | plays a story undisturbed and with every fault at every write, and compares             |
//!
//! The server is looked for in `MILLRACE_BIN`, else in `$XDG_CACHE_HOME/millrace/bin`, else in `~/.cache/millrace/bin`.

pub mod dump;
pub mod fault;
pub mod hands;
pub mod objects;
pub mod scenario;
pub mod server;
mod stream;
pub mod world;

pub use fault::{Fault, Faults, WatchFault};
pub use scenario::{Scenario, Step};
pub use world::World;

/// What a test found wrong, as a sentence.
pub type Found<T> = Result<T, String>;
