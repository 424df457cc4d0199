//! Every model that the server knows, with its versions and where each of them stands. A table is never changed: who changes something
//! makes a new one, so that a request reads it without a lock. Pure.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use serde::Serialize;

use crate::{
    errors::{Reason, Refusal},
    runtime::Serving,
    sketches::Sketches,
    status::Trouble,
};

/// Models that a message lists at most.
const LISTED: usize = 10;

/// A version that answers.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What answers.
    pub serving: Arc<Serving>,
    /// What it has seen.
    pub sketches: Arc<Sketches>,
}

/// Where a version stands.
#[derive(Clone, Debug)]
pub enum Standing {
    /// On its way for the first time; the last trouble, if there was one.
    Loading(Trouble),
    /// It answers. The trouble is that of the last try to replace it, which failed and changed nothing.
    Ready(Loaded, Option<Trouble>),
    /// It takes no more requests, and answers those that it has.
    Unloading,
    /// It does not answer: it could not be loaded, or was unloaded.
    Unavailable(Trouble),
}

/// One row of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Name in the protocol.
    pub name: Arc<str>,
    /// Version in the protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Arc<str>>,
    /// `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`.
    pub state: &'static str,
    /// Why it is not ready, or why it could not be replaced; empty when all is well.
    pub reason: String,
    /// Digest of the bytes that answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A version as a key: by number where it is one, so that 10 comes after 9.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub Option<Arc<str>>);

impl Version {
    /// From its text.
    pub fn new(text: &str) -> Self {
        Self(Some(text.into()))
    }

    fn number(&self) -> Option<u64> {
        self.0.as_deref()?.parse().ok()
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number().cmp(&other.number()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("none"))
    }
}

/// Name and version of what is loaded.
pub type Key = (Arc<str>, Version);

/// All models.
#[derive(Clone, Debug, Default)]
pub struct Table {
    models: BTreeMap<Arc<str>, BTreeMap<Version, Standing>>,
}

impl Table {
    /// The version asked for; without one, the highest that answers.
    ///
    /// # Errors
    /// [`Reason::UnknownModel`], [`Reason::NotReady`].
    pub fn find(&self, name: &str, version: Option<&str>) -> Result<&Loaded, Refusal> {
        let versions = self.models.get(name).ok_or_else(|| self.unknown(name))?;
        let Some(version) = version else {
            return versions.values().rev().find_map(Standing::loaded).ok_or_else(|| not_ready(name, versions));
        };
        let asked = versions.iter().find(|(key, _)| key.0.as_deref() == Some(version));
        let (_, standing) = asked.ok_or_else(|| {
            let has: Vec<String> = versions.keys().map(|key| format!("{:?}", key.to_string())).collect();
            let message = format!("model {name:?} has no version {version:?}; it has {}", has.join(", "));
            Refusal::new(Reason::UnknownModel, message)
        })?;
        let trouble = match standing {
            Standing::Ready(loaded, _) => return Ok(loaded),
            Standing::Loading(trouble) | Standing::Unavailable(trouble) => trouble.to_string(),
            Standing::Unloading => UNLOADING.to_owned(),
        };
        Err(Refusal::new(Reason::NotReady, format!("version {version:?} of model {name:?} is not loaded: {trouble}")))
    }

    fn unknown(&self, name: &str) -> Refusal {
        let mut served: Vec<String> = self.models.keys().take(LISTED).map(|name| format!("{name:?}")).collect();
        if self.models.len() > LISTED {
            served.push(format!("{} more", self.models.len() - LISTED));
        }
        let served = if served.is_empty() { "no model".to_owned() } else { served.join(", ") };
        Refusal::new(Reason::UnknownModel, format!("model {name:?} is unknown; this server serves {served}"))
    }

    /// Where a version stands.
    pub fn standing(&self, key: &Key) -> Option<&Standing> {
        self.models.get(&key.0)?.get(&key.1)
    }

    /// Versions of a model that answer, lowest first.
    pub fn ready_versions(&self, name: &str) -> Vec<Arc<str>> {
        let ready = |(version, standing): (&Version, &Standing)| standing.loaded().and(version.0.clone());
        self.models.get(name).into_iter().flatten().filter_map(ready).collect()
    }

