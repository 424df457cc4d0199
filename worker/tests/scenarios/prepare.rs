//! `prepare`, with small real files.

use std::collections::BTreeMap;

use millrace_contract::{
    Digest,
    dataset::{
        CsvOptions, Expectation, ExpectationName, Field, FieldRole, FieldType, FileFormat, Manifest, Schema, Severity,
        Split,
    },
    worker::{FailureReason, PrepareTask, PreparedDataset},
};

use millrace_worker::prepare::{self, Settings, SourceLimits};

use crate::world::{World, field};

/// Rows `id,amount,country,when,label` for these ids.
fn rows(ids: impl Iterator<Item = u32>) -> Vec<String> {
    ids.map(|id| {
        let amount = if id % 7 == 0 { String::new() } else { format!("{}.25", id * 3) };
        let country = ["NL", "DE", "FR"][id as usize % 3];
        format!("{id},{amount},{country},2024-01-{:02}T00:00:00Z,{}", id % 28 + 1, id % 2)
    })
    .collect()
}

const HEADER: &str = "id,amount,country,when,label";

fn csv(rows: &[String]) -> String {
    format!("{HEADER}\n{}\n", rows.join("\n"))
}

fn declared() -> Schema {
    Schema {
        fields: vec![
            field("id", FieldType::Integer, FieldRole::Id),
            Field { nullable: true, ..field("amount", FieldType::Number, FieldRole::Feature) },
            field("country", FieldType::String, FieldRole::Feature),
            field("when", FieldType::Timestamp, FieldRole::Timestamp),
            field("label", FieldType::Integer, FieldRole::Label),
        ],
    }
}

#[tokio::test]
async fn the_same_content_has_the_same_digest_in_any_order_and_any_number_of_files() {
    let world = World::new();
    let all = rows(0..300);
    let whole = world.prepare_csv("a", &csv(&all)).await.expect("good CSV");
    let reversed: Vec<String> = all.iter().rev().cloned().collect();
    world.write("b/1.csv", csv(&reversed[..100]));
    world.write("b/2.csv", csv(&reversed[100..]));
    let shuffled = world.prepare(&world.task("b")).await.expect("good CSV");
    assert_eq!(whole.content_digest, shuffled.content_digest);
    assert_eq!(whole.manifest_digest, shuffled.manifest_digest);
    assert_eq!(whole.rows, 300);
    let mut other = all.clone();
    other.push(all[0].clone());
    let repeated = world.prepare_csv("c", &csv(&other)).await.expect("good CSV");
    assert_ne!(whole.content_digest, repeated.content_digest, "a repeated row is another content");
}

#[tokio::test]
async fn columns_in_another_order_of_a_second_file_are_matched_by_name() {
    let world = World::new();
    world.write("a/1.csv", "x,y\n1,a\n");
    world.write("a/2.csv", "y,x\nb,2\n");
    world.write("b/1.csv", "x,y\n1,a\n2,b\n");
    let (a, b) = (world.prepare(&world.task("a")).await, world.prepare(&world.task("b")).await);
    assert_eq!(a.expect("good CSV").content_digest, b.expect("good CSV").content_digest);
}

#[tokio::test]
async fn csv_and_parquet_of_the_same_rows_have_the_same_digest() {
    let world = World::new();
    let from_csv = world.prepare_csv("a", &csv(&rows(0..100))).await.expect("good CSV");
    let version = format!("store/datasets/tx/{}", from_csv.content_digest.hex());
    for split in ["train", "validation", "test"] {
        let part = world.folder.path().join(&version).join(split).join("part-00000.parquet");
        world.write(&format!("b/{split}.parquet"), std::fs::read(part).expect("every split has a part"));
    }
    let mut task = world.task("b");
    task.source.format = FileFormat::Parquet;
    let from_parquet = world.prepare(&task).await.expect("good Parquet");
    assert_eq!(from_csv.content_digest, from_parquet.content_digest);
}

