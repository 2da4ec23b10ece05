//! Downloads that succeed: plain, resumed, from the next source, repaired.

use std::fs::{self, File};

use super::super::{DATASETS, DownloadError, FileState, Matched, Outcome, ensure, find, list, verify};
use super::super::{FetchOptions, NoProgress};
use super::server::{Server, respond, serve};
use super::{Folder, gzip, sample};

fn good() -> Server {
    Server::start(|request, stream| serve(request, stream, &sample().gz[0]))
}

#[test]
fn a_missing_file_is_fetched_and_then_left_alone() {
    let (folder, server) = (Folder::new(), good());
    let outcomes = folder.fetch(&[server.url()]).unwrap();
    assert_eq!(outcomes[0].outcome, Outcome::Downloaded(Matched::Gz));
    assert_eq!(outcomes[1].outcome, Outcome::Present(Matched::Gz));
    assert_eq!(fs::read(folder.target()).unwrap(), sample().gz[0]);
    assert!(!folder.part().exists());
    assert_eq!(server.requests()[0].path, "/set/train-images-idx3-ubyte.gz");

    folder.fetch(&[server.url()]).unwrap();
    assert_eq!(server.requests().len(), 1, "a verified file was requested again");
}

#[test]
fn an_interrupted_download_resumes_where_it_stopped() {
    let server = Server::start(|request, stream| {
        let content = &sample().gz[0];
        match request.index {
            0 => respond(stream, "200 OK", &format!("Content-Length: {}\r\n", content.len()), &content[..123_456]),
            _ => serve(request, stream, content),
        }
    });
    let folder = Folder::new();
    folder.fetch(&[server.url()]).unwrap();
    assert_eq!(fs::read(folder.target()).unwrap(), sample().gz[0]);
    let offsets: Vec<_> = server.requests().iter().map(|request| request.offset).collect();
    assert_eq!(offsets, [None, Some(123_456)]);
}

#[test]
fn the_next_run_resumes_too_and_a_server_without_ranges_starts_over() {
    let (folder, server) = (Folder::new(), good());
    fs::write(folder.part(), &sample().gz[0][..100_000]).unwrap();
    folder.fetch(&[server.url()]).unwrap();
    assert_eq!(server.requests()[0].offset, Some(100_000));
    assert_eq!(fs::read(folder.target()).unwrap(), sample().gz[0]);

    let plain = Server::start(|_, stream| {
        let content = &sample().gz[0];
        respond(stream, "200 OK", &format!("Content-Length: {}\r\n", content.len()), content)
    });
    let folder = Folder::new();
    fs::write(folder.part(), &sample().gz[0][..100_000]).unwrap();
    folder.fetch(&[plain.url()]).unwrap();
    assert_eq!(fs::read(folder.target()).unwrap(), sample().gz[0]);
}

#[test]
fn parts_of_every_kind_are_handled() {
    let content = &sample().gz[0];
    let mut long = content.clone();
    long.extend_from_slice(b"more");
    // Complete (killed before the rename), garbage, a little too long, far too long.
    for leftover in [content.clone(), vec![7; 1000], long, vec![0; 400_000]] {
        let (folder, server) = (Folder::new(), good());
        fs::write(folder.part(), &leftover).unwrap();
        folder.fetch(&[server.url()]).unwrap();
        assert_eq!(&fs::read(folder.target()).unwrap(), content);
        assert!(!folder.part().exists());
        assert_eq!(server.requests().is_empty(), &leftover == content);
    }
}

#[test]
fn a_web_page_does_not_discard_the_part_on_disk() {
    let page = Server::start(|_, stream| respond(stream, "200 OK", "", b"<html>"));
    let (folder, server) = (Folder::new(), good());
    fs::write(folder.part(), &sample().gz[0][..100_000]).unwrap();
    folder.fetch(&[page.url(), server.url()]).unwrap();
    assert_eq!(server.requests()[0].offset, Some(100_000));
}

#[test]
fn another_gzip_of_the_same_bytes_is_the_same_file() {
    let again = gzip(&sample().raw[0], 1);
    assert_ne!(again, sample().gz[0]);
    let server = Server::start({
        let again = again.clone();
        move |request, stream| serve(request, stream, &again)
    });
    let folder = Folder::new();
    assert_eq!(folder.fetch(&[server.url()]).unwrap()[0].outcome, Outcome::Downloaded(Matched::Raw));
    assert_eq!(fs::read(folder.target()).unwrap(), again);

    let plain = Folder::new();
    fs::write(plain.0.path().join("train-images-idx3-ubyte"), &sample().raw[0]).unwrap();
    assert_eq!(plain.fetch(&[]).unwrap()[0].outcome, Outcome::Present(Matched::Raw));
}