    /// Every version of a model, lowest first.
    pub fn versions(&self, name: &str) -> Vec<Version> {
        self.models.get(name).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Names of all models.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.models.keys()
    }

    /// Sets where a version stands.
    pub fn set(&mut self, key: &Key, standing: Standing) {
        self.models.entry(Arc::clone(&key.0)).or_default().insert(key.1.clone(), standing);
    }

    /// Tells a trouble of a model as a whole at each of its versions: what answers goes on.
    pub fn trouble(&mut self, name: &Arc<str>, trouble: &Trouble) {
        let versions = self.models.entry(Arc::clone(name)).or_default();
        if versions.is_empty() {
            versions.insert(Version(None), Standing::Unavailable(trouble.clone()));
        }
        for standing in versions.values_mut() {
            match standing {
                Standing::Ready(_, told) => *told = Some(trouble.clone()),
                // Whoever takes it down says what it is afterwards.
                Standing::Unloading => {}
                Standing::Loading(_) | Standing::Unavailable(_) => *standing = Standing::Unavailable(trouble.clone()),
            }
        }
    }

    /// A version that is on its way is not any more.
    pub fn give_up(&mut self, key: &Key) {
        let standing = self.models.get_mut(&key.0).and_then(|versions| versions.get_mut(&key.1));
        if let Some(standing) = standing
            && let Standing::Loading(trouble) = &*standing
        {
            *standing = Standing::Unavailable(trouble.clone());
        }
    }

    /// The file of a version is as it should be again: what was told of it is over.
    pub fn trouble_is_over(&mut self, key: &Key) {
        let standing = self.models.get_mut(&key.0).and_then(|versions| versions.get_mut(&key.1));
        if let Some(Standing::Ready(_, told)) = standing {
            *told = None;
        }
    }

    /// Forgets a version, and its model with its last one.
    pub fn remove(&mut self, key: &Key) {
        if let Some(versions) = self.models.get_mut(&key.0) {
            versions.remove(&key.1);
            if versions.is_empty() {
                self.models.remove(&key.0);
            }
        }
    }

    /// Everything there is, by name and version.
    pub fn index(&self) -> Vec<Entry> {
        let rows = self.models.iter().flat_map(|(name, versions)| versions.iter().map(move |row| (name, row)));
        rows.map(|(name, (version, standing))| standing.entry(name, version)).collect()
    }
}

const UNLOADING: &str = "Unloading: it is being unloaded";

fn not_ready(name: &str, versions: &BTreeMap<Version, Standing>) -> Refusal {
    let why = versions
        .values()
        .next_back()
        .map_or(String::new(), |standing| standing.entry(&"".into(), &Version(None)).reason);
    Refusal::new(Reason::NotReady, format!("model {name:?} is not loaded: {why}"))
}

impl Standing {
    /// What answers.
    pub fn loaded(&self) -> Option<&Loaded> {
        match self {
            Self::Ready(loaded, _) => Some(loaded),
            Self::Loading(_) | Self::Unloading | Self::Unavailable(_) => None,
        }
    }

