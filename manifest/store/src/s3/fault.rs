//! What an answer of S3, or its absence, means for the caller: from the SDK's errors to ours.

use crate::{ErrorKind, Operation, StoreError, printable};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use http_body_util::LengthLimitError;
use std::error::Error;

/// Longest text that is taken over from outside into an error.
const CAUSE_LEN_MAX_CHARS: usize = 300;

pub(super) fn judge<E>(
    operation: Operation,
    object: String,
    error: &SdkError<E, HttpResponse>,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let new = |kind, cause: String| StoreError::new(kind, operation, object.clone(), cause);
    if let Some(credentials) = find::<CredentialsError>(error) {
        // Without its sources: what a credential helper printed may be a secret.
        return new(ErrorKind::Denied, credentials.to_string());
    }
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            if answer.raw().status().is_success() {
                // Text that is not what S3 says, from a proxy or damaged on its way.
                let cause = format!("the answer can't be read: {}", chain(error));
                return new(ErrorKind::Unavailable, shorten(&cause));
            }
            let code = answer.err().code().unwrap_or_default();
            let message = answer.err().message().unwrap_or_default();
            let (kind, remedy) = judge_answer(status, code);
            let cause = shorten(&format!("the store answered {status} {code} {message}"));
            match remedy {
                Some(remedy) => new(kind, cause).with_remedy(remedy),
                None => new(kind, cause),
            }
        }
        // See `bounded`. The status says enough.
        SdkError::ResponseError(answer) if find::<LengthLimitError>(error).is_some() => {
            let status = answer.raw().status();
            let cause = format!(
                "the store answered {}, with more text than any answer has",
                status.as_u16()
            );
            let (kind, remedy) = judge_answer(status.as_u16(), "");
            match remedy.filter(|_| !status.is_success()) {
                Some(remedy) => new(kind, cause).with_remedy(remedy),
                None => new(kind, cause),
            }
        }
        // The whole attempt is timed elsewhere: what times out here is the connection.
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            new(ErrorKind::Unavailable, chain(error))
        }
        _ => new(ErrorKind::BadRequest, chain(error)),
    }
}

const WRONG_REGION: &str =
    "correct \"region\" in the configuration: the bucket is in another one, or its name is taken";

/// Kind, and a remedy where the code tells more than the kind does.
fn judge_answer(status: u16, code: &str) -> (ErrorKind, Option<&'static str>) {
    match (status, code) {
        (_, "NoSuchBucket") => (
            ErrorKind::StoreMissing,
            Some(
                "create the bucket, correct its name, or set create_buckets_on_demand in the \
                 configuration",
            ),
        ),
        (404, _) => (ErrorKind::NotFound, None),
        (412, _) => (ErrorKind::PreconditionFailed, None),
        (_, "RequestTimeTooSkewed") => (
            ErrorKind::Denied,
            Some("set this machine's clock: it is too far from the store's"),
        ),
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => (
            ErrorKind::Denied,
            Some("renew the credentials: they have expired"),
        ),
        (_, "InvalidToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
            (ErrorKind::Denied, None)
        }
        (301 | 307, _)
        | (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            (ErrorKind::BadRequest, Some(WRONG_REGION))
        }
        (401 | 403, _) => (ErrorKind::Denied, None),
        (429, _)
        | (_, "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded") => {
            (ErrorKind::Throttled, None)
        }
        // Two conditional writes at once, or a body that the store lost patience with: try again.
        (_, "ConditionalRequestConflict" | "OperationAborted" | "RequestTimeout") | (408, _) => {
            (ErrorKind::Unavailable, None)
        }
        (501, _) => (
            ErrorKind::BadRequest,
            Some("this store lacks an operation that Verneuil needs (conditional requests?)"),
        ),
        (500.., _) => (ErrorKind::Unavailable, None),
        _ => (ErrorKind::BadRequest, None),
    }
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

fn find<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// The error and its causes in one line, without repetitions.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for error in causes(error) {
        let link = error.to_string();
        if text.contains(&link) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&link);
    }
    shorten(&text)
}

/// One printable line of limited length, whatever the store sent.
fn shorten(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let line = printable(words.join(" ").as_bytes());
    match line.char_indices().nth(CAUSE_LEN_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
