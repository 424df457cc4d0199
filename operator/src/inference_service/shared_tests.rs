//! Tests of what the services of a namespace share.

use serde_json::{Value, json};

use super::{pod::key_volume, *};
use crate::inference_service::fixtures::settings;

/// Arguments, mounts and volumes of the routers, beside those they always have.
fn router(secrets: &[&str], settings: &Settings) -> (Value, Value, Value) {
    let key_secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
    let shared = Shared { namespace: "shop", owners: Vec::new(), key_secrets: &key_secrets, settings };
    let pod = serde_json::to_value(shared.deployment()).unwrap()["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    let from_third = |list: &Value| list.as_array().unwrap()[2..].to_vec();
    let (mounts, volumes) = (from_third(&container["volumeMounts"]), from_third(&pod["volumes"]));
    (container["args"].clone(), json!(mounts), json!(volumes))
}

#[test]
fn routers_are_given_the_secrets_that_services_name() {
    assert_eq!(router(&[], &settings()), (json!(["--state-dir=/var/lib/millrace"]), json!([]), json!([])));
    let (arguments, mounts, volumes) = router(&["b.keys", "a"], &settings());
    assert_eq!(arguments, json!(["--state-dir=/var/lib/millrace", "--keys-dir=/etc/millrace/keys"]));
    let (a, b) = (key_volume("a"), key_volume("b.keys"));
    assert_eq!(
        mounts,
        json!([
            {"name": a, "mountPath": "/etc/millrace/keys/a", "readOnly": true},
            {"name": b, "mountPath": "/etc/millrace/keys/b.keys", "readOnly": true},
        ])
    );
    let volume = |name: &str, secret: &str| json!({"name": name, "secret": {"secretName": secret, "defaultMode": 0o440, "optional": true}});
    assert_eq!(volumes, json!([volume(&a, "a"), volume(&b, "b.keys")]));
    assert!(!b.contains('.'), "{b}");
}

#[test]
fn routers_serve_tls_beside_http_where_a_secret_is_named_whether_it_exists_or_not() {
    let (without, with) = (settings(), Settings { router_tls_secret: Some("edge".to_owned()), ..settings() });
    assert_eq!(router(&[], &without), (json!(["--state-dir=/var/lib/millrace"]), json!([]), json!([])));
    let arguments = [
        "--state-dir=/var/lib/millrace",
        "--tls-certificate=/etc/millrace/tls/tls.crt",
        "--tls-key=/etc/millrace/tls/tls.key",
    ];
    let mount = json!({"name": "tls", "mountPath": "/etc/millrace/tls", "readOnly": true});
    let secret = json!({"secretName": "edge", "defaultMode": 0o440, "optional": true});
    let volume = json!({"name": "tls", "secret": secret});
    assert_eq!(router(&[], &with), (json!(arguments), json!([mount]), json!([volume])));
    let (_, mounts, volumes) = router(&["edge"], &with);
    assert_eq!((mounts.as_array().unwrap().len(), volumes.as_array().unwrap().len()), (2, 2), "keys of the same name");
    for (settings, ports, allowed) in [
        (&without, json!([["http", 8080], ["admin", 9090]]), json!([8080, 9090])),
        (&with, json!([["http", 8080], ["https", 8443], ["admin", 9090]]), json!([8080, 8443, 9090])),
    ] {
        let key_secrets = BTreeSet::new();
        let shared = Shared { namespace: "shop", owners: Vec::new(), key_secrets: &key_secrets, settings };
        let container = shared.deployment().spec.unwrap().template.spec.unwrap().containers.remove(0);
        let named: Vec<_> =
            container.ports.unwrap().into_iter().map(|port| json!([port.name, port.container_port])).collect();
        assert_eq!(json!(named), ports);
        let rules = shared.router_policy().spec.unwrap().ingress.unwrap();
        let open: Vec<_> = rules.iter().map(|rule| json!(rule.ports.as_ref().unwrap()[0].port)).collect();
        assert_eq!(json!(open), allowed);
        let everybody = rules.iter().filter(|rule| rule.from.is_none()).count();
        assert_eq!(everybody, rules.len() - 1, "all but the admin port");
    }
}

#[test]
fn routers_are_as_the_operators_options_say() {
    let options = Settings {
        router_finish_seconds: 90,
        router_access_log_per_ten_thousand: 100,
        router_replicas: 3,
        ..settings()
    };
    let (arguments, ..) = router(&[], &options);
    let expected =
        ["--state-dir=/var/lib/millrace", "--finish-seconds=90", "--access-log=-", "--access-log-per-ten-thousand=100"];
    assert_eq!(arguments, json!(expected));
    let key_secrets = BTreeSet::new();
    let shared = Shared { namespace: "shop", owners: Vec::new(), key_secrets: &key_secrets, settings: &options };
    let spec = shared.deployment().spec.unwrap();
    let pod = spec.template.spec.unwrap();
    assert_eq!((spec.replicas, pod.termination_grace_period_seconds), (Some(3), Some(190)));
    assert_eq!(
        json!(pod.containers[0].resources),
        json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}})
    );
}
