//! No answer fills the memory: the SDK reads all of one before it looks at it, however long it is. Added to every request by `mod.rs`, which reads
//! the bodies of objects itself.

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use http_body_util::Limited;

/// Longest error: those of S3 have some hundreds of bytes, a proxy's page has some thousands.
const ERROR_LEN_MAX_BYTES: usize = 64 << 10;
/// Longest answer to a request: a listing of 1,000 keys of 1,024 bytes takes 1.4 MB.
const ANSWER_LEN_MAX_BYTES: usize = 2 << 20;

/// Fails an answer that is longer than any of S3's.
#[derive(Debug)]
pub(super) struct Bounded;

impl Intercept for Bounded {
    fn name(&self) -> &'static str {
        "Bounded"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map(Metadata::name);
        let response = context.response_mut();
        let len_max_bytes = match response.status().is_success() {
            true if operation == Some("GetObject") => return Ok(()),
            true => ANSWER_LEN_MAX_BYTES,
            false => ERROR_LEN_MAX_BYTES,
        };
        let body = std::mem::replace(response.body_mut(), SdkBody::taken());
        *response.body_mut() = SdkBody::from_body_1_x(Limited::new(body, len_max_bytes));
        Ok(())
    }
}
