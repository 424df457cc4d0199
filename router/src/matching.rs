//! Which part of a request a plan speaks of, and whether it is what a route wants. Pure.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header::COOKIE};
use millrace_contract::routing_policy::{Key, Match, Value};
use serde_json::Value as Json;

use crate::caller::Caller;

/// A condition whose header name was checked.
#[derive(Clone, Debug)]
pub struct Condition {
    key: Part,
    value: Value,
}

/// A part of a request whose header name was checked.
#[derive(Clone, Debug)]
pub enum Part {
    /// A header.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A claim of the caller's token.
    Claim(String),
    /// The caller's name.
    Caller,
}

impl Part {
    /// None for a header name that is none.
    pub fn new(key: &Key) -> Option<Self> {
        Some(match key {
            Key::Header(name) => Self::Header(HeaderName::try_from(name.as_str()).ok()?),
            Key::Cookie(name) => Self::Cookie(name.clone()),
            Key::Claim(name) => Self::Claim(name.clone()),
            Key::Caller => Self::Caller,
        })
    }

    /// Its values in this request: several where a header comes several times or a claim is a list.
    fn values<'a>(&self, headers: &'a HeaderMap, caller: Option<&'a Caller>) -> Vec<Cow<'a, str>> {
        match self {
            Self::Header(name) => {
                headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(Cow::Borrowed).collect()
            }
            Self::Cookie(name) => cookie(headers, name).map(Cow::Borrowed).into_iter().collect(),
            Self::Claim(name) => match caller.and_then(|caller| caller.claim(name)) {
                Some(Json::Array(items)) => items.iter().filter_map(text).collect(),
                Some(value) => text(value).into_iter().collect(),
                None => Vec::new(),
            },
            Self::Caller => caller.map(|caller| Cow::Borrowed(caller.name.as_ref())).into_iter().collect(),
        }
    }

    /// Its first value that is not empty.
    pub fn value<'a>(&self, headers: &'a HeaderMap, caller: Option<&'a Caller>) -> Option<Cow<'a, str>> {
        self.values(headers, caller).into_iter().find(|value| !value.is_empty())
    }
}

impl Condition {
    /// None for a header name that is none.
    pub fn new(wanted: &Match) -> Option<Self> {
        Some(Self { key: Part::new(&wanted.key)?, value: wanted.value.clone() })
    }

    /// Whether the request fulfils it.
    pub fn holds(&self, headers: &HeaderMap, caller: Option<&Caller>) -> bool {
        let values = self.key.values(headers, caller);
        match &self.value {
            Value::Exact(wanted) => values.iter().any(|value| value == wanted),
            Value::Prefix(wanted) => values.iter().any(|value| value.starts_with(wanted.as_str())),
            Value::In(wanted) => values.iter().any(|value| wanted.iter().any(|one| one == value)),
            Value::Present(wanted) => values.is_empty() != *wanted,
        }
    }
}

fn text(value: &Json) -> Option<Cow<'_, str>> {
    match value {
        Json::String(text) => Some(Cow::Borrowed(text)),
        Json::Number(number) => Some(Cow::Owned(number.to_string())),
        Json::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-team", "red"),
            ("x-team", "blue"),
            ("cookie", "a=1; session=s 7"),
            ("cookie", "beta=on;empty="),
            ("x-empty", ""),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn caller() -> Caller {
        let claims = json!({"plan": "gold", "roles": ["reader", "tester"], "level": 3, "staff": true, "none": null});
        Caller { name: "u1".into(), claims: Some(Arc::new(claims)) }
    }

    fn holds(key: Key, value: Value) -> bool {
        let condition = Condition::new(&Match { key, value }).expect("a name");
        condition.holds(&headers(), Some(&caller()))
    }

    fn exact(text: &str) -> Value {
        Value::Exact(text.into())
    }

    #[test]
    fn conditions_hold_as_they_read() {
        let header = |name: &str| Key::Header(name.into());
        let cookie = |name: &str| Key::Cookie(name.into());
        let claim = |name: &str| Key::Claim(name.into());
        let cases = [
            (header("X-Team"), exact("blue"), true),
            (header("x-team"), exact("Blue"), false),
            (header("x-team"), Value::Prefix("re".into()), true),
            (header("x-team"), Value::In(vec!["green".into(), "red".into()]), true),
            (header("x-team"), Value::Present(true), true),
            (header("x-other"), Value::Present(true), false),
            (header("x-other"), Value::Present(false), true),
            (cookie("session"), exact("s 7"), true),
            (cookie("beta"), exact("on"), true),
            (cookie("sess"), Value::Present(true), false),
            (claim("plan"), exact("gold"), true),
            (claim("roles"), exact("tester"), true),
            (claim("roles"), exact("writer"), false),
            (claim("level"), exact("3"), true),
            (claim("staff"), exact("true"), true),
            (claim("none"), Value::Present(true), false),
            (Key::Caller, exact("u1"), true),
        ];
        for (key, value, expected) in cases {
            assert_eq!(holds(key.clone(), value.clone()), expected, "{key:?} {value:?}");
        }
    }

    #[test]
    fn a_claim_of_nobody_is_absent() {
        let condition =
            Condition::new(&Match { key: Key::Claim("plan".into()), value: exact("gold") }).expect("a name");
        assert!(!condition.holds(&headers(), None));
    }

    #[test]
    fn an_empty_value_is_no_key_and_a_bad_header_name_no_part() {
        let part = |key: Key| Part::new(&key).expect("a part").value(&headers(), None).map(Cow::into_owned);
        assert_eq!(part(Key::Header("x-empty".into())), None);
        assert_eq!(part(Key::Cookie("empty".into())), None);
        assert_eq!(part(Key::Cookie("session".into())), Some("s 7".into()));
        assert!(Part::new(&Key::Header("x team".into())).is_none());
    }
}
