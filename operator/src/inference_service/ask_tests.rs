//! Tests of asking, with a server on loopback that the asker of these tests may reach.

use axum::{Json, Router, http::StatusCode, routing};
use serde_json::json;

use super::*;

fn anybody(hosts: &[&str]) -> Asker {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    Asker::with(&hosts, |_| false, resolve)
}

/// A server that answers queries by what they are, and POSTs by what they say.
async fn server() -> String {
    let query = |uri: Uri| async move {
        match uri.query() {
            Some("query=a%7Bb%3D%22c%22%7D%20%2F%202") => Json(json!({
                "status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "0.25"]}]},
            })),
            other => Json(json!({"status": "error", "error": format!("unexpected {other:?}")})),
        }
    };
    let post = |body: String| async move { if body == "yes" { StatusCode::NO_CONTENT } else { StatusCode::CONFLICT } };
    let slow = || std::future::pending::<StatusCode>();
    let app = Router::new()
        .route("/prometheus/api/v1/query", routing::get(query))
        .route("/hook", routing::post(post))
        .route("/slow", routing::post(slow));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn post(url: String, body: &str) -> Ask {
    Ask::Post { url, body: body.to_owned(), seconds: 1 }
}

#[tokio::test]
async fn a_query_gives_its_number_and_a_webhook_says_yes_or_no() {
    let (asker, server) = (anybody(&[]), server().await);
    let query =
        |query: &str| Ask::Query { address: format!("{server}/prometheus/"), query: query.to_owned(), seconds: 1 };
    assert_eq!(asker.ask(&query("a{b=\"c\"} / 2")).await, Ok(0.25));
    let refused = asker.ask(&query("b")).await.unwrap_err();
    assert!(refused.starts_with("the query fails: unexpected"), "{refused}");
    assert_eq!(asker.ask(&post(format!("{server}/hook"), "yes")).await, Ok(1.0));
    assert_eq!(asker.ask(&post(format!("{server}/hook"), "no")).await, Ok(0.0));
}

#[tokio::test]
async fn who_does_not_answer_gave_no_data() {
    let (asker, server) = (anybody(&[]), server().await);
    assert_eq!(asker.ask(&post(format!("{server}/slow"), "yes")).await, Err("no answer within 1 s".to_owned()));
    let closed = asker.ask(&post("http://127.0.0.1:1/".to_owned(), "yes")).await.unwrap_err();
    assert!(closed.contains("refused"), "{closed}");
}

#[tokio::test]
async fn no_spec_reaches_this_machine_or_a_host_that_the_platform_did_not_name() {
    let open = Asker::new(&[]);
    let listed = anybody(&["prometheus.monitoring", ".hooks.svc"]);
    let cases = [
        (&open, "http://127.0.0.1:9/", "out of bounds"),
        (&open, "http://localhost:9/", "out of bounds for checks|within bounds"),
        (&open, "http://[::1]:9/", "out of bounds"),
        (&open, "http://[::ffff:169.254.169.254]/latest", "out of bounds"),
        (&open, "http://169.254.169.254/latest", "out of bounds"),
        (&open, "http://0.0.0.0/", "out of bounds"),
        (&listed, "http://elsewhere/", "none of those that the platform allows"),
        (&listed, "http://badhooks.svc/", "none of those that the platform allows"),
    ];
    for (asker, url, expected) in cases {
        let refused = asker.ask(&post(url.to_owned(), "yes")).await.unwrap_err();
        assert!(expected.split('|').any(|words| refused.contains(words)), "{url}: {refused}");
    }
    assert!(listed.allowed("http://a.hooks.svc:80/x").is_ok());
    assert!(listed.allowed("http://prometheus.monitoring:9090/").is_ok());
}

#[test]
fn an_answer_of_prometheus_is_one_number_or_none() {
    let vector = |samples: Value| json!({"status": "success", "data": {"resultType": "vector", "result": samples}});
    let sample = |text: &str| json!({"metric": {}, "value": [1_700_000_000.5, text]});
    let cases = [
        (vector(json!([sample("1.5")])), Ok(1.5)),
        (json!({"status": "success", "data": {"resultType": "scalar", "result": [1, "3"]}}), Ok(3.0)),
        (vector(json!([sample("+Inf")])), Ok(f64::INFINITY)),
        (vector(json!([])), Err("the query returns nothing")),
        (vector(json!([sample("1"), sample("2")])), Err("the query returns 2 series: aggregate them to one")),
        (
            json!({"status": "success", "data": {"resultType": "matrix", "result": []}}),
            Err("the query returns a matrix: it must be a scalar or a vector of one"),
        ),
        (json!({"status": "error", "error": "parse error"}), Err("the query fails: parse error")),
    ];
    for (answer, expected) in cases {
        assert_eq!(number(&answer), expected.map_err(str::to_owned), "{answer}");
    }
    assert!(number(&vector(json!([sample("NaN")]))).unwrap().is_nan());
}
