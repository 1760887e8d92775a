//! Handles to series, created at their first use.

use std::sync::OnceLock;

use parking_lot::RwLock;

use crate::http::KnownMethod;

/// Handles by label value, in the order of their first use.
///
/// Keys come from closed sets of which a service uses a few, so that a linear search costs less than
/// hashing.
pub(super) struct HandleCache<K, H>(RwLock<Vec<(K, H)>>);

impl<K, H> Default for HandleCache<K, H> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Eq + Clone, H> HandleCache<K, H> {
    /// Calls `f` with the handle of `key`, which `register` creates at its first use.
    pub(super) fn with<T>(
        &self,
        key: &K,
        register: impl FnOnce() -> H,
        f: impl FnOnce(&H) -> T,
    ) -> T {
        let find = |handles: &[(K, H)]| handles.iter().position(|(known, _)| known == key);
        let handles = self.0.read();
        if let Some(position) = find(&handles) {
            return f(&handles[position].1);
        }
        drop(handles);
        let mut handles = self.0.write();
        let position = find(&handles).unwrap_or_else(|| {
            handles.push((key.clone(), register()));
            handles.len() - 1
        });
        f(&handles[position].1)
    }
}

/// One value per method, created at its first use.
pub(super) struct PerMethod<T>([OnceLock<T>; KnownMethod::COUNT]);

impl<T> Default for PerMethod<T> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; KnownMethod::COUNT])
    }
}

impl<T> PerMethod<T> {
    pub(super) fn get(&self, method: KnownMethod, create: impl FnOnce() -> T) -> &T {
        self.0[method.index()].get_or_init(create)
    }
}
