//! The store on a web server: parts at the same time, downloads that break off, redirects, and a cache in front of it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response, StatusCode, header, request};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use millrace_contract::Digest;
use millrace_store::{Cache, Error, Found, Location, Options, Parts};
use tokio::net::TcpListener;

/// What the server does, and what it was asked.
#[derive(Default)]
struct Site {
    object: Mutex<Vec<u8>>,
    /// Answers with the whole object, whatever was asked for.
    whole_only: bool,
    /// Refuses parts from here on, in a way that is not asked again at once.
    broken_from: AtomicUsize,
    ranges: Mutex<Vec<String>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

fn bytes(count: u32) -> Vec<u8> {
    (0..count).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

impl Site {
    fn new(object: Vec<u8>) -> Self {
        Self { object: Mutex::new(object), broken_from: AtomicUsize::new(usize::MAX), ..Self::default() }
    }

    async fn serve(self) -> (Arc<Self>, SocketAddr) {
        let site = Arc::new(self);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&site);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let site = Arc::clone(&shared);
                let service = service_fn(move |request: Request<Incoming>| {
                    let site = Arc::clone(&site);
                    async move { Ok::<_, Infallible>(site.answer(Request::into_parts(request).0).await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { _ = builder.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        (site, address)
    }

    async fn answer(&self, request: request::Parts) -> Response<Full<Bytes>> {
        let path = request.uri.path();
        if let Some(target) = path.strip_prefix("/to/") {
            let location = format!("http://{target}");
            return Response::builder().status(302).header(header::LOCATION, location).body(Full::default()).unwrap();
        }
        let object = self.object.lock().unwrap().clone();
        let tag = format!("\"{}\"", Digest::of(&object).short());
        let answer = Response::builder()
            .header(header::ETAG, &tag)
            .header(header::LAST_MODIFIED, "Mon, 02 Jan 2023 10:00:00 GMT");
        if request.headers.get(header::IF_MATCH).is_some_and(|asked| asked.as_bytes() != tag.as_bytes()) {
            return answer.status(StatusCode::PRECONDITION_FAILED).body(Full::default()).unwrap();
        }
        let range = request.headers.get(header::RANGE).filter(|_| !self.whole_only).map(|v| v.to_str().unwrap());
        let Some(range) = range else { return answer.body(object.into()).unwrap() };
        self.ranges.lock().unwrap().push(range.to_owned());
        let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse::<usize>().map_or(object.len(), |last| (last + 1).min(object.len()));
        if start >= self.broken_from.load(Ordering::SeqCst) {
            return Response::builder().status(400).body(Full::default()).unwrap();
        }
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        // Others get the chance to be here at the same time.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        let content_range = format!("bytes {start}-{}/{}", end - 1, object.len());
        let answer = answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, content_range);
        answer.body(object[start..end].to_vec().into()).unwrap()
    }
}

fn open(address: SocketAddr, path: &str) -> Result<Location, Error> {
    let options = Options::default().allowing(["127.0.0.1".parse().unwrap()]);
    Location::open(&format!("http://{address}/{path}"), &options)
}

const PARTS: Parts = Parts { connections: 4, bytes: 1000 };

#[tokio::test]
async fn a_large_object_comes_in_parts_at_the_same_time_and_whole() {
    let object = bytes(10_500);
    let (site, address) = Site::new(object.clone()).serve().await;
    let location = open(address, "m.onnx").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m");
    let done = location.download_with(&file, Some(&Digest::of(&object)), 1 << 20, PARTS).await.unwrap();
    assert_eq!((done.bytes, std::fs::read(&file).unwrap()), (10_500, object.clone()));
    assert_eq!(location.get_verified_with(&Digest::of(&object), 1 << 20, PARTS).await.unwrap(), object);
    let most = site.most_at_once.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} parts at once");
    // 11 parts twice, and one byte each time to see whether there are parts at all.
    assert_eq!(site.ranges.lock().unwrap().len(), 24);
    assert_eq!(entries(folder.path()), ["m"]);
}

#[tokio::test]
async fn an_object_whose_digest_nobody_knows_comes_in_parts_too_and_only_up_to_the_limit() {
    let object = bytes(10_500);
    let (site, address) = Site::new(object.clone()).serve().await;
    let location = open(address, "m.onnx").unwrap();
    assert_eq!(location.get_in_parts(1 << 20, PARTS).await.unwrap(), object);
    let most = site.most_at_once.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} parts at once");
    assert!(matches!(location.get_in_parts(10_000, PARTS).await, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn a_server_without_parts_gives_the_whole_object() {
    let object = bytes(5000);
    let (_site, address) = Site { whole_only: true, ..Site::new(object.clone()) }.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m");
    let location = open(address, "m.onnx").unwrap();
    assert_eq!(location.get_in_parts(1 << 20, PARTS).await.unwrap(), object);
    location.download_with(&file, Some(&Digest::of(&object)), 1 << 20, PARTS).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), object);
}

#[tokio::test]
async fn a_download_that_broke_off_is_continued_where_it_was() {
    let object = bytes(10_000);
    let (site, address) = Site::new(object.clone()).serve().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m");
    let location = open(address, "m.onnx").unwrap();
    let one_at_a_time = Parts { connections: 2, ..PARTS };
    site.broken_from.store(6000, Ordering::SeqCst);
    let digest = Digest::of(&object);
    let error = location.download_with(&file, Some(&digest), 1 << 20, one_at_a_time).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(entries(folder.path()), ["m.part", "m.tag"]);
    let had = std::fs::metadata(folder.path().join("m.part")).unwrap().len();
    assert!((5000..=6000).contains(&had), "{had}");
    site.broken_from.store(usize::MAX, Ordering::SeqCst);
    site.ranges.lock().unwrap().clear();
    location.download_with(&file, Some(&digest), 1 << 20, one_at_a_time).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), object);
    assert_eq!(entries(folder.path()), ["m"]);
    let asked = site.ranges.lock().unwrap().clone();
    assert!(
        asked.len() <= 6 && asked.iter().all(|range| range == "bytes=0-0" || *range >= format!("bytes={had}")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn what_was_begun_of_another_object_is_begun_anew() {
    let object = bytes(10_000);
    let (site, address) = Site::new(object).serve().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m");
    let location = open(address, "m.onnx").unwrap();
    site.broken_from.store(4000, Ordering::SeqCst);
    location.download_with(&file, None, 1 << 20, PARTS).await.unwrap_err();
    let other: Vec<u8> = bytes(20_000).split_off(10_000);
    *site.object.lock().unwrap() = other.clone();
    site.broken_from.store(usize::MAX, Ordering::SeqCst);
    location.download_with(&file, Some(&Digest::of(&other)), 1 << 20, PARTS).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), other);
}

#[tokio::test]
async fn half_a_file_that_was_damaged_is_fetched_again_from_its_beginning() {
    let object = bytes(10_000);
    let (site, address) = Site::new(object.clone()).serve().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m");
    let location = open(address, "m.onnx").unwrap();
    site.broken_from.store(4000, Ordering::SeqCst);
    location.download_with(&file, None, 1 << 20, PARTS).await.unwrap_err();
    std::fs::write(folder.path().join("m.part"), b"not what was there").unwrap();
    site.broken_from.store(usize::MAX, Ordering::SeqCst);
    location.download_with(&file, Some(&Digest::of(&object)), 1 << 20, PARTS).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), object);
}

#[tokio::test]
async fn neither_a_uri_nor_a_name_nor_a_redirect_leads_to_this_machine_unless_it_is_allowed() {
    let (_site, address) = Site::new(bytes(10)).serve().await;
    let port = address.port();
    let refused = |error: &Error| matches!(error, Error::Refused { .. });
    let nothing = Options::default();
    for uri in [
        format!("http://127.0.0.1:{port}/m"),
        "http://169.254.169.254/latest".to_owned(),
        format!("http://[::1]:{port}/m"),
    ] {
        let error = Location::open(&uri, &nothing).unwrap_err();
        assert!(refused(&error) && !error.is_transient() && error.reason() == "AddressRefused", "{uri}: {error}");
    }
    let by_name = Location::open(&format!("http://localhost:{port}/m"), &nothing).unwrap().get(100).await.unwrap_err();
    assert!(refused(&by_name), "{by_name}");
    assert_eq!(open(address, "m").unwrap().get(100).await.unwrap().len(), 10);
    let here = open(address, &format!("to/{address}/m")).unwrap();
    assert_eq!(here.get(100).await.unwrap().len(), 10);
    for target in ["169.254.169.254/latest", "[::1]:1/m", &format!("127.0.0.2:{port}/m")] {
        let error = open(address, &format!("to/{target}")).unwrap().get(100).await.unwrap_err();
        assert!(refused(&error), "{target}: {error}");
    }
}

#[tokio::test]
async fn a_cached_file_is_not_fetched_again_and_a_damaged_one_is() {
    let object = bytes(3000);
    let (site, address) = Site::new(object.clone()).serve().await;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 10_000).unwrap();
    let (location, digest) = (open(address, "m.onnx").unwrap(), Digest::of(&object));
    let fetch = || cache.fetch(&location, &digest, 1 << 20, PARTS);
    assert_eq!(fetch().await.unwrap(), (object.clone().into(), Found::Downloaded));
    *site.object.lock().unwrap() = b"gone".to_vec();
    assert_eq!(fetch().await.unwrap(), (object.clone().into(), Found::Cached));
    let kept = folder.path().join("sha256").join(digest.hex());
    std::fs::write(&kept, b"damaged").unwrap();
    assert!(matches!(fetch().await, Err(Error::DigestMismatch { .. })));
    assert!(!kept.exists(), "a damaged file is left");
    *site.object.lock().unwrap() = object.clone();
    assert_eq!(fetch().await.unwrap(), (object.into(), Found::Downloaded));
}