#[tokio::test]
async fn a_version_is_stored_with_its_manifest_and_not_a_second_time() {
    let world = World::new();
    let first = world.prepare_csv("a", &csv(&rows(0..200))).await.expect("good CSV");
    assert!(first.accepted && !first.unchanged);
    let folder = format!("datasets/tx/{}", first.content_digest.hex());
    let names = [
        "manifest.json",
        "profile.json",
        "test/part-00000.parquet",
        "train/part-00000.parquet",
        "validation/part-00000.parquet",
    ];
    assert_eq!(world.stored_files(), names.map(|n| format!("{folder}/{n}")));
    let manifest_path = world.folder.path().join("store").join(&folder).join("manifest.json");
    let bytes = std::fs::read(&manifest_path).expect("a manifest");
    assert_eq!(Some(Digest::of(&bytes)), first.manifest_digest);
    let manifest: Manifest = serde_json::from_slice(&bytes).expect("a manifest");
    let stored: u64 = manifest.parts.values().flatten().map(|p| p.rows).sum();
    assert_eq!(stored, 200);
    for part in manifest.parts.values().flatten() {
        let bytes = std::fs::read(manifest_path.with_file_name(&part.path)).expect("a part");
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (part.digest.clone(), part.bytes));
    }
    std::fs::write(manifest_path.with_file_name("profile.json"), "{}")
        .expect("a mark that a second write would remove");
    let task = PrepareTask { current: Some(first.content_digest.clone()), ..world.task("a") };
    let second = world.prepare(&task).await.expect("good CSV");
    assert_eq!(second, PreparedDataset { unchanged: true, ..first });
    assert_eq!(std::fs::read(manifest_path.with_file_name("profile.json")).expect("still there"), b"{}");
}

#[tokio::test]
async fn a_version_that_lost_a_part_is_written_again() {
    let world = World::new();
    let first = world.prepare_csv("a", &csv(&rows(0..50))).await.expect("good CSV");
    let before = world.stored_files();
    let part =
        world.folder.path().join("store").join(before.iter().find(|p| p.contains("train")).expect("a train part"));
    std::fs::remove_file(part).expect("removed");
    let second = world.prepare(&world.task("a")).await.expect("good CSV");
    assert_eq!(world.stored_files(), before);
    assert_eq!(second, first);
}

#[tokio::test]
async fn rows_keep_their_split_when_others_come() {
    let world = World::new();
    let mut splits: Vec<BTreeMap<String, Split>> = Vec::new();
    // The second version has more rows, and other values in the old ones: the Id alone decides.
    for (count, country) in [(100, "NL"), (400, "BE")] {
        let rows: Vec<String> = rows(0..count).iter().map(|row| row.replace("NL", country)).collect();
        world.write("a/data.csv", csv(&rows));
        let task = PrepareTask { schema: Some(declared()), ..world.task("a") };
        let prepared = world.prepare(&task).await.expect("good CSV");
        splits.push(ids_by_split(&world, &prepared));
    }
    assert_eq!(splits[0].len(), 100);
    assert!(splits[0].iter().all(|(id, split)| splits[1][id] == *split));
    let tested = splits[1].values().filter(|s| **s == Split::Test).count();
    // Binomial(400, 0.1): 40 ± 6; five deviations.
    assert!((10..=70).contains(&tested), "{tested}");
}

fn ids_by_split(world: &World, prepared: &PreparedDataset) -> BTreeMap<String, Split> {
    let of = |split| ids_of(world, prepared, split).into_iter().map(move |id| (id, split));
    Split::ALL.into_iter().flat_map(of).collect()
}

/// What stands in the column `id` of a split, sorted; nothing for a missing value.
pub fn ids_of(world: &World, prepared: &PreparedDataset, split: Split) -> Vec<String> {
    use parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::Field as Value,
    };
    let path = format!("datasets/tx/{}/{}/part-00000.parquet", prepared.content_digest.hex(), split.as_str());
    let Ok(file) = std::fs::File::open(world.stored(&path)) else { return Vec::new() };
    let rows = SerializedFileReader::new(file).expect("Parquet");
    let mut ids = Vec::new();
    for row in rows.get_row_iter(None).expect("rows") {
        let row = row.expect("a row");
        ids.push(match row.get_column_iter().find(|(name, _)| *name == "id").expect("column id").1 {
            Value::Null => String::new(),
            Value::Str(text) => text.clone(),
            other => other.to_string(),
        });
    }
    ids.sort();
    ids
}

#[tokio::test]
async fn a_query_and_a_declared_schema_shape_the_version() {
    let world = World::new();
    world.write("a/data.csv", csv(&rows(1..101)));
    let mut schema = declared();
    schema.fields[2].role = FieldRole::Ignored;
    let task = PrepareTask {
        transform_sql: Some("select id, amount, country, \"when\", label from source where country <> 'FR'".to_owned()),
        schema: Some(schema),
        ..world.task("a")
    };
    let prepared = world.prepare(&task).await.expect("good query");
    assert_eq!(prepared.rows, 67);
    let names: Vec<&str> = prepared.schema.fields.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["id", "amount", "when", "label"]);
}

