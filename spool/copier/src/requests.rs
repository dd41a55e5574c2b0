//! Every request that the copier makes of a store: `base` makes them all. A seam: the state machine in `tests` stops the copier before or after one of them,
//! refuses it, or loses its answer.

use bytes::Bytes;
use verneuil_store::{Condition, ETag, GetOptions, Got, Space, Store, StoreError};

/// [`Store::put`].
pub(crate) async fn put(
    store: &Store,
    space: Space,
    key: &str,
    body: Bytes,
    condition: Condition,
) -> Result<ETag, StoreError> {
    let request = store.put(space, key, body, condition);
    #[cfg(test)]
    let request = crate::tests::trial::request(store, key, request);
    request.await
}

/// [`Store::get`].
pub(crate) async fn get(
    store: &Store,
    space: Space,
    key: &str,
    options: GetOptions,
) -> Result<Got, StoreError> {
    let request = store.get(space, key, options);
    #[cfg(test)]
    let request = crate::tests::trial::request(store, key, request);
    request.await
}
