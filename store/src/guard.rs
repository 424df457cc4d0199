//! Where an `http(s)://` URI may lead. A URI can come from whoever may write a model or a dataset, and the machine that opens it can reach
//! more than they can: addresses that answer with credentials, and services that trust their own machine. They are refused by the
//! address that a connection is made to, so after names have been resolved, and at each redirect again.

use std::{
    error::Error as StdError,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use object_store::{
    ClientConfigKey, ClientOptions,
    client::{HttpClient, HttpConnector},
};
use reqwest::{
    ClientBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use url::{Host, Url};

use crate::{Error, error::redacted};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// A block of addresses: `10.0.0.0/8`, `fe80::/10`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A text that is no block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: expected an address, or an address and a number of bits as 10.0.0.0/8 or fe80::/10")]
pub struct InvalidNetwork(String);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.trim().parse().map_err(|_| invalid())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| invalid())?;
        if bits <= most { Ok(Self { address, bits }) } else { Err(invalid()) }
    }
}

impl Network {
    /// The machine that asks.
    pub const LOOPBACK: [Self; 2] = [Self::v4(127, 0, 0, 0, 8), Self::v6(0, 0, 1, 128)];

    const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
    }

    const fn v6(first: u16, second: u16, last: u16, bits: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last)), bits }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                (u64::from(u32::from(network)) >> shift) == (u64::from(u32::from(address)) >> shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// What is refused, and what it is.
const REFUSED: [(Network, &str); 13] = [
    (Network::v4(0, 0, 0, 0, 8), "this machine itself"),
    (Network::v4(127, 0, 0, 0, 8), "loopback"),
    (Network::v4(169, 254, 0, 0, 16), "link-local, where clouds answer with credentials"),
    (Network::v4(100, 100, 100, 200, 32), "a metadata address"),
    (Network::v4(168, 63, 129, 16, 32), "a metadata address"),
    (Network::v4(192, 0, 0, 192, 32), "a metadata address"),
    (Network::v4(224, 0, 0, 0, 4), "multicast"),
    (Network::v4(255, 255, 255, 255, 32), "broadcast"),
    (Network::v6(0, 0, 0, 128), "this machine itself"),
    (Network::v6(0, 0, 1, 128), "loopback"),
    (Network::v6(0xfe80, 0, 0, 10), "link-local"),
    (Network::v6(0xfd00, 0x0ec2, 0x0254, 128), "a metadata address"),
    (Network::v6(0xff00, 0, 0, 8), "multicast"),
];

/// An address that is not connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} is {what}, which is refused; allow it in the configuration where this is meant")]
pub(crate) struct Refused {
    host: String,
    what: &'static str,
}

impl Refused {
    /// The refusal among the causes of an error.
    pub(crate) fn among<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(refused) = error.downcast_ref::<Self>() {
                return Some(refused);
            }
            cause = error.source();
        }
        None
    }
}

/// The rules of one client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    allowed: Arc<[Network]>,
}

impl Guard {
    pub(crate) fn new(allowed: &[Network]) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Whether an address may be connected to; `host` is how it was named.
    fn check(&self, address: IpAddr, host: &str) -> Result<(), Refused> {
        let address = plain(address);
        if self.allowed.iter().any(|network| network.contains(address)) {
            return Ok(());
        }
        match REFUSED.iter().find(|(network, _)| network.contains(address)) {
            Some((_, what)) if host == address.to_string() => Err(Refused { host: host.to_owned(), what }),
            Some((_, what)) => Err(Refused { host: format!("{host} ({address})"), what }),
            None => Ok(()),
        }
    }

    /// Whether a URI may be asked, as far as can be told without resolving its name.
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), Refused> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(address.into(), &address.to_string()),
            Some(Host::Ipv6(address)) => self.check(address.into(), &address.to_string()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }
}

/// The builder of a client that sends something to `url`, and connects to no address that is refused unless it is among `allowed`. Redirects
/// are for the caller to switch off.
///
/// # Errors
/// [`Error::Refused`] where the URL itself names such an address; one that a name leads to is refused when it is connected to.
pub fn guarded(builder: ClientBuilder, url: &Url, allowed: &[Network]) -> Result<ClientBuilder, Error> {
    let guard = Guard::new(allowed);
    let refused = |refused: Refused| Error::Refused { uri: redacted(url.as_str()), reason: refused.to_string() };
    guard.check_url(url).map_err(refused)?;
    Ok(builder.dns_resolver(Arc::new(guard)))
}