#[tokio::test]
async fn a_failed_blocking_expectation_stores_nothing_and_shows_examples() {
    let world = World::new();
    world.write("a/data.csv", "name,age\nanna,20\nbob,-5\ncarl,300\n");
    let age = |severity| Expectation {
        name: ExpectationName::ColumnValuesToBeBetween,
        column: Some("age".to_owned()),
        min: Some(0.0),
        max: Some(150.0),
        value_set: None,
        mostly: 1.0,
        severity,
    };
    let name = Expectation {
        name: ExpectationName::ColumnValuesToBeInSet,
        column: Some("name".to_owned()),
        min: None,
        max: None,
        value_set: Some(vec!["anna".to_owned()]),
        ..age(Severity::Warn)
    };
    let schema = Schema {
        fields: vec![
            field("name", FieldType::String, FieldRole::Sensitive),
            field("age", FieldType::Integer, FieldRole::Feature),
        ],
    };
    let task =
        PrepareTask { schema: Some(schema), expectations: vec![age(Severity::Block), name.clone()], ..world.task("a") };
    let blocked = world.prepare(&task).await.expect("data that are bad, not broken");
    assert!(!blocked.accepted);
    assert_eq!(blocked.expectations[0].examples, ["-5", "300"]);
    assert_eq!((blocked.expectations[0].element_count, blocked.expectations[0].unexpected_count), (3, 2));
    assert_eq!((blocked.expectations[1].success, blocked.expectations[1].unexpected_count), (false, 2));
    assert!(blocked.expectations[1].examples.is_empty());
    let told = serde_json::to_string(&blocked).expect("JSON");
    assert!(!told.contains("bob") && !told.contains("carl"), "{told}");
    assert_eq!((blocked.uri, blocked.manifest_digest), (None, None));
    assert!(world.stored_files().is_empty());
    let warned = PrepareTask { expectations: vec![age(Severity::Warn), name], ..task };
    assert!(world.prepare(&warned).await.expect("a warning").accepted);
    assert!(!world.stored_files().is_empty());
}

#[tokio::test]
async fn more_data_than_memory_is_a_sentence_and_not_a_kill() {
    let world = World::new();
    let text = csv(&rows(0..2000));
    world.write("a/data.csv", &text);
    let task = world.task("a");
    let source = world.store.open(&task.source.uri).expect("a file URI");
    let roomy = Settings::for_memory(None);
    let unpacked = SourceLimits { memory_bytes: text.len(), ..roomy.source };
    let file_too_large = Settings::for_memory(Some(text.len() as u64 * 2));
    for settings in [file_too_large, Settings { source: unpacked, ..roomy }] {
        let problem = prepare::run(&task, &source, &world.store, settings).await.expect_err("too much");
        assert_eq!(problem.reason, FailureReason::MalformedSource);
        assert!(problem.message.contains("memory") && problem.message.contains("smaller folder"), "{problem}");
    }
    assert!(world.stored_files().is_empty());
}

#[tokio::test]
async fn bad_sources_end_with_their_reason() {
    let world = World::new();
    let cases = [
        ("empty", "", FailureReason::EmptySource),
        ("header", "a,b\n", FailureReason::EmptySource),
        ("short", "a,b\n1\n", FailureReason::MalformedSource),
        ("quote", "a,b\n\"1,2\n", FailureReason::MalformedSource),
    ];
    for (name, content, reason) in cases {
        let problem = world.prepare_csv(name, content).await.expect_err(name);
        assert_eq!(problem.reason, reason, "{name}: {problem}");
    }
    let absent = world.prepare(&world.task("nowhere")).await.expect_err("nothing there");
    assert_eq!(absent.reason, FailureReason::SourceNotFound);
    let schema = Schema { fields: vec![field("b", FieldType::Integer, FieldRole::Feature)] };
    world.write("typed/data.csv", "a,b\n1,x\n");
    let task = PrepareTask { schema: Some(schema), ..world.task("typed") };
    let problem = world.prepare(&task).await.expect_err("x is no integer");
    assert_eq!(problem.reason, FailureReason::SchemaMismatch);
    assert!(problem.message.contains("row 1") && problem.message.contains("\"x\""), "{problem}");
    let mut headless = world.task("typed");
    headless.source.csv = Some(CsvOptions { delimiter: "tab".to_owned(), header: true });
    assert_eq!(world.prepare(&headless).await.expect_err("no delimiter").reason, FailureReason::MalformedSource);
    assert!(world.stored_files().is_empty());
}
