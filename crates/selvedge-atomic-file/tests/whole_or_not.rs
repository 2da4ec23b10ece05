//! The path holds the whole new file or the old one, and nothing is left beside it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;

use selvedge_atomic_file::{AtomicFile, rename, write};

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_write_replaces_and_leaves_nothing_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    for content in [&b"first"[..], b"second, longer", b""] {
        write(&path, content).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(entries(folder.path()), ["model"]);
    }
}

#[test]
fn a_file_gets_its_name_by_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    write(&path, b"old").unwrap();
    // More than the buffer holds, in pieces of odd sizes.
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 7 % 251) as u8).collect();
    let mut file = AtomicFile::create(&path).unwrap();
    for piece in bytes.chunks(977) {
        file.write_all(piece).unwrap();
    }
    assert_eq!((file.path(), file.written()), (path.as_path(), bytes.len() as u64));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    file.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(entries(folder.path()), ["model"]);
}

#[test]
fn a_file_that_is_not_committed_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    write(&path, b"old").unwrap();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"new").unwrap();
    assert_eq!(entries(folder.path()).len(), 2);
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(entries(folder.path()), ["model"]);
}

#[test]
fn a_rename_that_fails_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), b"kept").unwrap();
    let error = write(&path, b"bytes").unwrap_err();
    assert_eq!((error.path.as_path(), error.action), (path.as_path(), "replace the file"));
    assert!(error.to_string().contains("taken: cannot replace the file: "), "{error}");
    assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
    assert_eq!(entries(folder.path()), ["taken"]);
}

#[test]
fn errors_name_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent").join("model");
    let error = write(&path, b"").unwrap_err();
    assert_eq!((error.path.as_path(), error.action), (path.as_path(), "create the file"));
    for nameless in [Path::new("/"), Path::new(".."), Path::new("")] {
        assert!(write(nameless, b"").unwrap_err().to_string().contains("names no file"));
    }
}

#[test]
fn a_stated_temporary_file_replaces_what_a_killed_process_left() {
    let folder = tempfile::tempdir().unwrap();
    let (part, path) = (folder.path().join("model.part"), folder.path().join("model"));
    fs::write(&part, b"half of a longer file").unwrap();
    let mut file = AtomicFile::create_through(&part, &path).unwrap();
    file.write_all(b"new").unwrap();
    file.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(entries(folder.path()), ["model"]);

    fs::create_dir(&part).unwrap();
    let error = AtomicFile::create_through(&part, &path).unwrap_err();
    assert_eq!((error.path.as_path(), error.action), (path.as_path(), "create the file"));
}

#[cfg(unix)]
#[test]
fn a_link_at_the_temporary_path_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (part, path) = (folder.path().join("model.part"), folder.path().join("model"));
    let victim = folder.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    std::os::unix::fs::symlink(&victim, &part).unwrap();
    let mut file = AtomicFile::create_through(&part, &path).unwrap();
    file.write_all(b"new").unwrap();
    file.commit().unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn threads_that_write_one_path_leave_one_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    thread::scope(|scope| {
        for content in 0..8_u8 {
            let path = &path;
            scope.spawn(move || (0..10).for_each(|_| write(path, &[content; 100_000]).unwrap()));
        }
    });
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.len() == 100_000 && bytes.iter().all(|byte| *byte == bytes[0]));
    assert_eq!(entries(folder.path()), ["model"]);
}

#[test]
fn a_finished_file_is_renamed_over_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("model.part"), folder.path().join("model"));
    for content in ["one", "two"] {
        fs::write(&from, content).unwrap();
        rename(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), content);
    }
    assert_eq!(entries(folder.path()), ["model"]);
    assert!(rename(&from, &to).unwrap_err().to_string().contains("model: cannot replace the file: "));
}
