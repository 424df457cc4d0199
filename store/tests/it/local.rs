//! The store on `file://`.

use std::path::Path;

use millrace_contract::Digest;
use millrace_store::{Error, Location, Options, Store, Transferred};

fn at(folder: &Path, relative: &str) -> Location {
    Location::open(&format!("file://{}", folder.display()), &Options::default()).unwrap().join(relative).unwrap()
}

#[tokio::test]
async fn what_was_put_is_read_listed_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let root = at(folder.path(), "models");
    root.join("fraud/model.onnx").unwrap().put("weights").await.unwrap();
    root.join("fraud/signature.json").unwrap().put("{}").await.unwrap();
    at(folder.path(), "models-of-others/x").put("x").await.unwrap();
    let listed = root.list().await.unwrap();
    let names: Vec<(&str, u64)> = listed.iter().map(|entry| (entry.relative.as_str(), entry.bytes)).collect();
    assert_eq!(names, [("fraud/model.onnx", 7), ("fraud/signature.json", 2)]);
    assert_eq!(listed[0].location.get(7).await.unwrap(), "weights");
    assert_eq!(root.delete_prefix().await.unwrap(), 2);
    assert!(root.list().await.unwrap().is_empty());
    assert!(at(folder.path(), "models-of-others/x").exists().await.unwrap());
}

#[tokio::test]
async fn a_location_that_is_an_object_lists_itself_and_one_that_is_nothing_lists_nothing() {
    let folder = tempfile::tempdir().unwrap();
    at(folder.path(), "lake/tx.csv").put("a,b").await.unwrap();
    let listed = at(folder.path(), "lake/tx.csv").list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].relative.as_str(), listed[0].bytes), ("tx.csv", 3));
    assert!(at(folder.path(), "nowhere").list().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_object_above_the_limit_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let object = at(folder.path(), "big");
    object.put(vec![7_u8; 11]).await.unwrap();
    assert!(matches!(object.get(10).await, Err(Error::TooLarge { limit: 10, .. })));
    assert_eq!(object.get(11).await.unwrap().len(), 11);
    let file = folder.path().join("copy");
    assert!(matches!(object.download(&file, None, 10).await, Err(Error::TooLarge { .. })));
    assert!(!file.exists());
}

#[tokio::test]
async fn a_file_travels_both_ways_under_one_digest() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    // More than one upload part.
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    std::fs::write(&source, &bytes).unwrap();
    let expected = Transferred { digest: Digest::of(&bytes), bytes: 20_000_000 };
    let object = at(folder.path(), "store/object");
    assert_eq!(object.upload(&source).await.unwrap(), expected);
    assert_eq!(object.download(&target, Some(&expected.digest), u64::MAX).await.unwrap(), expected);
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    assert_eq!(object.get_verified(&expected.digest, u64::MAX).await.unwrap(), bytes);
}

#[tokio::test]
async fn bytes_with_another_digest_leave_no_file_behind() {
    let folder = tempfile::tempdir().unwrap();
    let object = at(folder.path(), "object");
    object.put("these").await.unwrap();
    let target = folder.path().join("target");
    let error = object.download(&target, Some(&Digest::of("those")), 100).await.unwrap_err();
    assert!(matches!(&error, Error::DigestMismatch { found, .. } if *found == Digest::of("these")), "{error}");
    assert!(error.to_string().contains(&object.uri()), "{error}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["object"]);
    assert!(matches!(object.get_verified(&Digest::of("those"), 100).await, Err(Error::DigestMismatch { .. })));
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let object = at(folder.path(), "missing");
    assert!(!object.exists().await.unwrap());
    let error = object.get(1).await.unwrap_err();
    assert_eq!(error.to_string(), format!("file://{}/missing does not exist", folder.path().display()));
    assert!(!error.is_transient());
}

#[test]
fn a_uri_of_no_known_store_is_refused_with_an_example() {
    for uri in ["", "model.onnx", "ftp://host/x", "s3:///x", "file://host-name/x"] {
        let error = Location::open(uri, &Options::default()).unwrap_err();
        assert!(matches!(error, Error::InvalidUri { .. }), "{uri}: {error}");
        assert!(error.to_string().contains("s3://bucket/path"), "{uri}: {error}");
    }
}

#[test]
fn a_relative_path_never_leaves_its_root() {
    let root = Location::open("file:///srv/models", &Options::default()).unwrap();
    for path in ["../etc/passwd", "a/../../b", "/etc/passwd", "", "a//b", "./a"] {
        assert!(matches!(root.join(path), Err(Error::InvalidUri { .. })), "{path}");
    }
    assert_eq!(root.join("a/b.onnx").unwrap().uri(), "file:///srv/models/a/b.onnx");
}

#[test]
fn a_store_without_a_url_says_which_variable_is_missing() {
    let error = Store::from_env("MILLRACE_TEST_NO_SUCH_").unwrap_err();
    assert!(error.to_string().contains("MILLRACE_TEST_NO_SUCH_url"), "{error}");
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_unavailable_and_worth_another_try() {
    let pairs = [
        ("S_AWS_ENDPOINT", "http://127.0.0.1:9"),
        ("S_AWS_ALLOW_HTTP", "true"),
        ("S_AWS_REGION", "none"),
        ("S_AWS_ACCESS_KEY_ID", "id"),
        ("S_AWS_SECRET_ACCESS_KEY", "hunter2"),
    ];
    let options = Options::from_pairs("S_", pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let error = Location::open("s3://bucket/key", &options).unwrap().get(1).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().starts_with("s3://bucket/key could not be reached"), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}
