//! Which InferenceService a request is for: by its host, else by the model's name in the protocol. Pure.

/// Prefix of every model path of the Open Inference Protocol.
const MODELS_PATH: &str = "/v2/models/";

/// The service a host name stands for: `svc`, `svc.ns`, or `svc.ns.svc` with any cluster domain. None for every other host;
/// the service need not exist.
pub fn service_in_host<'a>(host: &'a str, namespace: &str) -> Option<&'a str> {
    let name = without_port(host).trim_end_matches('.');
    let mut labels = name.split('.');
    let service = labels.next().filter(|label| !label.is_empty())?;
    let in_our_namespace = labels.next().is_none_or(|label| label.eq_ignore_ascii_case(namespace));
    let is_service_domain = labels.next().is_none_or(|label| label.eq_ignore_ascii_case("svc"));
    (in_our_namespace && is_service_domain).then_some(service)
}

/// The model a path of the protocol names: `/v2/models/NAME` and everything below it.
pub fn service_in_path(path: &str) -> Option<&str> {
    path.strip_prefix(MODELS_PATH)?.split('/').next().filter(|name| !name.is_empty())
}

/// Whether a path of the protocol asks for a prediction.
pub fn is_inference(path: &str) -> bool {
    path.strip_prefix(MODELS_PATH).is_some_and(|rest| rest.ends_with("/infer"))
}

/// The version a path of the protocol names: `/v2/models/NAME/versions/VERSION` and everything below it.
pub fn version_in_path(path: &str) -> Option<&str> {
    let mut parts = path.strip_prefix(MODELS_PATH)?.split('/');
    let is_versioned = parts.next().is_some() && parts.next() == Some("versions");
    parts.next().filter(|version| is_versioned && !version.is_empty())
}

/// The same path without its version.
pub fn without_version(path: &str, version: &str) -> String {
    path.replacen(&format!("/versions/{version}"), "", 1)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_names_its_service_in_every_form_that_cluster_dns_knows() {
        let cases = [
            ("fraud", Some("fraud")),
            ("fraud:8080", Some("fraud")),
            ("fraud.shop", Some("fraud")),
            ("fraud.shop:80", Some("fraud")),
            ("fraud.shop.svc", Some("fraud")),
            ("fraud.shop.svc.cluster.local", Some("fraud")),
            ("fraud.shop.svc.cluster.local.", Some("fraud")),
            ("fraud.SHOP.SVC", Some("fraud")),
            ("fraud.other", None),
            ("fraud.example.com", None),
            ("fraud.shop.example.com", None),
            ("", None),
            (":80", None),
            (".shop", None),
            ("10.0.0.1:8080", None),
            ("[::1]:8080", Some("[::1]")),
        ];
        for (host, expected) in cases {
            assert_eq!(service_in_host(host, "shop"), expected, "host {host:?}");
        }
    }

    #[test]
    fn a_path_of_the_protocol_names_its_model() {
        let cases = [
            ("/v2/models/fraud/infer", Some("fraud")),
            ("/v2/models/fraud/versions/3/infer", Some("fraud")),
            ("/v2/models/fraud", Some("fraud")),
            ("/v2/models/", None),
            ("/v2/models//infer", None),
            ("/v2/models", None),
            ("/v2/health/ready", None),
            ("/v1/models/fraud:predict", None),
            ("", None),
        ];
        for (path, expected) in cases {
            assert_eq!(service_in_path(path), expected, "path {path:?}");
        }
    }

    #[test]
    fn only_one_path_of_a_model_asks_for_a_prediction() {
        let cases = [
            ("/v2/models/fraud/infer", true),
            ("/v2/models/fraud/versions/3/infer", true),
            ("/v2/models/fraud/ready", false),
            ("/v2/models/fraud", false),
            ("/v2/models/infer", false),
            ("/v2/repository/models/fraud/unload", false),
            ("/other/infer", false),
        ];
        for (path, expected) in cases {
            assert_eq!(is_inference(path), expected, "path {path:?}");
        }
    }

    #[test]
    fn a_path_of_the_protocol_may_name_a_version() {
        let cases = [
            ("/v2/models/fraud/versions/fraud-3/infer", Some("fraud-3")),
            ("/v2/models/fraud/versions/3", Some("3")),
            ("/v2/models/fraud/versions/", None),
            ("/v2/models/fraud/versions", None),
            ("/v2/models/fraud/infer", None),
            ("/v2/models/versions/3", None),
        ];
        for (path, expected) in cases {
            assert_eq!(version_in_path(path), expected, "path {path:?}");
        }
        let path = "/v2/models/fraud/versions/fraud-3/infer?a=/versions/fraud-3";
        assert_eq!(without_version(path, "fraud-3"), "/v2/models/fraud/infer?a=/versions/fraud-3");
    }
}
