//! Servers that lie, stall and send wrong bytes: nothing unverified appears at the final path.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::super::{DownloadError, SourceError};
use super::server::{Request, Server, respond, serve};
use super::{Folder, gzip, sample};

/// Short, so that tests of stalling servers end soon; long enough for a loaded machine.
const SHORT: Duration = Duration::from_millis(700);

/// Downloads from a hostile server, alone and then followed by a good source.
///
/// Alone, the download fails with the returned error and leaves the final path as it was: empty in one folder, with an older
/// broken file in another. With the good source the file arrives.
fn attack(answer: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + 'static) -> SourceError {
    attack_within(Duration::from_secs(10), answer)
}

fn attack_within(
    idle: Duration,
    answer: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + 'static,
) -> SourceError {
    let hostile = Server::start(answer);
    let good = Server::start(|request, stream| serve(request, stream, &sample().gz[0]));

    let folder = Folder::new();
    let error = folder.fetch_within(idle, &[hostile.url()]).unwrap_err();
    assert!(!folder.target().exists(), "an unverified file stands at the final path");
    let text = error.to_string();
    assert!(text.contains(&hostile.url()) && text.contains("curl -fL -o") && text.contains("sha256sum"), "{text}");

    let older = Folder::new();
    fs::write(older.target(), b"older").unwrap();
    older.fetch_within(idle, &[hostile.url()]).unwrap_err();
    assert_eq!(fs::read(older.target()).unwrap(), b"older");

    older.fetch_within(idle, &[hostile.url(), good.url()]).unwrap();
    assert_eq!(fs::read(older.target()).unwrap(), sample().gz[0]);
    assert!(!older.part().exists());

    // What the hostile server left on disk does no harm later.
    folder.fetch_within(idle, &[good.url()]).unwrap();
    assert_eq!(fs::read(folder.target()).unwrap(), sample().gz[0]);

    match error {
        DownloadError::AllSourcesFailed { mut failures, .. } => failures.remove(0).error,
        other => panic!("expected AllSourcesFailed, found {other}"),
    }
}

#[test]
fn bit_flipped() {
    let error = attack(|request, stream| {
        let mut content = sample().gz[0].clone();
        content[200_000] ^= 1;
        serve(request, stream, &content)
    });
    assert!(matches!(error, SourceError::WrongContent { .. }), "{error}");
}

#[test]
fn cut_short() {
    let error = attack(|_, stream| {
        let content = &sample().gz[0];
        respond(stream, "200 OK", &format!("Content-Length: {}\r\n", content.len()), &content[..100_000])
    });
    assert!(matches!(error, SourceError::CutShort { .. }), "{error}");
}

#[test]
fn cut_short_without_a_length() {
    let error = attack(|_, stream| respond(stream, "200 OK", "", &sample().gz[0][..100_000]));
    assert!(matches!(error, SourceError::WrongContent { bytes: 100_000, .. }), "{error}");
}

#[test]
fn too_long() {
    let error = attack(|_, stream| {
        respond(stream, "200 OK", "", &sample().gz[0])?;
        // Neither a length nor an end: only the limit stops this.
        loop {
            stream.write_all(&[0; 1 << 16])?;
        }
    });
    assert!(matches!(error, SourceError::TooLong { .. }), "{error}");
}

#[test]
fn a_huge_length_is_refused_before_the_body() {
    let error = attack(|_, stream| respond(stream, "200 OK", "Content-Length: 99999999999\r\n", b"\x1f\x8b"));
    assert!(matches!(error, SourceError::TooLong { announced: 99_999_999_999, .. }), "{error}");
}

#[test]
fn a_bomb_of_acceptable_size() {
    let bomb = gzip(&vec![0; 100_000_000], 9);
    assert!((bomb.len() as u64) < sample().dataset.files[0].max_bytes());
    let error = attack(move |request, stream| serve(request, stream, &bomb));
    assert!(matches!(error, SourceError::WrongContent { .. }), "{error}");
}

#[test]
fn wrong_length() {
    let error = attack(|_, stream| {
        let content = &sample().gz[0];
        respond(stream, "200 OK", &format!("Content-Length: {}\r\n", content.len() - 1000), content)
    });
    assert!(matches!(error, SourceError::WrongContent { .. }), "{error}");
}

#[test]
fn html_with_200() {
    let error = attack(|_, stream| {
        let page = b"<!doctype html><title>Log in to the network</title>";
        let headers = format!("Content-Type: text/html\r\nContent-Length: {}\r\n", page.len());
        respond(stream, "200 OK", &headers, page)
    });
    assert!(matches!(&error, SourceError::NotGzip { content_type } if content_type == "text/html"), "{error}");
}

