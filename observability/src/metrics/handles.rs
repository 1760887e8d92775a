//! Handles to series, created at their first use.

use std::sync::OnceLock;

use crate::http::KnownMethod;

/// Handles by label value, in the order of their first use. A list that only grows, so that a request reads
/// it without a lock.
///
/// Keys come from closed sets of which a service uses a few, so that a linear search costs less than
/// hashing.
pub(super) struct HandleCache<K, H>(OnceLock<Box<Entry<K, H>>>);

struct Entry<K, H> {
    key: K,
    handle: H,
    next: HandleCache<K, H>,
}

impl<K, H> Default for HandleCache<K, H> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<K: Eq + Clone, H> HandleCache<K, H> {
    /// Returns the handle of `key`, which `register` creates at its first use.
    pub(super) fn get(&self, key: &K, register: impl Fn() -> H) -> &H {
        let mut list = self;
        loop {
            let entry = list.0.get_or_init(|| {
                let (key, next) = (key.clone(), Self::default());
                Box::new(Entry { key, handle: register(), next })
            });
            if entry.key == *key {
                return &entry.handle;
            }
            list = &entry.next;
        }
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
