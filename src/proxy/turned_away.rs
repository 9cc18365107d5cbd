//! What is said to connections that the proxy cannot or will not serve, where no codec is there to say it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A whole HTTP/1.1 response, after which the connection closes. Nothing from a request is in it.
pub(super) fn response(status: StatusCode, word: &str, message: &str) -> Vec<u8> {
    let body = format!("{{\"error\":\"{word}\",\"message\":\"{message}\"}}\n");
    let (code, reason) = (status.as_str(), status.canonical_reason().unwrap_or_default());
    let length = body.len();
    format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n\
         Gradual-Error: {word}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Writes what can be written at once, and ends the stream's sending side.
pub(super) async fn say<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    let _ = poll_fn(|context| {
        let _ = Pin::new(&mut *stream).poll_write(context, bytes)?;
        let _ = Pin::new(&mut *stream).poll_flush(context)?;
        Poll::Ready(std::io::Result::Ok(()))
    })
    .await;
    let _ = poll_fn(|context| {
        let _ = Pin::new(&mut *stream).poll_shutdown(context);
        Poll::Ready(())
    })
    .await;
}

/// How long, and for how many bytes, a client is listened to that has been told to go. Were its stream closed at once, what
/// it still sends would be answered with a reset, which may overtake what it was told.
const LINGER: Duration = Duration::from_secs(1);
const MOST: usize = 256 << 10;

/// Listens to what comes, and forgets it, until the client closes or has had its time.
pub(super) async fn linger<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut total = 0;
    let end = poll_fn(|context| {
        let mut scratch = [0; 2048];
        while total < MOST {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => total += buffer.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    });
    let _ = tokio::time::timeout(LINGER, end).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_said_is_a_whole_response_and_the_end() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        say(&mut near, &response(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too much")).await;
        let mut said = String::new();
        far.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{said}");
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{said}");
    }

    #[tokio::test]
    async fn nobody_is_listened_to_for_more_than_the_most() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let endless = tokio::spawn(async move { while far.write_all(&[0; 1024]).await.is_ok() {} });
        linger(&mut near).await;
        drop(near);
        endless.await.unwrap();
    }
}
