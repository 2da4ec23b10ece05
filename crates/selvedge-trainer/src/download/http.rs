//! Requests to a source: which addresses are allowed, how long to wait, and which answers are refused.

use std::io::{self, Read};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::error::{DownloadError, SourceError};

/// The most redirects to follow for a file.
const MAX_REDIRECTS: usize = 5;

/// The first two bytes of every gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// How long a download waits before it gives up on a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the name look-up, and again for the connection with TLS: 10 s.
    pub connect: Duration,
    /// For the start of the answer, for each read, and the interval of `least_bytes`: 30 s.
    pub idle: Duration,
    /// The least bytes per interval of `idle`: 30 KiB. A server that sends fewer has stalled, so that it cannot hold a
    /// download for hours.
    pub least_bytes: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), idle: Duration::from_secs(30), least_bytes: 30 << 10 }
    }
}

/// An address with the files of a data set directly below it.
pub(crate) struct Source {
    base: String,
    agent: Agent,
    timeouts: Timeouts,
}

impl Source {
    /// Accepts any https address, and http addresses of this machine.
    pub(crate) fn new(base: &str, timeouts: Timeouts) -> Result<Self, DownloadError> {
        let bad = |reason: &str| DownloadError::BadMirror { mirror: base.to_owned(), reason: reason.to_owned() };
        let uri: Uri = base.parse().map_err(|error| bad(&format!("it is not an address ({error})")))?;
        if uri.query().is_some() {
            return Err(bad("file names are appended to it, so it cannot have a query"));
        }
        let loopback_http = match uri.scheme_str() {
            Some("https") => false,
            Some("http") if is_loopback(&uri) => true,
            Some("http") => return Err(bad("http is accepted from this machine (localhost) only; use https")),
            _ => return Err(bad("expected https://HOST/FOLDER")),
        };
        let mut config = Agent::config_builder()
            .https_only(!loopback_http)
            // Redirects are followed below, where each is checked.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.idle))
            .timeout_per_read(Some(timeouts.idle))
            .timeout_per_write(Some(timeouts.idle))
            .user_agent(concat!("selvedge/", env!("CARGO_PKG_VERSION")));
        if loopback_http {
            config = config.proxy(None);
        }
        Ok(Self { base: base.trim_end_matches('/').to_owned(), agent: config.build().new_agent(), timeouts })
    }

    /// The address without a slash at its end.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Requests `name` from byte `offset` on, following redirects.
    ///
    /// An answer that is not a gzip file of at most `max_bytes` bytes is refused as early as possible.
    pub(crate) fn get(&self, name: &str, offset: u64, max_bytes: u64) -> Result<Answer, SourceError> {
        let mut uri: Uri = format!("{}/{name}", self.base)
            .parse()
            .map_err(|error| SourceError::Connection(format!("not an address: {error}")))?;
        for _ in 0..=MAX_REDIRECTS {
            // The file's own bytes are hashed: no compression on top.
            let mut request = self.agent.get(uri.clone()).header(header::ACCEPT_ENCODING, "identity");
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            let response = request.call().map_err(|error| failure(error, 0, &self.timeouts))?;
            if !response.status().is_redirection() {
                return Answer::new(response, offset, max_bytes, self.timeouts);
            }
            let location = header_text(&response, header::LOCATION);
            uri = redirect_target(&uri, &location)?;
        }
        Err(SourceError::TooManyRedirects(MAX_REDIRECTS))
    }
}

/// The body of an answer, with limits on its length and time.
pub(crate) struct Answer {
    reader: Box<dyn Read>,
    /// The position in the file at which the body starts: the requested offset, or 0 if the server ignored it.
    pub(crate) start: u64,
    /// The length of the file, if the server sent it.
    pub(crate) total: Option<u64>,
    content_type: String,
    position: u64,
    max_bytes: u64,
    timeouts: Timeouts,
    interval_began: Instant,
    interval_bytes: u64,
}

