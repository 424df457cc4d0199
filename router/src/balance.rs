//! Endpoints and which one of a revision gets a request: the one with the fewest requests in flight.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use http::uri::Authority;

use crate::{health::Health, pool::Pool};

/// One address of a revision. It outlives the snapshot it came with, so that its counts are true across plan changes.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    authority: Authority,
    in_flight: AtomicUsize,
    /// What is known of it.
    pub health: Health,
    pool: Pool,
}

impl Endpoint {
    /// An endpoint nothing is known of yet.
    pub fn new(address: SocketAddr) -> Self {
        let authority = Authority::try_from(address.to_string()).expect("a socket address is an authority");
        let health = Health::new(Instant::now());
        Self { address, authority, in_flight: AtomicUsize::new(0), health, pool: Pool::default() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as part of a URI.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Connections to it.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Requests that are being served by it for this router.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// A request in flight at an endpoint, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// Count a request in.
    pub fn at(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The endpoint for one more request: not yet tried, not left alone, fewest in flight, in this order of importance; among equals
/// the first after `offset`, which the caller draws at random so that idle routers spread.
pub fn least_loaded<'a>(
    endpoints: &'a [Arc<Endpoint>],
    tried: &[SocketAddr],
    offset: usize,
    now: Instant,
) -> Option<&'a Arc<Endpoint>> {
    let start = offset.checked_rem(endpoints.len())?;
    let (before, after) = endpoints.split_at(start);
    after
        .iter()
        .chain(before)
        .min_by_key(|endpoint| (tried.contains(&endpoint.address), endpoint.health.is_out(now), endpoint.in_flight()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
        (1..=count).map(|port| Arc::new(Endpoint::new(SocketAddr::from(([10, 0, 0, 1], port))))).collect()
    }

    fn port(endpoint: Option<&Arc<Endpoint>>) -> Option<u16> {
        endpoint.map(|endpoint| endpoint.address().port())
    }

    #[test]
    fn the_endpoint_with_the_fewest_requests_in_flight_is_taken() {
        let endpoints = endpoints(3);
        let _busy = [InFlight::at(endpoints[0].clone()), InFlight::at(endpoints[2].clone())];
        assert_eq!(port(least_loaded(&endpoints, &[], 0, Instant::now())), Some(2));
        assert_eq!(port(least_loaded(&endpoints, &[], 2, Instant::now())), Some(2));
    }

    #[test]
    fn a_dropped_request_is_no_longer_in_flight() {
        let endpoints = endpoints(1);
        let request = InFlight::at(endpoints[0].clone());
        assert_eq!(endpoints[0].in_flight(), 1);
        drop(request);
        assert_eq!(endpoints[0].in_flight(), 0);
    }

    #[test]
    fn among_equals_the_offset_decides() {
        let endpoints = endpoints(3);
        let taken: Vec<_> = (0..4).map(|offset| port(least_loaded(&endpoints, &[], offset, Instant::now()))).collect();
        assert_eq!(taken, [Some(1), Some(2), Some(3), Some(1)]);
    }

    #[test]
    fn a_tried_endpoint_is_taken_again_only_when_there_is_no_other() {
        let endpoints = endpoints(2);
        let first = endpoints[0].address();
        let _busy = InFlight::at(endpoints[1].clone());
        assert_eq!(port(least_loaded(&endpoints, &[first], 0, Instant::now())), Some(2));
        assert_eq!(port(least_loaded(&endpoints[..1], &[first], 0, Instant::now())), Some(1));
    }

    #[test]
    fn an_endpoint_that_refused_is_passed_over_for_two_seconds_or_until_it_answers() {
        let endpoints = endpoints(2);
        let now = Instant::now();
        endpoints[0].health.refused(now);
        assert_eq!(port(least_loaded(&endpoints, &[], 0, now)), Some(2));
        assert_eq!(port(least_loaded(&endpoints, &[], 0, now + Duration::from_millis(2_001))), Some(1));
        endpoints[0].health.succeeded();
        assert_eq!(port(least_loaded(&endpoints, &[], 0, now)), Some(1));
    }

    #[test]
    fn without_endpoints_there_is_none() {
        assert_eq!(port(least_loaded(&[], &[], 3, Instant::now())), None);
    }
}
