//! Everything that the SDK makes once in a process, made at a time of our choosing; called by `Store::prepare_process`.
//!
//! The SDK keeps root certificates, endpoint rules and the like in statics that the first request fills. A process that forks while one
//! of its threads is at that leaves them half made in the child, where whoever needs them waits for ever. So a store is opened, and a request
//! is carried as far as it goes without a network.

use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{
    BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RuntimeComponents,
};
use aws_sdk_s3::error::{BoxError, SdkError};
use aws_sdk_s3::operation::head_bucket::HeadBucketError;
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings};

/// Ends a request when nothing is left but to send it.
#[derive(Debug)]
struct Curtain;

impl Intercept for Curtain {
    fn name(&self) -> &'static str {
        "rehearsal"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(client) = components.http_client() {
            // Loads the certificates; connects to nobody.
            client.http_connector(&HttpConnectorSettings::builder().build(), components);
        }
        Err("the rehearsal ends here".into())
    }
}

/// Rehearses a request, once in a process.
pub(super) async fn rehearse() {
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    if !IS_DONE.load(Ordering::Acquire) {
        // It always fails; what it leaves behind is what counts.
        drop(request().await);
        IS_DONE.store(true, Ordering::Release);
    }
}

async fn request() -> Result<(), SdkError<HeadBucketError, HttpResponse>> {
    // The way to credentials has clients of its own, with their own rules; it is laid, and not gone.
    let shared = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .load()
        .await;
    let config = aws_sdk_s3::config::Builder::from(&shared)
        .credentials_provider(Credentials::new(
            "nobody",
            "nothing",
            None,
            None,
            "rehearsal",
        ))
        .interceptor(Curtain)
        .build();
    let sent = Client::from_conf(config).head_bucket().bucket("nowhere");
    sent.send().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rehearsal_goes_as_far_as_the_curtain() {
        let error = request().await.expect_err("it must not be sent");
        let SdkError::DispatchFailure(failure) = error else {
            panic!("it ended elsewhere: {error:?}");
        };
        let reason = format!("{failure:?}");
        assert!(reason.contains("the rehearsal ends here"), "{reason}");
    }
}
