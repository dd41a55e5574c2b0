//! S3, or a store with its protocol; called by `Store`, one attempt per method.
//!
//! The SDK signs, pools connections and finds credentials; its retries are off, because each of
//! ours takes a token from the `Pacer`. Checksums are sent and checked only where the operation
//! requires them, since compatible stores refuse the newer ones: packs and manifests carry their
//! own BLAKE3.
//!
//! - `bounded`: how long an answer may be;
//! - `fault`: what an answer means for the caller;
//! - `rehearsal`: what the first request would do for the whole process;
//! - `whole`: whether a listing has its end.

mod bounded;
mod fault;
mod rehearsal;
mod whole;

use crate::{
    Condition, ETag, ErrorKind, GetOptions, Got, LIST_PAGE_LEN_MAX, ListPage, Listed, Meta,
    OBJECT_LEN_MAX_BYTES, Operation, Space, StoreError,
};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use bounded::Bounded;
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::time::Duration;
use verneuil_config::S3Config;
use whole::WholeListing;

/// A store that does not even accept a connection in this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The one region whose buckets must be created without naming it.
const REGION_WITHOUT_CONSTRAINT: &str = "us-east-1";

/// What can be done about a listing without an end.
const ENDLESS_LISTING: &str = "this store cannot be used: see what answers at this endpoint";

/// A write needs no object to be there, unless it is to replace one.
const WRITE_NOT_FOUND: &str = "see who removes objects from this bucket, and that it is the store that answers at this endpoint";

/// An S3 store.
#[derive(Debug)]
pub(crate) struct S3 {
    client: Client,
    config: S3Config,
}

impl S3 {
    pub(crate) async fn prepare_process() {
        rehearsal::rehearse().await;
    }

