//! Who calls, as far as it was verified. Plain data.

use std::sync::Arc;

use serde_json::Value;

/// A caller that showed valid credentials.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// Name of the API key, or subject of the token.
    pub name: Arc<str>,
    /// Claims of the token, if it was one.
    pub claims: Option<Arc<Value>>,
}

impl Caller {
    /// A claim by its name; a dot reaches into objects, but a name that has the dot itself goes first.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        let claims = self.claims.as_deref()?;
        claims.get(name).or_else(|| name.split('.').try_fold(claims, |value, part| value.get(part)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_found_by_its_name_or_by_its_path() {
        let claims = json!({"plan": "gold", "example.com/team": "a", "realm": {"roles": ["x", "y"]}});
        let caller = Caller { name: "u".into(), claims: Some(Arc::new(claims)) };
        assert_eq!(caller.claim("plan"), Some(&json!("gold")));
        assert_eq!(caller.claim("example.com/team"), Some(&json!("a")));
        assert_eq!(caller.claim("realm.roles"), Some(&json!(["x", "y"])));
        assert_eq!(caller.claim("realm.none"), None);
        assert_eq!(Caller { name: "k".into(), claims: None }.claim("plan"), None);
    }
}