impl Answer {
    fn new(response: Response<Body>, offset: u64, max_bytes: u64, timeouts: Timeouts) -> Result<Self, SourceError> {
        let status = response.status();
        let start = match status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let range = header_text(&response, header::CONTENT_RANGE);
                if offset == 0 || range_start(&range) != Some(offset) {
                    return Err(SourceError::WrongRange { asked: offset, answered: range });
                }
                offset
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(SourceError::WrongRange { asked: offset, answered: status.to_string() });
            }
            _ => return Err(SourceError::Status(status.as_u16())),
        };
        let length = header_text(&response, header::CONTENT_LENGTH).parse::<u64>().ok();
        let total = length.map(|length| length.saturating_add(start));
        if let Some(announced) = total.filter(|&total| total > max_bytes) {
            return Err(SourceError::TooLong { announced, most: max_bytes });
        }
        let content_type = header_text(&response, header::CONTENT_TYPE);
        Ok(Self {
            reader: Box::new(response.into_body().into_reader()),
            start,
            total,
            content_type,
            position: start,
            max_bytes,
            timeouts,
            interval_began: Instant::now(),
            interval_bytes: 0,
        })
    }

    /// Reads the next bytes; 0 is the end of the file.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let n = loop {
            match self.reader.read(buffer) {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure(error.into(), self.position, &self.timeouts)),
            }
        };
        let first = self.position == 0;
        self.position += n as u64;
        self.interval_bytes += n as u64;
        if self.position > self.max_bytes {
            return Err(SourceError::TooLong { announced: self.position, most: self.max_bytes });
        }
        // If the first read has one byte only, that byte is checked: the hash checks the rest.
        let looked_at = n.min(GZIP_MAGIC.len());
        if first && (n == 0 || buffer[..looked_at] != GZIP_MAGIC[..looked_at]) {
            return Err(SourceError::NotGzip { content_type: self.content_type.clone() });
        }
        if n == 0 && self.total.is_some_and(|total| self.position < total) {
            return Err(SourceError::CutShort { got: self.position });
        }
        let waited = self.interval_began.elapsed();
        if n > 0 && waited >= self.timeouts.idle {
            if self.interval_bytes < self.timeouts.least_bytes {
                return Err(SourceError::Stalled { got: self.interval_bytes, waited });
            }
            self.interval_began = Instant::now();
            self.interval_bytes = 0;
        }
        Ok(n)
    }
}

fn failure(error: ureq::Error, got: u64, timeouts: &Timeouts) -> SourceError {
    match error {
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
            SourceError::Connection(format!("no connection within {} s", timeouts.connect.as_secs_f32()))
        }
        ureq::Error::Timeout(_) => SourceError::Stalled { got: 0, waited: timeouts.idle },
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof && got > 0 => {
            SourceError::CutShort { got }
        }
        other => SourceError::Connection(other.to_string()),
    }
}

fn header_text(response: &Response<Body>, name: header::HeaderName) -> String {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or("none").to_owned()
}

/// The first byte of `bytes 1000-5147/5148`.
fn range_start(content_range: &str) -> Option<u64> {
    content_range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Resolves a `Location` and decides whether to follow it: https always, http only if the request went to the same http
/// host and port, which [`Source::new`] restricts to this machine.
fn redirect_target(from: &Uri, location: &str) -> Result<Uri, SourceError> {
    let refused = |reason| SourceError::BadRedirect { to: location.to_owned(), reason };
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let path = from.path();
    let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.split(['/', '?', '#']).next().is_some_and(|head| head.contains(':')) {
        location.to_owned()
    } else {
        format!("{scheme}://{authority}{folder}{location}")
    };
    let target: Uri = absolute.parse().map_err(|_| refused("not an address"))?;
    match target.scheme_str() {
        Some("https") => Ok(target),
        Some("http") if scheme == "http" && target.authority() == from.authority() => Ok(target),
        _ => Err(refused("only https is followed")),
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or("");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_https_or_this_machine() {
        for good in ["https://example.org/data/", "http://localhost:8000", "http://127.0.0.1:1/x", "http://[::1]:80"] {
            assert!(Source::new(good, Timeouts::default()).is_ok(), "{good}");
        }
        for bad in [
            "http://example.org/data",
            "http://127.0.0.1.example.org/",
            "http://localhost.example.org/",
            "http://127.0.0.1@example.org/",
            "ftp://localhost/",
            "file:///etc",
            "example.org",
            "https://example.org/?file=",
            "",
        ] {
            assert!(matches!(Source::new(bad, Timeouts::default()), Err(DownloadError::BadMirror { .. })), "{bad}");
        }
    }

    #[test]
    fn redirects_stay_on_https() {
        let https: Uri = "https://a.example/x/y.gz".parse().unwrap();
        let http: Uri = "http://127.0.0.1:80/x/y.gz".parse().unwrap();
        let followed = |from: &Uri, to: &str| redirect_target(from, to).map(|uri| uri.to_string()).ok();
        assert_eq!(followed(&https, "https://b.example/z").as_deref(), Some("https://b.example/z"));
        assert_eq!(followed(&https, "//b.example/z").as_deref(), Some("https://b.example/z"));
        assert_eq!(followed(&https, "/z").as_deref(), Some("https://a.example/z"));
        assert_eq!(followed(&https, "z?u=http://c").as_deref(), Some("https://a.example/x/z?u=http://c"));
        assert_eq!(followed(&http, "/z").as_deref(), Some("http://127.0.0.1:80/z"));
        assert_eq!(followed(&http, "https://b.example/z").as_deref(), Some("https://b.example/z"));
        for (from, to) in [
            (&https, "http://a.example/x"),
            (&https, "http://127.0.0.1/x"),
            (&https, "file:///etc/passwd"),
            (&http, "http://127.0.0.1:81/x"),
            (&http, "http://example.org/x"),
            (&https, "none:"),
            (&https, "https://"),
        ] {
            assert_eq!(followed(from, to), None, "{to}");
        }
    }

    #[test]
    fn content_range_is_read_exactly() {
        assert_eq!(range_start("bytes 1000-5147/5148"), Some(1000));
        assert_eq!(range_start("bytes */5148"), None);
        assert_eq!(range_start("items 0-1/2"), None);
    }
}
