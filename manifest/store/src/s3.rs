//! Being written.
use crate::*;
#[derive(Debug)]
pub(crate) struct S3;
fn no<T>() -> Result<T, StoreError> { Err(StoreError::new(ErrorKind::BadRequest, Operation::Open, "", "not written yet")) }
impl S3 {
    pub(crate) async fn open(_c: &verneuil_config::S3Config) -> Result<Self, StoreError> { Ok(Self) }
    pub(crate) fn describe(&self) -> String { String::new() }
    pub(crate) fn name(&self, space: Space, _key: &str) -> String { let _ = space; String::new() }
    pub(crate) async fn put(&self, space: Space, _key: &str, _b: &Bytes, _c: &Condition) -> Result<ETag, StoreError> { let _ = space; no() }
    pub(crate) async fn head(&self, space: Space, _key: &str) -> Result<Meta, StoreError> { let _ = space; no() }
    pub(crate) async fn delete(&self, space: Space, _key: &str) -> Result<(), StoreError> { let _ = space; no() }
    pub(crate) async fn list(&self, space: Space, _p: &str, _d: bool, _c: Option<&str>, _n: u32) -> Result<ListPage, StoreError> { let _ = space; no() }
    pub(crate) async fn get(&self, space: Space, _key: &str, _o: &GetOptions) -> Result<Option<Got>, StoreError> { let _ = space; no() }
    pub(crate) fn creates_missing(&self) -> bool { false }
    pub(crate) async fn create_bucket(&self, _s: Space) -> Result<(), StoreError> { no() }
}
