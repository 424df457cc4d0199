//! Events: what happened to an object, for people, with typed reasons.
//!
//! An Event is told after the status it speaks of is written. It is best effort: one that can't be written is logged, never
//! retried, and fails no reconcile. Repetitions within some minutes are counted on one Event by the recorder.

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tracing::warn;

/// Longest note the API accepts, in bytes.
const MAX_NOTE: usize = 1024;

/// Whether somebody should have a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it should be.
    Normal,
    /// Worth a look.
    Warning,
}

/// Something to tell. `R` is the kind's own enum of reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<R> {
    /// Whether somebody should have a look.
    pub kind: Kind,
    /// Machine-readable reason.
    pub reason: R,
    /// What happened, for a person.
    pub note: String,
}

/// A closed set of reasons.
pub trait Reason: Copy {
    /// As written in the Event, CamelCase.
    fn as_str(self) -> &'static str;
    /// What the operator was doing, CamelCase.
    fn action(self) -> &'static str;
}

/// Publishes Events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Publishes as the operator replica of this name.
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter { controller: "millrace.dev/operator".to_owned(), instance: Some(identity.to_owned()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Tells it about this object.
    pub async fn tell<K: Resource<DynamicType = ()>, R: Reason>(&self, object: &K, told: &Told<R>) {
        let event = Event {
            type_: match told.kind {
                Kind::Normal => EventType::Normal,
                Kind::Warning => EventType::Warning,
            },
            reason: told.reason.as_str().to_owned(),
            action: told.reason.action().to_owned(),
            note: Some(shortened(&told.note)),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            warn!(%error, reason = event.reason, "event not published");
        }
    }
}

fn shortened(note: &str) -> String {
    if note.len() <= MAX_NOTE {
        return note.to_owned();
    }
    let end = (0..=MAX_NOTE - 3).rev().find(|&end| note.is_char_boundary(end)).unwrap_or_default();
    format!("{}…", &note[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = shortened(&"é".repeat(1000));
        assert!(note.len() <= MAX_NOTE, "{}", note.len());
        assert!(note.ends_with('…'));
    }
}
