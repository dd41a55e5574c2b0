//! Being written.
use crate::*;
#[derive(Debug)]
pub(crate) struct Directory;
fn no<T>() -> Result<T, StoreError> { Err(StoreError::new(ErrorKind::BadRequest, Operation::Open, "", "not written yet")) }
impl Directory {
    pub(crate) fn open(_p: &std::path::Path) -> Result<Self, StoreError> { Ok(Self) }
    pub(crate) fn describe(&self) -> String { String::new() }
    pub(crate) fn name(&self, _key: &str) -> String {  String::new() }
    pub(crate) async fn put(&self, _key: &str, _b: &Bytes, _c: &Condition) -> Result<ETag, StoreError> {  no() }
    pub(crate) async fn head(&self, _key: &str) -> Result<Meta, StoreError> {  no() }
    pub(crate) async fn delete(&self, _key: &str) -> Result<(), StoreError> {  no() }
    pub(crate) async fn list(&self, _p: &str, _d: bool, _c: Option<&str>, _n: u32) -> Result<ListPage, StoreError> {  no() }
    pub(crate) async fn get(&self, _key: &str, _o: &GetOptions) -> Result<Got, StoreError> {  no() }
}
