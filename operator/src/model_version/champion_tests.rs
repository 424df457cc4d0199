//! Who is compared with.

use serde_json::json;

use super::*;
use crate::model_version::fixtures::*;

fn name_of(services: Vec<InferenceService>, versions: Vec<ModelVersion>) -> Option<String> {
    let surroundings = Surroundings { dataset: None, services, versions };
    champion(&version(9, json!({})), &surroundings).map(|champion| champion.name)
}

fn follows() -> serde_json::Value {
    json!({"name": "flights"})
}

#[test]
fn what_is_served_by_name_comes_before_what_is_pinned_and_before_what_is_approved() {
    let versions = || vec![version(1, json!({})), version(2, json!({})), approved(3)];
    let pinned = || service("a", json!({"modelVersion": "flights-2"}), "flights-2");
    let by_name = || service("b", follows(), "flights-1");
    assert_eq!(name_of(vec![pinned(), by_name()], versions()).as_deref(), Some("flights-1"));
    assert_eq!(name_of(vec![pinned()], versions()).as_deref(), Some("flights-2"));
    assert_eq!(name_of(vec![], versions()).as_deref(), Some("flights-3"));
}

#[test]
fn the_highest_approved_version_counts_not_the_one_approved_last() {
    let versions = vec![approved(3), approved(10), approved(4), version(12, json!({}))];
    assert_eq!(name_of(vec![], versions).as_deref(), Some("flights-10"));
}

#[test]
fn no_version_competes_with_itself_or_with_another_model() {
    let other = version(1, json!({"model": "fraud"}));
    assert_eq!(name_of(vec![service("a", follows(), "flights-9")], vec![approved(9), other]), None);
}

#[test]
fn a_served_version_that_is_gone_leaves_it_to_the_approved_ones() {
    assert_eq!(name_of(vec![service("a", follows(), "flights-1")], vec![approved(3)]).as_deref(), Some("flights-3"));
}
