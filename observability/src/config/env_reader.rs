//! Reader of environment variables, which collects messages about their values.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

/// Reads variables and collects messages about their values.
pub(super) struct EnvReader<'a> {
    pub(super) lookup: &'a dyn Fn(&str) -> Option<OsString>,
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl EnvReader<'_> {
    /// Returns the value of a variable without surrounding whitespace, which a value from a file may have.
    /// An empty value counts as unset.
    pub(super) fn text(&mut self, variable: &str) -> Option<String> {
        match (self.lookup)(variable)?.into_string() {
            Ok(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Err(_) => {
                self.error(variable, "not valid UTF-8");
                None
            }
        }
    }

    /// Parses the value of a variable. A malformed value causes a warning.
    pub(super) fn parse<T: FromStr<Err: fmt::Display>>(&mut self, variable: &str) -> Option<T> {
        match self.text(variable)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.warn(variable, &format!("{error}; using the default"));
                None
            }
        }
    }

    /// Returns the value of an enumeration in lower case, because its values match in any case.
    pub(super) fn enum_value(&mut self, variable: &str) -> Option<String> {
        Some(self.text(variable)?.to_ascii_lowercase())
    }

    pub(super) fn warn(&mut self, variable: &str, message: &str) {
        self.warnings.push(format!("{variable}: {message}"));
    }

    pub(super) fn error(&mut self, variable: &str, message: &str) {
        self.errors.push(format!("{variable}: {message}"));
    }
}