#[tokio::test]
async fn the_cache_keeps_to_its_size_and_what_was_used_last() {
    let (site, address) = Site::new(Vec::new()).serve().await;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 10_000).unwrap();
    let location = open(address, "m.onnx").unwrap();
    let objects = [4000, 4001, 4002].map(bytes);
    let fetch = async |object: &Vec<u8>| {
        *site.object.lock().unwrap() = object.clone();
        cache.fetch(&location, &Digest::of(object), 1 << 20, PARTS).await.unwrap().1
    };
    assert_eq!((fetch(&objects[0]).await, fetch(&objects[1]).await), (Found::Downloaded, Found::Downloaded));
    // Times of files may be coarse: the first was clearly used last.
    let second = folder.path().join("sha256").join(Digest::of(&objects[1]).hex());
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    std::fs::File::options().write(true).open(&second).unwrap().set_modified(past).unwrap();
    assert_eq!(fetch(&objects[0]).await, Found::Cached);
    assert_eq!(fetch(&objects[2]).await, Found::Downloaded);
    assert!(!second.exists());
    assert_eq!(fetch(&objects[0]).await, Found::Cached);
    assert_eq!(fetch(&bytes(10_001)).await, Found::NotKept);
    assert_eq!(entries(&folder.path().join("sha256")).len(), 2);
}

#[tokio::test]
async fn several_that_want_the_same_file_fetch_it_once() {
    let object = bytes(800);
    let (site, address) = Site::new(object.clone()).serve().await;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 10_000).unwrap();
    let (location, digest) = (open(address, "m.onnx").unwrap(), Digest::of(&object));
    let fetched = futures::future::join_all((0..8).map(|_| cache.fetch(&location, &digest, 1 << 20, PARTS))).await;
    let downloads = fetched.into_iter().filter(|one| one.as_ref().unwrap().1 == Found::Downloaded).count();
    assert_eq!(downloads, 1);
    drop(site);
}

fn entries(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