    pub(crate) async fn open(config: &S3Config) -> Result<Self, StoreError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(config.region.clone()));
        if let Some(profile) = &config.profile {
            loader = loader.profile_name(profile);
        }
        let shared = loader.load().await;
        Ok(Self::with_settings(
            aws_sdk_s3::config::Builder::from(&shared),
            config,
        ))
    }

    fn with_settings(builder: aws_sdk_s3::config::Builder, config: &S3Config) -> Self {
        let request_timeout = Duration::from_millis(config.request_timeout_ms);
        // `Retry` limits the attempt as a whole, its body included.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(request_timeout))
            .build();
        let mut builder = builder
            .force_path_style(!config.domain_addressing)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // Its session requests would go out without a token.
            .disable_s3_express_session_auth(true)
            .interceptor(Bounded);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Self {
            client: Client::from_conf(builder.build()),
            config: config.clone(),
        }
    }

    pub(crate) fn name(&self, space: Space, key: &str) -> String {
        let (bucket, prefix) = (self.bucket(space), &self.config.prefix);
        format!("s3://{bucket}/{prefix}{key} {}", self.config.place())
    }

    fn bucket(&self, space: Space) -> &str {
        match space {
            Space::Chunks => &self.config.chunk_bucket,
            Space::Manifests => &self.config.manifest_bucket,
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.config.prefix)
    }

    pub(crate) fn creates_missing(&self) -> bool {
        self.config.create_buckets_on_demand
    }

    pub(crate) async fn create_bucket(&self, space: Space) -> Result<(), StoreError> {
        let bucket = self.bucket(space);
        let is_aws = match &self.config.endpoint {
            Some(endpoint) => endpoint.contains("amazonaws.com"),
            None => true,
        };
        let constraint = (is_aws && self.config.region != REGION_WITHOUT_CONSTRAINT).then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(self.config.region.as_str()))
                .build()
        });
        let sent = self
            .client
            .create_bucket()
            .bucket(bucket)
            .set_create_bucket_configuration(constraint)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            // Another process was quicker, or our first answer was lost.
            Err(error)
                if matches!(
                    error.code(),
                    Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists")
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(self.error(Operation::CreateBucket, space, "", &error)),
        }
    }

    pub(crate) async fn put(
        &self,
        space: Space,
        key: &str,
        body: &Bytes,
        condition: &Condition,
    ) -> Result<ETag, StoreError> {
        let request = self
            .client
            .put_object()
            .bucket(self.bucket(space))
            .key(self.key(key))
            .body(ByteStream::from(body.clone()));
        let request = match condition {
            Condition::None => request,
            Condition::Matches(etag) => request.if_match(etag.as_str()),
            Condition::Absent => request.if_none_match("*"),
        };
        match request.send().await {
            Ok(answer) => self.etag(Operation::Put, space, key, answer.e_tag()),
            Err(error) => {
                let mut error = self.error(Operation::Put, space, key, &error);
                if error.kind == ErrorKind::NotFound {
                    error = error.with_remedy(WRITE_NOT_FOUND);
                    // AWS says "no such key" when the object to match is gone.
                    if matches!(condition, Condition::Matches(_)) {
                        error.kind = ErrorKind::PreconditionFailed;
                    }
                }
                Err(error)
            }
        }
    }

    /// `None`: the range begins at or beyond the end of the object.
    pub(crate) async fn get(
        &self,
        space: Space,
        key: &str,
        options: &GetOptions,
    ) -> Result<Option<Got>, StoreError> {
        let range = options.range.as_ref().map(|range| {
            // Stores read these as signed numbers.
            let last = range.end.saturating_sub(1).min(i64::MAX as u64);
            format!("bytes={}-{last}", range.start)
        });
        let known = options.if_none_match.as_ref().map(ETag::as_str);
        let sent = self
            .client
            .get_object()
            .bucket(self.bucket(space))
            .key(self.key(key))
            .set_range(range)
            .set_if_none_match(known.map(str::to_owned))
            .send()
            .await;
        match sent {
            Ok(answer) => self.body(space, key, options, answer).await.map(Some),
            Err(error) => match error.raw_response().map(|raw| raw.status().as_u16()) {
                Some(304) => Ok(Some(Got::NotModified)),
                Some(416) => Ok(None),
                _ => Err(self.object_error(Operation::Get, space, key, &error)),
            },
        }
    }

    async fn body(
        &self,
        space: Space,
        key: &str,
        options: &GetOptions,
        mut answer: GetObjectOutput,
    ) -> Result<Got, StoreError> {
        let fail =
            |kind, cause| StoreError::new(kind, Operation::Get, self.name(space, key), cause);
        let etag = self.etag(Operation::Get, space, key, answer.e_tag())?;
        let part = answer.content_range().map(parse_content_range);
        let too_long = || {
            fail(
                ErrorKind::BadRequest,
                format!("it is longer than {OBJECT_LEN_MAX_BYTES} bytes; no object of ours is"),
            )
        };
        let announced_len = answer.content_length().unwrap_or(0).max(0) as u64;
        if announced_len > OBJECT_LEN_MAX_BYTES {
            return Err(too_long());
        }
        // What of the body is asked for. A store that ignores the range sends everything.
        let wanted = match (&part, &options.range) {
            (_, None) => 0..OBJECT_LEN_MAX_BYTES,
            (None, Some(range)) => range.clone(),
            (Some(_), Some(range)) => 0..range.end.saturating_sub(range.start),
        };
        let wanted_len = wanted.end.saturating_sub(wanted.start);
        let mut body = BytesMut::with_capacity(announced_len.min(wanted_len) as usize);
        let mut body_len = 0;
        while let Some(bytes) = answer.body.next().await {
            let bytes = bytes.map_err(|error| {
                fail(
                    ErrorKind::Unavailable,
                    format!("the body broke off: {}", fault::chain(&error)),
                )
            })?;
            let end = body_len + bytes.len() as u64;
            if end > OBJECT_LEN_MAX_BYTES {
                return Err(too_long());
            }
            let within = |at: u64| (at.clamp(body_len, end) - body_len) as usize;
            body.extend_from_slice(&bytes[within(wanted.start)..within(wanted.end)]);
            body_len = end;
        }
        let body = body.freeze();
        let total_len = match (part, &options.range) {
            (None, _) => body_len,
            (Some(Some((part, total_len))), Some(range))
                if part.start == range.start
                    && part.end == range.end.min(total_len)
                    && part.end - part.start == body_len =>
            {
                total_len
            }
            (Some(_), _) => {
                return Err(fail(
                    ErrorKind::Unavailable,
                    "the store sent another range than it was asked for".to_owned(),
                ));
            }
        };
        Ok(Got::Object {
            body,
            etag,
            total_len,
        })
    }

    pub(crate) async fn head(&self, space: Space, key: &str) -> Result<Meta, StoreError> {
        let sent = self
            .client
            .head_object()
            .bucket(self.bucket(space))
            .key(self.key(key))
            .send()
            .await;
        let answer =
            sent.map_err(|error| self.object_error(Operation::Head, space, key, &error))?;
        Ok(Meta {
            etag: self.etag(Operation::Head, space, key, answer.e_tag())?,
            len: answer.content_length().unwrap_or(0).max(0) as u64,
        })
    }

    pub(crate) async fn list(
        &self,
        space: Space,
        prefix: &str,
        delimiter: bool,
        continuation: Option<&str>,
        page_len: u32,
    ) -> Result<ListPage, StoreError> {
        let sent = self
            .client
            .list_objects_v2()
            .bucket(self.bucket(space))
            .prefix(self.key(prefix))
            .set_delimiter(delimiter.then(|| "/".to_owned()))
            .set_continuation_token(continuation.map(str::to_owned))
            .max_keys(page_len as i32)
            .customize()
            .interceptor(WholeListing)
            .send()
            .await;
        let answer = sent.map_err(|error| self.error(Operation::List, space, prefix, &error))?;
        let strip = |key: &str| Some(key.strip_prefix(&self.config.prefix)?.to_owned());
        let objects = answer.contents().iter().filter_map(|object| {
            Some(Listed {
                key: strip(object.key()?)?,
                etag: object.e_tag().map(ETag::new),
                len: object.size().unwrap_or(0).max(0) as u64,
            })
        });
        let mut objects: Vec<_> = objects.collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        let prefixes = answer
            .common_prefixes()
            .iter()
            .filter_map(|common| strip(common.prefix()?));
        let mut prefixes: Vec<_> = prefixes.collect();
        prefixes.sort();
        let next = answer
            .next_continuation_token()
            .filter(|_| answer.is_truncated().unwrap_or(false));
        let len = answer.contents().len() + answer.common_prefixes().len();
        let problem = if len > LIST_PAGE_LEN_MAX as usize {
            Some("a page of the listing has more entries than one may have")
        } else if next.is_some() && next == continuation {
            Some("after a page of the listing comes the same one again")
        } else {
            None
        };
        if let Some(problem) = problem {
            let name = self.name(space, prefix);
            let error = StoreError::new(ErrorKind::BadRequest, Operation::List, name, problem);
            return Err(error.with_remedy(ENDLESS_LISTING));
        }
        Ok(ListPage {
            objects,
            prefixes,
            next: next.map(str::to_owned),
        })
    }

    pub(crate) async fn delete(&self, space: Space, key: &str) -> Result<(), StoreError> {
        let sent = self
            .client
            .delete_object()
            .bucket(self.bucket(space))
            .key(self.key(key))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = self.object_error(Operation::Delete, space, key, &error);
                if error.kind == ErrorKind::NotFound {
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    fn etag(
        &self,
        operation: Operation,
        space: Space,
        key: &str,
        etag: Option<&str>,
    ) -> Result<ETag, StoreError> {
        etag.map(ETag::new).ok_or_else(|| {
            let name = self.name(space, key);
            StoreError::new(
                ErrorKind::BadRequest,
                operation,
                name,
                "the answer has no ETag",
            )
            .with_remedy("this store cannot be used: versions of its objects have no names")
        })
    }

    /// As `error`, for requests about one object: while the bucket is still to be created on demand,
    /// there simply is no such object.
    fn object_error<E>(
        &self,
        operation: Operation,
        space: Space,
        key: &str,
        error: &SdkError<E, HttpResponse>,
    ) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let mut error = self.error(operation, space, key, error);
        if error.kind == ErrorKind::StoreMissing && self.creates_missing() {
            error.kind = ErrorKind::NotFound;
        }
        error
    }

    fn error<E>(
        &self,
        operation: Operation,
        space: Space,
        key: &str,
        error: &SdkError<E, HttpResponse>,
    ) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        fault::judge(operation, self.name(space, key), error)
    }
}

/// `bytes 5-9/20` is the range 5..10 of 20 bytes.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, total_len) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let end = last.checked_add(1).filter(|end| first < *end)?;
    Some((first..end, total_len.parse().ok()?))
}

#[cfg(test)]
mod tests;
