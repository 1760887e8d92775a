//! The echo API.
