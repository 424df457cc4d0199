//! From EndpointSlices to the addresses a router may use. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use millrace_contract::routing::SERVER_PORT;

/// Label that names the Service a slice belongs to; set by Kubernetes.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Name of the port that takes requests, where a Service has several.
const PORT_NAME: &str = "http";

/// Addresses by Service.
pub type Addresses = BTreeMap<String, BTreeSet<SocketAddr>>;

/// What slices say.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// The ready ones; where none is ready, those that end but still serve, as kube-proxy has it.
    pub usable: Addresses,
    /// Neither ready nor ending.
    pub unready: Addresses,
}

/// The addresses of all slices.
pub fn found<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Found {
    let (mut ready, mut ending, mut unready) = (Addresses::new(), Addresses::new(), Addresses::new());
    for slice in slices {
        let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) else {
            continue;
        };
        let port = port(slice);
        for endpoint in &slice.endpoints {
            let kind = match state(endpoint) {
                State::Ready => &mut ready,
                State::Ending => &mut ending,
                State::Unready => &mut unready,
                State::Gone => continue,
            };
            let addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
            kind.entry(service.clone()).or_default().extend(addresses.map(|address| SocketAddr::new(address, port)));
        }
    }
    for (service, addresses) in ending {
        ready.entry(service).or_insert(addresses);
    }
    Found { usable: ready, unready }
}

enum State {
    Ready,
    Ending,
    Unready,
    Gone,
}

fn state(endpoint: &Endpoint) -> State {
    let Some(conditions) = &endpoint.conditions else { return State::Ready };
    let is_terminating = conditions.terminating.unwrap_or(false);
    let is_ready = conditions.ready.unwrap_or(true);
    let is_serving = conditions.serving.unwrap_or(is_ready);
    match (is_terminating, is_ready, is_serving) {
        (false, true, _) => State::Ready,
        (false, false, _) => State::Unready,
        (true, _, true) => State::Ending,
        (true, _, false) => State::Gone,
    }
}

fn port(slice: &EndpointSlice) -> u16 {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let named = ports.iter().find(|port| port.name.as_deref() == Some(PORT_NAME));
    let number = named.or(ports.first()).and_then(|port| port.port).unwrap_or(SERVER_PORT);
    u16::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::discovery::v1::{EndpointConditions, EndpointPort},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };

    use super::*;

    fn endpoint(address: &str, ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Endpoint {
        Endpoint {
            addresses: vec![address.into()],
            conditions: Some(EndpointConditions { ready, serving, terminating }),
            ..Endpoint::default()
        }
    }

    fn slice(service: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let port = |name: &str, number| EndpointPort {
            name: Some(name.into()),
            port: Some(number),
            ..EndpointPort::default()
        };
        EndpointSlice {
            address_type: "IPv4".into(),
            endpoints,
            metadata: ObjectMeta {
                labels: Some([(SERVICE_NAME.to_owned(), service.to_owned())].into()),
                ..ObjectMeta::default()
            },
            ports: Some(vec![port("admin", 9090), port("http", 8080)]),
        }
    }

    fn usable(slices: &[EndpointSlice]) -> Vec<(String, Vec<String>)> {
        let text = |set: BTreeSet<SocketAddr>| set.iter().map(ToString::to_string).collect();
        found(slices).usable.into_iter().map(|(service, set)| (service, text(set))).collect()
    }

    #[test]
    fn ready_addresses_of_all_slices_of_a_service_are_joined() {
        let slices = [
            slice("fraud-a", vec![endpoint("10.0.0.1", Some(true), None, None)]),
            slice("fraud-a", vec![endpoint("10.0.0.2", None, None, None)]),
            slice("fraud-b", vec![endpoint("10.0.0.3", Some(true), Some(true), Some(false))]),
        ];
        let expected = [
            ("fraud-a".to_owned(), vec!["10.0.0.1:8080".to_owned(), "10.0.0.2:8080".to_owned()]),
            ("fraud-b".to_owned(), vec!["10.0.0.3:8080".to_owned()]),
        ];
        assert_eq!(usable(&slices), expected);
    }

    #[test]
    fn a_pod_that_ends_is_used_only_while_no_other_is_ready() {
        let ending = endpoint("10.0.0.1", Some(false), Some(true), Some(true));
        let ready = endpoint("10.0.0.2", Some(true), Some(true), None);
        assert_eq!(
            usable(&[slice("a", vec![ending.clone(), ready])]),
            [("a".to_owned(), vec!["10.0.0.2:8080".to_owned()])]
        );
        assert_eq!(usable(&[slice("a", vec![ending])]), [("a".to_owned(), vec!["10.0.0.1:8080".to_owned()])]);
    }

    #[test]
    fn a_pod_that_neither_is_ready_nor_serves_is_not_used() {
        let starting = endpoint("10.0.0.1", Some(false), Some(false), Some(false));
        let gone = endpoint("10.0.0.2", Some(false), Some(false), Some(true));
        let slices = [slice("a", vec![starting, gone])];
        assert_eq!(usable(&slices), []);
        let unready = [SocketAddr::from(([10, 0, 0, 1], 8080))].into();
        assert_eq!(found(&slices).unready, [("a".to_owned(), unready)].into());
    }

    #[test]
    fn a_slice_without_a_port_has_the_servers_port() {
        let mut given = slice("a", vec![endpoint("10.0.0.1", Some(true), None, None)]);
        given.ports = None;
        assert_eq!(usable(&[given]), [("a".to_owned(), vec!["10.0.0.1:8080".to_owned()])]);
    }
}