/// IPv4 addresses that are written as IPv6 ones, and those behind a NAT64, as what they are.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let inner = || IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => inner(),
        [0, 0, 0, 0, 0, 0] if high != 0 => inner(),
        _ => address,
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            for address in &found {
                guard.check(address.ip(), host)?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Makes clients that keep to the rules.
#[derive(Debug)]
pub(crate) struct GuardedConnector {
    pub(crate) guard: Guard,
    pub(crate) connect_timeout: Duration,
    pub(crate) read_timeout: Duration,
}

impl HttpConnector for GuardedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allow_http = options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() == Some("true");
        let guard = self.guard.clone();
        let redirects = Policy::custom(move |attempt| {
            if attempt.previous().len() > MAX_REDIRECTS {
                return attempt.error("it was redirected too often");
            }
            match guard.check_url(attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(refused) => attempt.error(refused),
            }
        });
        // Compressed answers would not have the length and the digest of the object.
        let client = reqwest::Client::builder()
            .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.read_timeout)
            .https_only(!allow_http)
            .redirect(redirects)
            .dns_resolver(Arc::new(self.guard.clone()))
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build()
            .map_err(|e| object_store::Error::Generic { store: "HTTP", source: Box::new(e) })?;
        Ok(HttpClient::new(client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(guard: &Guard, uri: &str) -> Option<&'static str> {
        guard.check_url(&uri.parse().unwrap()).err().map(|refused| refused.what)
    }

    #[test]
    fn addresses_that_trust_their_caller_are_refused_in_every_way_of_writing_them() {
        let guard = Guard::default();
        for uri in [
            "http://127.0.0.1/x",
            "http://2130706433/x",
            "http://0x7f.1/x",
            "http://[::1]/x",
            "http://[::ffff:127.0.0.1]/x",
            "http://[::127.0.0.1]/x",
            "http://0.0.0.0/x",
            "http://[::]/x",
            "http://169.254.169.254/latest/meta-data",
            "http://169.254.170.2/v2/credentials",
            "http://[64:ff9b::a9fe:a9fe]/x",
            "http://[fd00:ec2::254]/x",
            "http://[fe80::1]/x",
            "http://100.100.100.200/x",
            "http://168.63.129.16/x",
            "http://192.0.0.192/x",
            "http://224.0.0.1/x",
        ] {
            assert!(refused(&guard, uri).is_some(), "{uri}");
        }
        for uri in [
            "http://10.0.0.1/x",
            "https://192.168.1.1/x",
            "http://93.184.216.34/x",
            "http://[2001:db8::1]/x",
            "http://host/x",
        ] {
            assert_eq!(refused(&guard, uri), None, "{uri}");
        }
    }

    #[test]
    fn what_the_configuration_allows_is_not_refused_and_nothing_beside_it() {
        let guard = Guard::new(&["127.0.0.1".parse().unwrap(), "fe80::/10".parse().unwrap()]);
        assert_eq!(refused(&guard, "http://127.0.0.1/x"), None);
        assert_eq!(refused(&guard, "http://127.0.0.2/x"), Some("loopback"));
        assert_eq!(refused(&guard, "http://[fe80::7]/x"), None);
        assert_eq!(refused(&guard, "http://[::1]/x"), Some("loopback"));
        let all = Guard::new(&["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        assert_eq!(refused(&all, "http://169.254.169.254/x").or(refused(&all, "http://[::1]/x")), None);
    }

    #[test]
    fn a_client_is_built_for_a_url_that_leads_to_nothing_refused() {
        let built = |url: &str, allowed: &[Network]| {
            let url = Url::parse(url).unwrap();
            guarded(reqwest::Client::builder(), &url, allowed).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(built("http://broker.example/a", &[]), Ok(()));
        assert_eq!(built("http://127.0.0.1:8080/a", &Network::LOOPBACK), Ok(()));
        assert_eq!(built("http://[::1]/a", &Network::LOOPBACK), Ok(()));
        let error = built("http://me:secret@169.254.169.254/a?b", &Network::LOOPBACK).unwrap_err();
        assert!(
            error.starts_with("http://169.254.169.254/a is not opened: ") && error.contains("link-local"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_guarded_client_does_not_connect_to_what_a_name_leads_to_and_is_refused() {
        // Whoever was first has set it, to the same one.
        _ = rustls::crypto::ring::default_provider().install_default();
        let url = Url::parse("http://localhost:1/a").unwrap();
        let cases: [(&[Network], bool); 2] = [(&[], true), (&Network::LOOPBACK, false)];
        for (allowed, is_refused) in cases {
            let builder = guarded(reqwest::Client::builder().no_proxy(), &url, allowed).unwrap();
            let answer = builder.build().unwrap().get(url.clone()).send().await;
            let error = format!("{:?}", answer.unwrap_err());
            assert_eq!(error.contains("loopback"), is_refused, "{error}");
        }
    }

    #[test]
    fn a_network_is_an_address_with_or_without_bits() {
        for bad in ["", "host", "10.0.0.0/33", "10.0.0.0/", "::/129", "10.0.0/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        let block: Network = "10.1.0.0/16".parse().unwrap();
        assert!(block.contains("10.1.255.255".parse().unwrap()));
        assert!(!block.contains("10.2.0.0".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_refused_address_is_refused() {
        let error = Guard::default().resolve("localhost".parse().unwrap()).await.err().unwrap();
        let refused = Refused::among(&*error).unwrap();
        assert!(refused.host.starts_with("localhost ("), "{refused}");
    }
}
