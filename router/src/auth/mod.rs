//! Who may call a service: API keys and tokens. A request looks at what is in memory; files and key sets are read by [`refresh`].

pub mod keys;
pub mod provider;
pub mod refresh;
pub mod tokens;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use millrace_contract::{routing::CredentialStats, routing_policy::Auth};
use sha2::{Digest, Sha256};

use self::{keys::Keys, tokens::Tokens};
use crate::{caller::Caller, refusal::Refusal};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const SCHEME: &str = "bearer ";

/// Where keys are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places<'a> {
    /// Folder of mounted keys.
    pub keys_dir: Option<&'a Path>,
    /// Folder of the key sets that were read, for the next start.
    pub state_dir: Option<&'a Path>,
}

/// The way into one service.
#[derive(Debug)]
pub struct Gate {
    rule: Auth,
    /// API keys, where the plan has some.
    pub keys: Option<Keys>,
    /// Tokens, where the plan has them.
    pub tokens: Option<Tokens>,
}

impl Gate {
    /// By a plan's rule. Keys of a folder are read at once, so that no valid request is refused; a key set that is elsewhere is taken from
    /// the `former` gate, or as it was kept, or is not there yet.
    pub fn new(rule: Auth, places: Places<'_>, former: Option<&Self>) -> Self {
        let below = |name: &str| places.keys_dir.and_then(|folder| inside(folder, name));
        let keys = rule.api_keys.as_ref().map(|rule| Keys::new(rule, rule.folder.as_deref().and_then(below)));
        let tokens = rule.jwt.as_ref().map(|rule| {
            let file = rule.jwks.strip_prefix("file:").and_then(below);
            let kept = places.state_dir.map(|folder| kept_at(folder, &rule.jwks));
            Tokens::new(rule.clone(), file, kept, former.and_then(|former| former.tokens.as_ref()))
        });
        Self { rule, keys, tokens }
    }

    /// The rule it was made from.
    pub fn rule(&self) -> &Auth {
        &self.rule
    }

    /// What callers are verified by now.
    pub fn stats(&self) -> CredentialStats {
        CredentialStats {
            api_keys: self.keys.as_ref().and_then(Keys::count),
            token_keys: self.tokens.as_ref().filter(|tokens| !tokens.is_unread()).map(Tokens::count),
        }
    }

    /// Wait for a key set that nobody has read yet, but not for long: after a start or a change of the plan, tokens are valid that nobody
    /// can verify. Who shows none has nothing to wait for.
    pub async fn wait(&self, headers: &HeaderMap) {
        if let Some(tokens) = self.tokens.as_ref().filter(|tokens| tokens.is_unread())
            && self.is_for_tokens(headers)
        {
            Box::pin(tokens.first_reading()).await;
        }
    }

    /// Whether a token decides: there is one, and no API key that does.
    fn is_for_tokens(&self, headers: &HeaderMap) -> bool {
        let shown = Shown::of(headers.get(API_KEY), headers.get(AUTHORIZATION));
        shown.bearer.is_some() && self.owner(shown).is_none()
    }

    /// Whose API key is shown, in either header.
    fn owner(&self, shown: Shown<'_>) -> Option<Arc<str>> {
        let keys = self.keys.as_ref()?;
        shown.key.into_iter().chain(shown.bearer).find_map(|secret| keys.owner(secret))
    }

    /// Who calls, by the credentials in these headers, `now` in seconds since 1970. Credentials are taken out of the headers: they
    /// are none of the servers' business.
    pub fn admit(&self, headers: &mut HeaderMap, now: u64) -> Result<Caller, Refusal> {
        let presented = headers.remove(API_KEY);
        let authorization = headers.remove(AUTHORIZATION);
        let shown = Shown::of(presented.as_ref(), authorization.as_ref());
        if let Some(name) = self.owner(shown) {
            return Ok(Caller { name, claims: None });
        }
        let Shown { key, bearer } = shown;
        match (&self.tokens, bearer) {
            (Some(tokens), Some(_)) if !tokens.has_keys() => Err(Refusal::NoKeySet),
            (Some(tokens), Some(token)) => tokens.verify(token, now).map_err(Refusal::Unauthenticated),
            (Some(_) | None, None) if key.is_none() => Err(Refusal::Unauthenticated("no credentials".into())),
            (Some(_) | None, None) | (None, Some(_)) => Err(Refusal::Unauthenticated("unknown API key".into())),
        }
    }
}