#[test]
fn the_error_lists_every_source() {
    let missing = |code: &'static str| Server::start(move |_, stream| respond(stream, code, "", b""));
    let (first, second) = (missing("404 Not Found"), missing("503 Busy"));
    let folder = Folder::new();
    let text = folder.fetch(&[first.url(), second.url()]).unwrap_err().to_string();
    for part in [&first.url(), &second.url(), "404", "503", sample().dataset.files[0].gz_sha256] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert!(!folder.part().exists(), "an empty temporary file is left");
}

#[test]
fn a_refused_connection_is_reported() {
    let folder = Folder::new();
    // No mirror: the sample's own source, where nothing listens.
    let text = folder.fetch(&[]).unwrap_err().to_string();
    assert!(text.contains("https://127.0.0.1:9/train-images-idx3-ubyte.gz"), "{text}");
}

#[test]
fn a_bad_mirror_is_an_error_even_if_nothing_is_missing() {
    let folder = Folder::new();
    fs::write(folder.target(), &sample().gz[0]).unwrap();
    let error = folder.fetch(&["http://example.org".to_owned()]).unwrap_err();
    assert!(matches!(error, DownloadError::BadMirror { .. }), "{error}");
}

#[test]
fn two_downloads_at_once_are_refused() {
    let (folder, server) = (Folder::new(), good());
    let other = File::create(folder.part()).unwrap();
    other.lock().unwrap();
    assert!(matches!(folder.fetch(&[server.url()]), Err(DownloadError::Busy { .. })));
    drop(other);
    folder.fetch(&[server.url()]).unwrap();
}

#[cfg(unix)]
#[test]
fn a_link_in_place_of_the_part_is_not_followed() {
    let (folder, server) = (Folder::new(), good());
    let victim = folder.0.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    std::os::unix::fs::symlink(&victim, folder.part()).unwrap();
    folder.fetch(&[server.url()]).unwrap();
    assert_eq!(fs::read(victim).unwrap(), b"precious");
    assert_eq!(fs::read(folder.target()).unwrap(), sample().gz[0]);
}

#[test]
fn verification_names_what_is_wrong() {
    let folder = Folder::new();
    fs::write(folder.0.path().join(sample().dataset.files[1].name), b"x").unwrap();
    let states: Vec<FileState> =
        verify(folder.0.path(), &sample().dataset).unwrap().into_iter().map(|report| report.state).collect();
    assert_eq!(states[0], FileState::Missing);
    assert_eq!(states[1], FileState::Wrong { found: super::sha256(b"x") });
    assert_eq!(states[2], FileState::Verified(Matched::Gz));
}

#[test]
fn the_repository_has_fashion_mnist_as_published() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data");
    let unreachable = FetchOptions { mirrors: vec!["http://127.0.0.1:9".into()], ..FetchOptions::default() };
    let dir = ensure("fashion-mnist", data.as_ref(), &unreachable, &mut NoProgress).unwrap();
    for report in verify(&dir, find("fashion-mnist").unwrap()).unwrap() {
        assert_eq!(report.state, FileState::Verified(Matched::Gz), "{}", report.path.display());
    }
}

#[test]
fn the_registry_is_well_formed() {
    for dataset in DATASETS {
        assert!(list().contains(dataset.name) && list().contains(dataset.licence));
        assert!(dataset.sources.iter().all(|source| source.starts_with("https://")));
        for file in &dataset.files {
            assert!(file.gz_bytes <= file.max_bytes() && file.gz_bytes < file.raw_bytes);
            for hash in [Some(file.gz_sha256), file.raw_sha256].into_iter().flatten() {
                assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
            }
        }
    }
}

#[test]
fn an_unknown_name_is_refused_with_the_known_ones() {
    let text = ensure("emnist", "data".as_ref(), &FetchOptions::default(), &mut NoProgress).unwrap_err().to_string();
    assert!(text.contains("fashion-mnist, mnist, kmnist"), "{text}");
}
