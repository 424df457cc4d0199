//! Settings of a store: read from prefixed environment variables, turned into a client with deadlines and bounded retries.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig, aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, http::HttpBuilder, local::LocalFileSystem,
    path::Path,
};
use url::Url;

use crate::{
    error::{Error, redacted},
    guard::{Guard, GuardedConnector, Network, Refused},
};

/// Option with the networks that `http(s)://` may lead to.
const ALLOWED_NETWORKS: &str = "allowed_networks";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence of the other side while an answer is being read.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
const RETRY: RetryConfig = RetryConfig {
    backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(3), base: 2.0 },
    max_retries: 4,
    retry_timeout: Duration::from_secs(30),
};

/// Options by lower-case key, in the words of the `object_store` crate: `aws_region`, `aws_endpoint`, `aws_allow_http`, ...
#[derive(Clone, Default)]
pub struct Options {
    url: Option<String>,
    keys: BTreeMap<String, String>,
    allowed: Vec<Network>,
}

impl Options {
    /// Every variable with this prefix, which must not be empty.
    pub fn from_env(prefix: &str) -> Self {
        Self::from_pairs(
            prefix,
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// Every pair whose key has this prefix; `<prefix>url` is the store's root, not an option.
    pub fn from_pairs(prefix: &str, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut options = Self::default();
        for (key, value) in pairs {
            match key.strip_prefix(prefix) {
                Some(name) if name.eq_ignore_ascii_case("url") => {
                    options.url = Some(value.trim().to_owned()).filter(|url| !url.is_empty())
                }
                Some(name) if name.eq_ignore_ascii_case(ALLOWED_NETWORKS) => {
                    // What is no network allows nothing.
                    options
                        .allowed
                        .extend(value.split(',').filter_map(|network| network.trim().parse::<Network>().ok()));
                }
                Some(name) => _ = options.keys.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
                None => {}
            }
        }
        options
    }

    /// Value of `<prefix>url`.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// The same, where `http(s)://` URIs may also lead to these networks, which are refused otherwise. `<prefix>ALLOWED_NETWORKS` says the
    /// same, separated by commas.
    #[must_use]
    pub fn allowing(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        self.allowed.extend(networks);
        self
    }

    /// No option is set: whoever may fall back to other credentials does so then.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The client for a URI and the object's path in it.
    pub(crate) fn client(&self, uri: &Url) -> Result<(Arc<dyn ObjectStore>, Path), Error> {
        install_tls_provider();
        let invalid = |reason: object_store::Error| Error::invalid(uri, &reason);
        let (scheme, path) = ObjectStoreScheme::parse(uri).map_err(|e| invalid(e.into()))?;
        let client = client_options();
        let url = uri.as_str();
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::Local => Arc::new(LocalFileSystem::new()),
            ObjectStoreScheme::AmazonS3 => {
                let builder = AmazonS3Builder::new().with_client_options(client).with_retry(RETRY).with_url(url);
                Arc::new(self.apply(builder, |b, key, value| b.with_config(key, value)).build().map_err(invalid)?)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                let builder =
                    GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(RETRY).with_url(url);
                Arc::new(self.apply(builder, |b, key, value| b.with_config(key, value)).build().map_err(invalid)?)
            }
            ObjectStoreScheme::MicrosoftAzure => {
                let builder = MicrosoftAzureBuilder::new().with_client_options(client).with_retry(RETRY).with_url(url);
                Arc::new(self.apply(builder, |b, key, value| b.with_config(key, value)).build().map_err(invalid)?)
            }
            ObjectStoreScheme::Http => {
                let guard = Guard::new(&self.allowed);
                let refused = |refused: Refused| Error::Refused { uri: redacted(url), reason: refused.to_string() };
                guard.check_url(uri).map_err(refused)?;
                let client = client.with_allow_http(uri.scheme() == "http");
                let connector =
                    GuardedConnector { guard, connect_timeout: CONNECT_TIMEOUT, read_timeout: READ_TIMEOUT };
                let builder = HttpBuilder::new()
                    .with_http_connector(connector)
                    .with_client_options(client)
                    .with_retry(RETRY)
                    .with_url(&uri[..url::Position::BeforePath]);
                Arc::new(self.apply(builder, |b, key, value| b.with_config(key, value)).build().map_err(invalid)?)
            }
            other => {
                return Err(Error::InvalidUri {
                    uri: redacted(url),
                    reason: format!("a store of kind {other:?} is not supported"),
                });
            }
        };
        Ok((store, path))
    }

    /// Gives the builder every option it has a word for; the environment may hold variables that mean nothing to it.
    fn apply<B, K: FromStr>(&self, builder: B, with: impl Fn(B, K, String) -> B) -> B {
        self.keys.iter().fold(builder, |builder, (key, value)| match key.parse() {
            Ok(known) => with(builder, known, value.clone()),
            Err(_) => builder,
        })
    }
}

/// Names of the options only: values are credentials.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("url", &self.url.as_deref().map(redacted))
            .field("keys", &self.keys.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// No deadline over a whole transfer, which may be of any size; one on connecting and one on silence.
fn client_options() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout_disabled()
        .with_config(ClientConfigKey::ReadTimeout, format!("{} seconds", READ_TIMEOUT.as_secs()))
}

/// One TLS provider for the process; a second call, or another crate's, changes nothing.
fn install_tls_provider() {
    _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn only_variables_with_the_prefix_are_read_and_the_url_is_no_option() {
        let options = Options::from_pairs(
            "STORE_",
            pairs(&[("STORE_url", " s3://b/p\n"), ("STORE_AWS_REGION", "x"), ("AWS_REGION", "y")]),
        );
        assert_eq!(options.url(), Some("s3://b/p"));
        assert_eq!(options.keys, BTreeMap::from([("aws_region".to_owned(), "x".to_owned())]));
    }

    #[test]
    fn an_empty_url_is_no_url() {
        assert_eq!(Options::from_pairs("STORE_", pairs(&[("STORE_url", " ")])).url(), None);
    }

    #[test]
    fn debug_output_holds_no_value() {
        let options = Options::from_pairs(
            "STORE_",
            pairs(&[("STORE_AWS_SECRET_ACCESS_KEY", "hunter2"), ("STORE_url", "s3://user:hunter2@b/p?sig=hunter2")]),
        );
        let text = format!("{options:?}");
        assert!(text.contains("aws_secret_access_key"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
