//! Keys of JSON objects, in any letter case: the runtimes' JSON library (Go's) takes them so, and configurations rely on it.
//!
//! Must not know which keys there are.

use serde_json::{Map, Value};

/// The value of a key: the one that is written exactly so, otherwise one in another letter case.
pub fn lookup<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let folded = || object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
    object.get(key).or_else(folded)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exact_key_goes_before_another_letter_case() {
        let value = json!({"MTU": 1, "mtu": 2, "bandWidth": 3});
        let object = value.as_object().unwrap();
        assert_eq!(lookup(object, "mtu"), Some(&json!(2)));
        assert_eq!(lookup(object, "bandwidth"), Some(&json!(3)));
        assert_eq!(lookup(object, "mac"), None);
    }
}
