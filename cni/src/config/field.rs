//! A value of the configuration that knows where it stands, so that an error can say so.
//!
//! Must not know which keys there are.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::ConfigError;
use crate::spec::lookup;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { path: String::new(), value }
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// A key of this object; `null` is as good as absent.
    pub(super) fn get(&self, key: &str) -> Result<Option<Self>, ConfigError> {
        Ok(self.present(key)?.filter(|field| !field.value.is_null()))
    }

    /// A key of this object, be it `null`.
    pub(super) fn present(&self, key: &str) -> Result<Option<Self>, ConfigError> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Ok(lookup(self.object()?, key).map(|value| Self { path, value }))
    }

    /// A key that this object must have.
    pub(super) fn need(&self, key: &'static str) -> Result<Self, ConfigError> {
        let conflict =
            || ConfigError::Conflict { field: self.path.clone(), reason: format!("`{key}` is missing") };
        self.get(key)?.ok_or_else(conflict)
    }

    pub(super) fn object(&self) -> Result<&'a Map<String, Value>, ConfigError> {
        self.value.as_object().ok_or_else(|| self.wrong("an object"))
    }

    pub(super) fn text(&self) -> Result<&'a str, ConfigError> {
        self.value.as_str().ok_or_else(|| self.wrong("a text"))
    }

    pub(super) fn number(&self) -> Result<u64, ConfigError> {
        self.value.as_u64().ok_or_else(|| self.wrong("a whole number that is not negative"))
    }

    /// A number of a smaller type.
    pub(super) fn small<T: TryFrom<u64>>(&self, expected: &'static str) -> Result<T, ConfigError> {
        T::try_from(self.number()?).map_err(|_| self.wrong(expected))
    }

    pub(super) fn items(&self) -> Result<Vec<Self>, ConfigError> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let item = |(at, value)| Self { path: format!("{}[{at}]", self.path), value };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn texts(&self) -> Result<Vec<String>, ConfigError> {
        self.items()?.iter().map(|item| item.text().map(str::to_owned)).collect()
    }

    /// A text in a form of its own.
    pub(super) fn parse<T: FromStr>(&self, expected: &'static str) -> Result<T, ConfigError> {
        self.text()?.parse().map_err(|_| self.wrong(expected))
    }

    pub(super) fn wrong(&self, expected: &'static str) -> ConfigError {
        ConfigError::Wrong { field: self.path.clone(), value: self.value.to_string(), expected }
    }

    pub(super) fn unsupported(&self, remedy: &'static str) -> ConfigError {
        ConfigError::Unsupported { field: self.path.clone(), value: self.value.to_string(), remedy }
    }

    pub(super) fn conflict(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::Conflict { field: self.path.clone(), reason: reason.into() }
    }
}