#[test]
fn an_empty_answer() {
    let error = attack(|_, stream| respond(stream, "200 OK", "Content-Length: 0\r\n", b""));
    assert!(matches!(error, SourceError::NotGzip { .. }), "{error}");
}

#[test]
fn status_403_404_and_503() {
    for (status, code) in [("403 Forbidden", 403), ("404 Not Found", 404), ("503 Service Unavailable", 503)] {
        // The right bytes with a wrong status are refused too.
        let error = attack(move |_, stream| respond(stream, status, "", &sample().gz[0]));
        assert!(matches!(error, SourceError::Status(found) if found == code), "{error}");
    }
}

#[test]
fn slow_drip() {
    let error = attack_within(SHORT, |_, stream| {
        respond(stream, "200 OK", "", &sample().gz[0][..2])?;
        // Each byte comes well within the idle time-out; a whole file would take hours.
        for byte in &sample().gz[0][2..] {
            thread::sleep(Duration::from_millis(50));
            stream.write_all(&[*byte])?;
        }
        Ok(())
    });
    assert!(matches!(error, SourceError::Stalled { .. }), "{error}");
}

#[test]
fn silence() {
    let error = attack_within(SHORT, |_, stream| {
        respond(stream, "200 OK", "", &sample().gz[0][..1000])?;
        thread::sleep(Duration::from_millis(1400));
        Ok(())
    });
    assert!(matches!(error, SourceError::Stalled { .. }), "{error}");
    let error = attack_within(SHORT, |_, _| {
        thread::sleep(Duration::from_millis(1400));
        Ok(())
    });
    assert!(matches!(error, SourceError::Stalled { .. }), "{error}");
}

#[test]
fn redirect_loop() {
    let error = attack(|request, stream| {
        respond(stream, "302 Found", &format!("Location: {}x\r\nContent-Length: 0\r\n", request.path), b"")
    });
    assert!(matches!(error, SourceError::TooManyRedirects(5)), "{error}");
}

#[test]
fn redirect_to_http() {
    let elsewhere = Server::start(|request, stream| serve(request, stream, &sample().gz[0]));
    for location in [elsewhere.url(), "http://example.org/file".to_owned(), "file:///etc/passwd".to_owned()] {
        let error = attack(move |_, stream| {
            respond(stream, "301 Moved", &format!("Location: {location}\r\nContent-Length: 0\r\n"), b"")
        });
        assert!(matches!(error, SourceError::BadRedirect { .. }), "{error}");
    }
    assert!(elsewhere.requests().is_empty(), "the redirect was followed");
}

/// A part of the right size from the wrong position, and a part that was not requested.
#[test]
fn wrong_range() {
    let wrong_start = |_: &Request, stream: &mut TcpStream| {
        let content = &sample().gz[0];
        let headers = format!("Content-Range: bytes 7-99999/{}\r\nContent-Length: 99993\r\n", content.len());
        respond(stream, "206 Partial Content", &headers, &content[7..100_000])
    };
    assert!(matches!(attack(wrong_start), SourceError::WrongRange { asked: 0, .. }));

    let hostile = Server::start(wrong_start);
    let folder = Folder::new();
    fs::write(folder.part(), &sample().gz[0][..50_000]).unwrap();
    folder.fetch(&[hostile.url()]).unwrap_err();
    assert!(!folder.target().exists());
    let offsets: Vec<_> = hostile.requests().iter().map(|request| request.offset).collect();
    assert_eq!(offsets, [Some(50_000), None], "first a part, then the whole");
}

/// The `Content-Range` is right, but the bytes are not.
#[test]
fn wrong_bytes_in_the_right_range() {
    let liar = Server::start(|request, stream| {
        let mut content = sample().gz[0].clone();
        if request.offset.is_some() {
            content[290_000] ^= 1;
        }
        serve(request, stream, &content)
    });
    let folder = Folder::new();
    fs::write(folder.part(), &sample().gz[0][..50_000]).unwrap();
    folder.fetch(&[liar.url()]).unwrap();
    assert_eq!(fs::read(folder.target()).unwrap(), sample().gz[0]);
    assert_eq!(liar.requests().len(), 2);
}

#[test]
fn not_http_at_all() {
    let error = attack(|_, stream| stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n"));
    assert!(matches!(error, SourceError::Connection(_)), "{error}");
}