    fn entry(&self, name: &Arc<str>, version: &Version) -> Entry {
        let (state, reason) = match self {
            Self::Loading(trouble) => ("LOADING", trouble.to_string()),
            Self::Ready(_, None) => ("READY", String::new()),
            Self::Ready(_, Some(trouble)) => ("READY", format!("still the former file: {trouble}")),
            Self::Unloading => ("UNLOADING", UNLOADING.to_owned()),
            Self::Unavailable(trouble) => ("UNAVAILABLE", trouble.to_string()),
        };
        let digest = self.loaded().map(|loaded| loaded.serving.digest.clone());
        Entry { name: Arc::clone(name), version: version.0.clone(), state, reason, digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, version: &str) -> Key {
        (name.into(), Version::new(version))
    }

    fn unavailable(why: &str) -> Standing {
        Standing::Unavailable(Trouble::new("InvalidModel", why))
    }

    #[test]
    fn versions_are_ordered_by_number_and_those_without_one_come_first() {
        let mut versions: Vec<Version> = ["10", "9", "canary", "2"].map(Version::new).into();
        versions.push(Version(None));
        versions.sort();
        assert_eq!(versions.iter().map(ToString::to_string).collect::<Vec<_>>(), ["none", "canary", "2", "9", "10"]);
    }

    #[test]
    fn what_is_not_there_is_told_apart_from_what_is_not_ready() {
        let mut table = Table::default();
        assert_eq!(table.find("m", None).unwrap_err().message, "model \"m\" is unknown; this server serves no model");
        table.set(&key("m", "1"), unavailable("it is empty"));
        table.set(&key("m", "2"), Standing::Loading(Trouble::new("Loading", "on its way")));
        let refusals = [("m", None), ("m", Some("1")), ("m", Some("3")), ("x", None)]
            .map(|(name, version)| table.find(name, version).unwrap_err())
            .map(|refusal| (refusal.reason, refusal.message));
        let said = |reason, message: &str| (reason, message.to_owned());
        assert_eq!(
            refusals,
            [
                said(Reason::NotReady, "model \"m\" is not loaded: Loading: on its way"),
                said(Reason::NotReady, "version \"1\" of model \"m\" is not loaded: InvalidModel: it is empty"),
                said(Reason::UnknownModel, "model \"m\" has no version \"3\"; it has \"1\", \"2\""),
                said(Reason::UnknownModel, "model \"x\" is unknown; this server serves \"m\""),
            ]
        );
    }

    #[test]
    fn a_trouble_of_a_model_is_told_at_its_versions_and_keeps_none_that_is_going() {
        let mut table = Table::default();
        let trouble = Trouble::new("InvalidConfig", "no JSON");
        table.trouble(&"new".into(), &trouble);
        table.set(&key("m", "1"), unavailable("truncated"));
        table.set(&key("m", "2"), Standing::Unloading);
        table.trouble(&"m".into(), &trouble);
        let rows: Vec<String> = table.index().iter().map(|row| format!("{} {}", row.state, row.reason)).collect();
        let told = "UNAVAILABLE InvalidConfig: no JSON";
        assert_eq!(rows, [told, "UNLOADING Unloading: it is being unloaded", told], "m 1, m 2, new");
        table.give_up(&key("m", "2"));
        table.trouble_is_over(&key("m", "2"));
        table.trouble_is_over(&key("other", "2"));
        let states = |table: &Table| table.index().iter().map(|row| row.state).collect::<Vec<_>>();
        assert_eq!(states(&table), ["UNAVAILABLE", "UNLOADING", "UNAVAILABLE"]);
        table.set(&key("m", "1"), Standing::Loading(trouble));
        table.give_up(&key("m", "1"));
        assert_eq!(states(&table), ["UNAVAILABLE", "UNLOADING", "UNAVAILABLE"]);
    }

    #[test]
    fn a_message_lists_at_most_ten_models() {
        let mut table = Table::default();
        for index in 10..23 {
            table.set(&key(&format!("m{index}"), "1"), unavailable("x"));
        }
        let message = table.find("x", None).unwrap_err().message;
        assert!(message.ends_with("\"m19\", 3 more"), "{message}");
    }

    #[test]
    fn the_index_names_each_version_with_its_state_and_reason() {
        let mut table = Table::default();
        table.set(&key("b", "1"), Standing::Unloading);
        table.set(&key("a", "10"), unavailable("truncated"));
        table.set(&key("a", "9"), Standing::Loading(Trouble::new("Loading", "on its way")));
        let rows: Vec<String> = table
            .index()
            .iter()
            .map(|row| format!("{} {} {}", row.name, row.version.as_deref().unwrap_or_default(), row.state))
            .collect();
        assert_eq!(rows, ["a 9 LOADING", "a 10 UNAVAILABLE", "b 1 UNLOADING"]);
        table.remove(&key("b", "1"));
        assert_eq!(table.names().map(ToString::to_string).collect::<Vec<_>>(), ["a"]);
    }
}
