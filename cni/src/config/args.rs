//! `CNI_ARGS`: who the pod is, and wishes of people who call plugins by hand.
//!
//! Must not know the network configuration.

use super::ConfigError;
use crate::record::PodRef;

/// The pairs. Keys that nobody asks for are nobody's business, whether or not there is an `IgnoreUnknown`.
#[derive(Clone, Debug, Default)]
pub(super) struct Args<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Args<'a> {
    /// Takes `K=V;K=V` apart; a value may have `=`.
    ///
    /// # Errors
    /// A part has no `=`.
    pub(super) fn parse(text: &'a str) -> Result<Self, ConfigError> {
        let pair = |part: &'a str| part.split_once('=').ok_or_else(|| ConfigError::Argument(part.to_owned()));
        text.split(';').filter(|part| !part.is_empty()).map(pair).collect::<Result<_, _>>().map(Self)
    }

    /// The last value of a key; empty is absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        let found = self.0.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map(|(_, value)| *value).filter(|value| !value.is_empty())
    }

    pub(super) fn pod(&self) -> PodRef {
        let text = |key| self.get(key).unwrap_or_default().to_owned();
        PodRef { namespace: text("K8S_POD_NAMESPACE"), name: text("K8S_POD_NAME"), uid: text("K8S_POD_UID") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_in_any_order_and_unknown_ones_are_passed_over() {
        let text = "IgnoreUnknown=1;;K8S_POD_UID=u;K8S_POD_NAME=web-0;Foo=a=b;K8S_POD_NAMESPACE=shop;";
        let args = Args::parse(text).unwrap();
        assert_eq!(args.pod(), PodRef { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() });
        assert_eq!(args.get("foo"), Some("a=b"));
        assert_eq!(args.get("bar"), None);
    }

    #[test]
    fn a_part_without_an_equals_sign_is_refused() {
        assert!(matches!(Args::parse("A=1;B"), Err(ConfigError::Argument(part)) if part == "B"));
    }
}
