//! Requests and answers of HTTP/1.1, read whole and written again; `serve.rs` passes them on.

use std::io::{BufRead, Read, Write};

use anyhow::{Context, Result, bail, ensure};

/// Longest head that is read: S3's are some hundreds of bytes.
const HEAD_LEN_MAX_BYTES: u64 = 64 << 10;

/// A request or an answer.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// From the first line to the empty one.
    pub(super) head: Vec<u8>,
    pub(super) first_line: String,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// The value of a field, by its name in lower case.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.head);
        text.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }

    /// The status of an answer.
    pub(super) fn status(&self) -> u16 {
        let status = self.first_line.split(' ').nth(1);
        status.and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    /// The next head; `None` at the end of the connection.
    pub(super) fn read_head(from: &mut impl BufRead) -> Result<Option<Self>> {
        let mut head = Vec::new();
        let mut limited = from.take(HEAD_LEN_MAX_BYTES);
        while !head.ends_with(b"\r\n\r\n") {
            if limited.read_until(b'\n', &mut head)? == 0 {
                ensure!(head.is_empty(), "the connection ended in a head");
                return Ok(None);
            }
        }
        let first_line = String::from_utf8_lossy(&head)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        Ok(Some(Self {
            head,
            first_line,
            body: Vec::new(),
        }))
    }

    /// Length of the body that follows, as the head says.
    pub(super) fn content_length(&self) -> Result<Option<usize>> {
        self.field("content-length")
            .map(|len| len.parse().context("content-length"))
            .transpose()
    }

    /// The answer to a request with this method. One in chunks is put together: what is sent on has a length.
    pub(super) fn read_answer(from: &mut impl BufRead, method: &str) -> Result<Self> {
        let mut answer = Self::read_head(from)?.context("no answer")?;
        let is_bodiless = method == "HEAD" || matches!(answer.status(), 100..=199 | 204 | 304);
        if is_bodiless {
            return Ok(answer);
        }
        if let Some(len) = answer.content_length()? {
            answer.body = vec![0; len];
            from.read_exact(&mut answer.body)?;
            return Ok(answer);
        }
        match answer.field("transfer-encoding") {
            Some(encoding) if encoding.eq_ignore_ascii_case("chunked") => {
                answer.body = read_chunks(from)?;
                answer.announce(answer.body.len());
                Ok(answer)
            }
            other => bail!("an answer without a length: {other:?}"),
        }
    }

    /// Makes the head say that the body has this length.
    pub(super) fn announce(&mut self, len: usize) {
        let text = String::from_utf8_lossy(&self.head).into_owned();
        let kept = text.trim_end().lines().filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            !name.eq_ignore_ascii_case("content-length")
                && !name.eq_ignore_ascii_case("transfer-encoding")
        });
        let lines: Vec<&str> = kept.collect();
        self.head = format!("{}\r\nContent-Length: {len}\r\n\r\n", lines.join("\r\n")).into_bytes();
    }

    pub(super) fn write(&self, to: &mut impl Write) -> Result<()> {
        // At once: two small packets would wait for each other.
        let all = [&self.head[..], &self.body[..]].concat();
        to.write_all(&all)?;
        Ok(())
    }
}

fn read_chunks(from: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let len = usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16)
            .with_context(|| format!("length of a chunk: {line:?}"))?;
        let begin = body.len();
        body.resize(begin + len, 0);
        from.read_exact(&mut body[begin..])?;
        line.clear();
        // What ends a chunk; after the last one there might be fields, which nobody sends.
        from.read_line(&mut line)?;
        ensure!(line.trim().is_empty(), "after a chunk: {line:?}");
        if len == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_chunks_is_put_together() -> Result<()> {
        let mut sent = &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: \"1\"\r\n\r\n3\r\nabc\r\na;x\r\n0123456789\r\n0\r\n\r\nrest"[..];
        let answer = Message::read_answer(&mut sent, "GET")?;
        assert_eq!(answer.body, b"abc0123456789");
        assert_eq!(answer.content_length()?, Some(13));
        assert_eq!(answer.field("etag").as_deref(), Some("\"1\""));
        assert_eq!(answer.field("transfer-encoding"), None);
        assert_eq!(sent, b"rest");
        Ok(())
    }

    #[test]
    fn a_body_that_is_not_there_is_not_waited_for() -> Result<()> {
        let mut sent = &b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"[..];
        assert!(Message::read_answer(&mut sent, "GET")?.body.is_empty());
        let mut sent = &b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"[..];
        assert!(Message::read_answer(&mut sent, "HEAD")?.body.is_empty());
        Ok(())
    }
}
