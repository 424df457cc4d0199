//! What the condition AuthReady says: whether routers know keys by which callers can be verified. Pure.
//!
//! The operator reads no Secret. That one is missing is seen where it is missed: at the routers, which count the keys they have.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use millrace_contract::routing::CredentialStats;
use millrace_crds::{
    conditions::AUTH_READY,
    inference_service::{ApiKeys, Auth, Jwt},
};

use super::status::{Said, said_of};
use crate::conditions::{Is, find};

/// No object of ours changes when a Secret appears or an issuer answers again, so routers are asked.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is said of `auth`, by what each router has. As long as not every router tells by the newest plan (`None`), what was said of the same
/// spec before holds: keys have nothing to do with weights.
pub fn said(auth: Option<&Auth>, known: Option<&[CredentialStats]>, former: Option<Said>) -> Option<Said> {
    let auth = auth?;
    let Some(known) = known else {
        if former.is_some() {
            return former;
        }
        let message = "not every ready router follows the newest plan yet".to_owned();
        return Some((Is::Unknown, "RoutersDoNotFollow".to_owned(), message));
    };
    let has_told = |router: &CredentialStats| {
        (auth.api_keys.is_none() || router.api_keys.is_some()) && (auth.jwt.is_none() || router.token_keys.is_some())
    };
    if !known.iter().all(has_told) {
        let message = "a router has not read all of its keys yet".to_owned();
        return Some((Is::Unknown, "KeysNotRead".to_owned(), message));
    }
    let lacks = |count: fn(&CredentialStats) -> Option<usize>| known.iter().any(|router| count(router) == Some(0));
    let keys = auth.api_keys.as_ref().filter(|_| lacks(|router| router.api_keys)).map(no_api_keys);
    let tokens = auth.jwt.as_ref().filter(|_| lacks(|router| router.token_keys)).map(no_token_keys);
    let problems: Vec<(String, String)> = keys.into_iter().chain(tokens).collect();
    let known = (Is::True, "KeysKnown".to_owned(), "routers know keys to verify callers by".to_owned());
    said_of(&problems).or(Some(known))
}

fn no_api_keys(keys: &ApiKeys) -> (String, String) {
    let secret = &keys.secret_name;
    let sentence = format!(
        "auth.apiKeys: routers find no key in the Secret {secret}, so every API key gets 401: create it with an entry for \
         each caller, as kubectl create secret generic {secret} --from-literal=CALLER=KEY, or correct the name; it is seen \
         within two minutes"
    );
    ("ApiKeysMissing".to_owned(), sentence)
}

fn no_token_keys(jwt: &Jwt) -> (String, String) {
    let sentence = format!(
        "auth.jwt: routers could not read a key from {}, so tokens can't be verified and get 503: see that it can be \
         reached from this namespace and is a JSON Web Key Set with public keys, or correct the address",
        jwt.jwks_uri
    );
    ("KeySetMissing".to_owned(), sentence)
}

/// How long until routers are asked again.
pub fn look_again(conditions: &[Condition]) -> Option<Duration> {
    find(conditions, AUTH_READY).filter(|found| found.status != Is::True.as_str()).map(|_| LOOK_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(keys: bool, jwt: bool) -> Auth {
        Auth {
            api_keys: keys.then(|| ApiKeys { secret_name: "callers".to_owned() }),
            jwt: jwt.then(|| {
                serde_json::from_value(
                    serde_json::json!({"issuer": "https://id", "jwksUri": "https://id/keys", "audiences": ["a"]}),
                )
                .unwrap()
            }),
        }
    }

    fn router(api_keys: Option<usize>, token_keys: Option<usize>) -> CredentialStats {
        CredentialStats { api_keys, token_keys }
    }

    #[test]
    fn the_condition_names_what_no_router_can_verify() {
        let (has, none) = (Some(2), Some(0));
        let cases = [
            (auth(true, false), None, (Is::Unknown, "RoutersDoNotFollow", vec![])),
            (auth(true, true), Some(vec![router(has, None)]), (Is::Unknown, "KeysNotRead", vec![])),
            (auth(true, true), Some(vec![router(has, has)]), (Is::True, "KeysKnown", vec![])),
            (auth(true, false), Some(vec![router(has, None); 2]), (Is::True, "KeysKnown", vec![])),
            (
                auth(true, false),
                Some(vec![router(has, None), router(none, None)]),
                (Is::False, "ApiKeysMissing", vec!["Secret callers", "--from-literal=CALLER=KEY"]),
            ),
            (auth(false, true), Some(vec![router(None, none)]), (Is::False, "KeySetMissing", vec!["https://id/keys"])),
            (
                auth(true, true),
                Some(vec![router(none, none)]),
                (Is::False, "ApiKeysMissing", vec!["Secret callers", "https://id/keys"]),
            ),
            (auth(true, true), Some(vec![router(has, none)]), (Is::False, "KeySetMissing", vec!["auth.jwt"])),
        ];
        for (auth, known, (status, reason, words)) in cases {
            let (is, why, message) = said(Some(&auth), known.as_deref(), None).unwrap();
            assert_eq!((is, &*why), (status, reason), "{known:?}");
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
        assert_eq!(said(None, None, None), None);
        let known = (Is::True, "KeysKnown".to_owned(), String::new());
        assert_eq!(
            said(Some(&auth(true, false)), None, Some(known.clone())),
            Some(known),
            "a new step is being written"
        );
    }
}
