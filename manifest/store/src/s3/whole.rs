//! A listing that was cut off is no listing: the SDK takes the end of its text for the end of the list. Added to the request by `mod.rs`.

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

/// What every listing ends with.
const END: &[u8] = b"</ListBucketResult>";

/// Fails a listing without an end.
#[derive(Debug)]
pub(super) struct WholeListing;

impl Intercept for WholeListing {
    fn name(&self) -> &'static str {
        "WholeListing"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.output_or_error().is_err() {
            // It has failed for another reason, which is to be told.
            return Ok(());
        }
        let answer = context.response();
        let is_whole = |text: &[u8]| text.trim_ascii_end().ends_with(END);
        if !answer.body().bytes().is_some_and(is_whole) {
            return Err("the listing breaks off before its end".into());
        }
        Ok(())
    }
}
