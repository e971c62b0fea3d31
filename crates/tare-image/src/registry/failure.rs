//! What goes wrong between here and a registry: whether it may go better next time, and how it is told.

use std::io::{self, Read};
use std::time::Duration;

use serde::Deserialize;
use tare_sys::{Error, Kind};
use ureq::http::header::RETRY_AFTER;
use ureq::http::{Response, StatusCode};
use ureq::{Body, Timeout};

use super::patient::Patient;

/// Of an answer that is an error, or a token.
const LONGEST_ANSWER: u64 = 64 << 10;

/// Whether a request that failed may go better next time. A certificate, an address or a name that is wrong stays so,
/// and who does not listen now will not in a second.
pub(super) fn may_pass(err: &ureq::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, TimedOut, UnexpectedEof, WouldBlock,
    };
    match err {
        ureq::Error::Io(err) => matches!(
            err.kind(),
            BrokenPipe
                | ConnectionAborted
                | ConnectionReset
                | Interrupted
                | TimedOut
                | UnexpectedEof
                | WouldBlock
        ),
        // Long enough to know that nobody is there.
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => false,
        ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

/// Whether a server may have an answer later.
pub(super) fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// How long a server wants to be left alone.
pub(super) fn asked_pause(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A request that got no answer.
pub(super) fn unreachable(method: &str, url: &str, err: &ureq::Error) -> Error {
    const FROM_FILES: &str = "images in files come in by `tare load` and `tare image import`";
    let reason = match err {
        ureq::Error::Io(err) => err.to_string(),
        err => err.to_string(),
    };
    let is_name = matches!(err, ureq::Error::HostNotFound | ureq::Error::Timeout(Timeout::Resolve))
        || reason.contains("lookup address");
    let text = format!("{method} {}: {reason}", without_query(url));
    let hint = if reason.contains("CaUsedAsEndEntity") {
        "the registry shows the certificate of an authority as its own: make it with `openssl req -x509 -addext \
         basicConstraints=critical,CA:FALSE …`, or have one signed by that authority"
            .to_owned()
    } else if reason.contains("certificate") {
        "a certificate that this machine does not know can be named in registries.toml: ca = \"FILE\""
            .to_owned()
    } else if matches!(err, ureq::Error::ConnectProxyFailed(_)) {
        format!("the proxy of $HTTPS_PROXY, $HTTP_PROXY or $ALL_PROXY does not lead there; {FROM_FILES}")
    } else if is_name {
        format!("is the name right, and this machine online? Without a registry, {FROM_FILES}")
    } else if url.starts_with("https:") {
        format!(
            "is the registry up? One without TLS is named in registries.toml: http = true. Without a registry, \
             {FROM_FILES}"
        )
    } else {
        format!("is the registry running, and does it listen there? Without one, {FROM_FILES}")
    };
    Error::new(Kind::Network, text).hint(hint)
}

/// An answer of `registry` that is not what was asked for.
pub(super) fn refused(registry: &str, response: &mut Response<Body>, what: &str) -> Error {
    let status = response.status();
    let said = said(&read_limited(response).unwrap_or_default());
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let text = format!("{what}: {status}{said}");
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::new(Kind::Permission, text)
            .hint(format!("the repository is private, or not there: `tare login {registry}` logs in")),
        StatusCode::NOT_FOUND => Error::new(Kind::NotFound, text),
        // Go's servers say so to who speaks without TLS where there is some.
        StatusCode::BAD_REQUEST if text.contains("HTTP request to an HTTPS server") => {
            Error::new(Kind::Network, text)
                .hint("the registry has TLS: name it in registries.toml: http = false")
        }
        StatusCode::TOO_MANY_REQUESTS => Error::new(Kind::Exhausted, text)
            .hint("the registry limits how much one may ask: wait, log in, or set up a mirror"),
        _ => Error::new(Kind::Network, text),
    }
}

/// Reads an answer that has to be short.
pub(super) fn read_limited(response: &mut Response<Body>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Patient::new(response.body_mut().as_reader()).take(LONGEST_ANSWER).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What follows a `?` may be a secret (a signed address, a token).
fn without_query(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    bare.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// What an error's body says (distribution-spec, error codes), or its beginning.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Line>,
    }
    #[derive(Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Line {
        code: String,
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) => {
            let lines = errors.iter().map(|line| match line.message.is_empty() {
                true => line.code.clone(),
                false => line.message.clone(),
            });
            lines.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    // From a stranger, for a terminal.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_get_better_is_tried_again() {
        let io = |kind: io::ErrorKind| ureq::Error::Io(io::Error::from(kind));
        for err in [
            io(io::ErrorKind::ConnectionReset),
            io(io::ErrorKind::TimedOut),
            ureq::Error::Timeout(Timeout::PerCall),
        ] {
            assert!(may_pass(&err), "{err}");
        }
        for err in [
            io(io::ErrorKind::ConnectionRefused),
            io(io::ErrorKind::NetworkUnreachable),
            ureq::Error::Io(io::Error::other(
                "failed to lookup address information: Name or service not known",
            )),
            ureq::Error::HostNotFound,
            ureq::Error::ConnectProxyFailed("proxy server responded 403/Forbidden".to_owned()),
            ureq::Error::Timeout(Timeout::Connect),
        ] {
            assert!(!may_pass(&err), "{err}");
        }
    }

    #[test]
    fn a_stranger_writes_no_terminal_codes_and_no_novels() {
        assert_eq!(
            said(br#"{"errors":[{"code":"DENIED"},{"code":"X","message":"no\u001b[31m"}]}"#),
            "DENIED; no [31m"
        );
        assert_eq!(said(&[b'x'; 5000]).len(), 200);
        let err = unreachable("GET", "https://a.b/blob?signature=secret", &ureq::Error::HostNotFound);
        assert!(!err.to_string().contains("secret"), "{err}");
    }
}
