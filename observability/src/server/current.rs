//! The request that the current task serves.

use std::cell::RefCell;
use std::sync::Arc;

use opentelemetry::{Key, KeyValue, Value};

use crate::telemetry::Telemetry;

thread_local! {
    static CURRENT: RefCell<Option<RequestFields>> = const { RefCell::new(None) };
}

/// Fields that a handler adds to its request.
pub(super) struct RequestFields {
    /// Address of the telemetry's state, to compare instances.
    telemetry: usize,
    fields: Vec<KeyValue>,
}

impl RequestFields {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        Self { telemetry: address_of(telemetry), fields: Vec::new() }
    }

    pub(super) fn as_slice(&self) -> &[KeyValue] {
        &self.fields
    }
}

fn address_of(telemetry: &Telemetry) -> usize {
    Arc::as_ptr(&telemetry.0).addr()
}

/// Adds a field to the current request: an attribute of its server span and a field of its log line.
///
/// The last value of a key is kept. Returns `false` outside of a request: only the task that serves the
/// request can add fields, not a task that it spawns.
///
/// ```
/// # fn handler(user_id: i64) {
/// observability::record("user.id", user_id);
/// # }
/// ```
pub fn record(key: impl Into<Key>, value: impl Into<Value>) -> bool {
    let field = KeyValue::new(key, value);
    CURRENT.with_borrow_mut(|current| {
        let Some(RequestFields { fields, .. }) = current else { return false };
        match fields.iter_mut().find(|known| known.key == field.key) {
            Some(known) => *known = field,
            None => fields.push(field),
        }
        true
    })
}

/// Returns `true` if the current task serves a request that `telemetry` measures.
pub(super) fn is_measured_by(telemetry: &Telemetry) -> bool {
    CURRENT.with_borrow(|current| {
        current.as_ref().is_some_and(|current| current.telemetry == address_of(telemetry))
    })
}

/// Makes `fields` those of the current request until the result is dropped.
pub(super) fn enter(fields: &mut Option<RequestFields>) -> Entered<'_> {
    swap_current(fields);
    Entered(fields)
}

/// Guard that swaps the fields back.
pub(super) struct Entered<'a>(&'a mut Option<RequestFields>);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        swap_current(self.0);
    }
}

fn swap_current(fields: &mut Option<RequestFields>) {
    CURRENT.with_borrow_mut(|current| std::mem::swap(current, fields));
}
