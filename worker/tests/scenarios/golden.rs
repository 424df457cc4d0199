//! The dataset digest of fixed rows is a fixed number, and so is the split of each Id: stored versions are known by them, and a
//! worker that counts otherwise would make every version new. The numbers come from `golden/rows.py`, which follows the decision
//! record and not the worker.

use millrace_contract::{
    dataset::{Field, FieldRole, FieldType, Schema, Split, SplitSpec},
    worker::PrepareTask,
};

use crate::{
    prepare::ids_of,
    world::{World, field},
};

const CONTENT_DIGEST: &str = "sha256:40e7d39a3fb9703be436a482a91664679ab259d833b9f2a2408a476dd507953f";

/// Ids of the test split, sorted; one row of those without an Id is among them, and one that is there twice.
const TEST_IDS: [&str; 11] = ["", "é14", "é15", "é24", "é29", "é33", "é37", "é4", "é5", "é5", "é6"];

fn schema() -> Schema {
    let nullable = |name, data_type, role| Field { nullable: role != FieldRole::Label, ..field(name, data_type, role) };
    Schema {
        fields: vec![
            nullable("id", FieldType::String, FieldRole::Id),
            nullable("größe", FieldType::Number, FieldRole::Feature),
            nullable("count", FieldType::Integer, FieldRole::Feature),
            nullable("paid", FieldType::Boolean, FieldRole::Feature),
            nullable("city", FieldType::String, FieldRole::Sensitive),
            nullable("at", FieldType::Timestamp, FieldRole::Timestamp),
            nullable("label", FieldType::Integer, FieldRole::Label),
        ],
    }
}

#[tokio::test]
async fn fixed_rows_have_the_digest_and_the_test_split_that_the_decision_record_gives_them() {
    let world = World::new();
    world.write("a/rows.csv", include_str!("golden/rows.csv"));
    let split = SplitSpec { train: 0.6, validation: 0.15, test: 0.25, seed: -7 };
    let task = PrepareTask { schema: Some(schema()), split, ..world.task("a") };
    let prepared = world.prepare(&task).await.expect("good CSV");
    assert_eq!((prepared.content_digest.to_string().as_str(), prepared.rows), (CONTENT_DIGEST, 41));
    assert_eq!(ids_of(&world, &prepared, Split::Test), TEST_IDS);
}