/// The credentials of a request.
#[derive(Clone, Copy)]
struct Shown<'a> {
    key: Option<&'a str>,
    bearer: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(key: Option<&'a HeaderValue>, authorization: Option<&'a HeaderValue>) -> Self {
        let text = |value: &'a HeaderValue| value.to_str().ok();
        Self { key: key.and_then(text), bearer: authorization.and_then(text).and_then(bearer) }
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim())
}

/// Where the key set of a URL is kept.
fn kept_at(folder: &Path, url: &str) -> PathBuf {
    folder.join(format!("keys-{}.json", hex::encode(Sha256::digest(url.as_bytes()))))
}

/// A path of one plain name below a folder: a plan may not reach elsewhere.
fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    is_plain.then(|| folder.join(name))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use millrace_contract::routing_policy::{ApiKeys, Jwt};

    use super::*;

    fn rule() -> Auth {
        // echo -n open-sesame | sha256sum
        let hash = "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";
        let api_keys = ApiKeys { hashes: [("shop".to_owned(), hash.to_owned())].into(), folder: None };
        Auth { api_keys: Some(api_keys), jwt: None }
    }

    fn gate() -> Gate {
        Gate::new(rule(), Places::default(), None)
    }

    fn admitted(headers: &[(&'static str, &'static str)]) -> Result<String, String> {
        let mut map: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let result = gate().admit(&mut map, 0);
        assert!(map.is_empty(), "credentials stay: {map:?}");
        result.map(|caller| caller.name.to_string()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_key_is_known_by_its_hash_in_either_header() {
        assert_eq!(admitted(&[("x-api-key", "open-sesame")]), Ok("shop".into()));
        assert_eq!(admitted(&[("authorization", "Bearer open-sesame")]), Ok("shop".into()));
        assert_eq!(admitted(&[("authorization", "bearer open-sesame")]), Ok("shop".into()));
    }

    #[tokio::test]
    async fn only_who_shows_a_token_waits_for_the_first_reading_of_a_key_set() {
        let jwt = Jwt { issuer: "i".into(), audiences: vec!["a".into()], jwks: "https://issuer.test/keys".into() };
        let gate = Gate::new(Auth { jwt: Some(jwt), ..rule() }, Places::default(), None);
        for (name, value, waits) in [
            ("x-api-key", "open-sesame", false),
            ("authorization", "Bearer open-sesame", false),
            ("authorization", "Basic open-sesame", false),
            ("authorization", "Bearer a.b.c", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(gate.wait(&headers).now_or_never().is_none(), waits, "{name}: {value}");
        }
    }

    #[test]
    fn it_tells_how_many_keys_it_knows_of_what_the_plan_asks_for() {
        assert_eq!(gate().stats(), CredentialStats { api_keys: Some(1), token_keys: None });
        let nowhere = ApiKeys { hashes: [].into(), folder: Some("callers".to_owned()) };
        let folder = tempfile::tempdir().expect("a folder");
        let places = Places { keys_dir: Some(folder.path()), state_dir: None };
        let gate = Gate::new(Auth { api_keys: Some(nowhere), jwt: None }, places, None);
        assert_eq!(gate.stats().api_keys, None, "not mounted yet");
        std::fs::create_dir(folder.path().join("callers")).expect("made");
        assert_eq!(gate.stats().api_keys, Some(0));
        std::fs::write(folder.path().join("callers/shop"), "key").expect("written");
        gate.keys.as_ref().expect("keys").refresh().expect("read");
        assert_eq!(gate.stats().api_keys, Some(1));
    }

    #[test]
    fn whoever_has_none_or_another_is_refused_with_the_reason() {
        let unknown = Err("valid credentials are needed: unknown API key".to_owned());
        assert_eq!(admitted(&[("x-api-key", "open-barley")]), unknown);
        assert_eq!(admitted(&[("authorization", "Bearer x")]), unknown);
        let none = Err("valid credentials are needed: no credentials".to_owned());
        assert_eq!(admitted(&[]), none);
        assert_eq!(admitted(&[("authorization", "Basic open-sesame")]), none);
        assert_eq!(admitted(&[("authorization", "Bearer")]), none);
    }

    #[test]
    fn a_plan_reaches_only_plain_names_below_the_folder() {
        let folder = Path::new("/keys");
        assert_eq!(inside(folder, "fraud"), Some("/keys/fraud".into()));
        for name in ["", "..", ".hidden", "a/b", "/etc", "a\\b"] {
            assert_eq!(inside(folder, name), None, "{name:?}");
        }
    }
}
