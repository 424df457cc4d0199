//! The store on a real S3 server: SeaweedFS, as the embedded store of an installation is.

use millrace_contract::Digest;
use millrace_store::Error;

use crate::weed::start;

#[tokio::test]
async fn objects_travel_both_ways_are_listed_verified_and_deleted() {
    let weed = start().await;
    let store = weed.store("secret", "tenant");
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    // Three parts of a multipart upload.
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    std::fs::write(&source, &bytes).unwrap();
    weed.make_bucket().await;
    let object = store.at("models/fraud/model.onnx").unwrap();
    let sent = object.upload(&source).await.unwrap();
    assert_eq!((sent.bytes, &sent.digest), (20_000_000, &Digest::of(&bytes)));
    assert_eq!(object.download(&target, Some(&sent.digest), u64::MAX).await.unwrap(), sent);
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    assert!(matches!(
        object.download(&target, Some(&Digest::of("x")), u64::MAX).await,
        Err(Error::DigestMismatch { .. })
    ));
    assert!(matches!(object.get(1000).await, Err(Error::TooLarge { .. })));
    store.at("models/fraud/signature.json").unwrap().put("{}").await.unwrap();
    let listed = store.at("models").unwrap().list().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|entry| entry.relative.as_str()).collect();
    assert_eq!(names, ["fraud/model.onnx", "fraud/signature.json"]);
    assert_eq!(object.list().await.unwrap()[0].relative, "model.onnx");
    assert_eq!(store.at("models").unwrap().delete_prefix().await.unwrap(), 2);
    assert!(!object.exists().await.unwrap());
    assert!(matches!(object.get(1).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_not_told() {
    let weed = start().await;
    let error = weed.store("wrong-secret", "tenant").at("x").unwrap().get(1).await.unwrap_err();
    assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
    assert!(!error.to_string().contains("wrong-secret"), "{error}");
}
