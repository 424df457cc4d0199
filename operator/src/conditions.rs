//! Conditions by the rules of kstatus: Ready always, Reconciling and Stalled only while they are True. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use millrace_crds::conditions::{READY, RECONCILING, STALLED};

use crate::{Error, error::Class};

/// Reason while a child can't be written: the API server refuses it, or it is somebody else's.
pub const CHILD_REFUSED: &str = "ChildRefused";
/// Longest message; more than a person reads, far less than the API allows.
const MAX_MESSAGE: usize = 1024;

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can tell.
    Unknown,
}

impl Is {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What the three kstatus conditions say together, with reason and message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summary {
    /// The object is as asked: Ready=True.
    Done,
    /// Work goes on: Ready=False, Reconciling=True.
    Working,
    /// No progress without a change from outside: Ready=False, Stalled=True.
    Stuck,
}

/// Writes conditions of one object at one moment: generation and time are the same for all.
pub struct Conditions<'a> {
    list: &'a mut Vec<Condition>,
    generation: i64,
    now: Timestamp,
}

impl<'a> Conditions<'a> {
    /// Changes this list.
    pub fn new(list: &'a mut Vec<Condition>, generation: i64, now: Timestamp) -> Self {
        Self { list, generation, now }
    }

    /// Sets one condition; its transition time only moves when its status changes.
    pub fn set(&mut self, kind: &str, is: Is, reason: &str, message: &str) -> &mut Self {
        let former = self.list.iter().position(|c| c.type_ == kind);
        let unchanged_since =
            former.map(|at| &self.list[at]).filter(|c| c.status == is.as_str()).map(|c| c.last_transition_time.clone());
        let condition = Condition {
            type_: kind.to_owned(),
            status: is.as_str().to_owned(),
            reason: reason.to_owned(),
            message: shortened(message),
            observed_generation: Some(self.generation),
            last_transition_time: unchanged_since.unwrap_or_else(|| Time(whole_seconds(self.now))),
        };
        match former {
            Some(at) => self.list[at] = condition,
            None => self.list.push(condition),
        }
        self
    }

    /// Removes one condition.
    pub fn remove(&mut self, kind: &str) -> &mut Self {
        self.list.retain(|c| c.type_ != kind);
        self
    }

    /// Says that a child can't be written. What stands in the way may go by itself, but for a child that the spec asks for and that can't be:
    /// `remedy` says what helps then.
    pub fn child_refused(&mut self, error: &Error, remedy: &str) -> &mut Self {
        match error.class() {
            Class::Invalid => self.summarise(Summary::Stuck, CHILD_REFUSED, &format!("{remedy}: {error}")),
            Class::Blocked | Class::Conflict | Class::Transient => {
                self.summarise(Summary::Working, CHILD_REFUSED, &error.to_string())
            }
        }
    }

    /// Sets Ready, Reconciling and Stalled so that they agree.
    pub fn summarise(&mut self, summary: Summary, reason: &str, message: &str) -> &mut Self {
        match summary {
            Summary::Done => self.set(READY, Is::True, reason, message).remove(RECONCILING).remove(STALLED),
            Summary::Working => {
                self.set(READY, Is::False, reason, message).set(RECONCILING, Is::True, reason, message).remove(STALLED)
            }
            Summary::Stuck => {
                self.set(READY, Is::False, reason, message).set(STALLED, Is::True, reason, message).remove(RECONCILING)
            }
        }
    }
}

/// The condition of this type.
pub fn find<'a>(list: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    list.iter().find(|c| c.type_ == kind)
}

/// Whether the condition of this type is there and True.
pub fn is_true(list: &[Condition], kind: &str) -> bool {
    find(list, kind).is_some_and(|c| c.status == "True")
}

/// The API keeps whole seconds: a finer time would differ from itself after one write and one read.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn shortened(message: &str) -> String {
    if message.chars().count() <= MAX_MESSAGE {
        return message.to_owned();
    }
    message.chars().take(MAX_MESSAGE - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn shown(list: &[Condition]) -> Vec<(&str, &str, &str)> {
        list.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect()
    }

    #[test]
    fn the_three_conditions_always_agree() {
        let mut list = Vec::new();
        let now = at("2026-01-01T00:00:00Z");
        Conditions::new(&mut list, 1, now).summarise(Summary::Working, "Preparing", "a");
        assert_eq!(shown(&list), [(READY, "False", "Preparing"), (RECONCILING, "True", "Preparing")]);
        Conditions::new(&mut list, 1, now).summarise(Summary::Stuck, "Bad", "b");
        assert_eq!(shown(&list), [(READY, "False", "Bad"), (STALLED, "True", "Bad")]);
        Conditions::new(&mut list, 1, now).summarise(Summary::Done, "Fine", "c");
        assert_eq!(shown(&list), [(READY, "True", "Fine")]);
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut list = Vec::new();
        let (first, later) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T01:00:00Z"));
        Conditions::new(&mut list, 1, first).set(READY, Is::False, "A", "");
        Conditions::new(&mut list, 2, later).set(READY, Is::False, "B", "other");
        assert_eq!(list[0].last_transition_time.0, first);
        assert_eq!(list[0].observed_generation, Some(2));
        Conditions::new(&mut list, 2, later).set(READY, Is::True, "C", "");
        assert_eq!(list[0].last_transition_time.0, later);
    }

    #[test]
    fn times_are_kept_to_whole_seconds_and_messages_to_a_bound() {
        let mut list = Vec::new();
        Conditions::new(&mut list, 1, at("2026-01-01T00:00:00.75Z")).set(READY, Is::True, "A", &"x".repeat(5000));
        assert_eq!(list[0].last_transition_time.0, at("2026-01-01T00:00:00Z"));
        assert_eq!(list[0].message.chars().count(), MAX_MESSAGE);
    }
}
