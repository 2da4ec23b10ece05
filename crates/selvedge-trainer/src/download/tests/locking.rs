//! `selvedge.lock` of folders that are not named data sets.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::super::DownloadError;
use super::super::lock::{Confirmation, LOCK_NAME, confirm};
use super::super::registry::RAW_NAMES;
use super::sha256;

fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, suffix) in RAW_NAMES.iter().zip([".gz", "", ".gz", ""]) {
        fs::write(dir.path().join(format!("{name}{suffix}")), name.as_bytes()).unwrap();
    }
    dir
}

fn confirmed(dir: &Path) -> Result<Confirmation, DownloadError> {
    confirm(dir, Path::new("no-such-data-folder"), &RAW_NAMES)
}

#[test]
fn the_lock_is_written_at_first_use_and_checked_afterwards() {
    let dir = folder();
    let lock = dir.path().join(LOCK_NAME);
    assert_eq!(confirmed(dir.path()).unwrap(), Confirmation::Written(lock.clone()));
    let text = fs::read_to_string(&lock).unwrap();
    assert!(text.starts_with(&format!("{}  {}.gz\n", sha256(RAW_NAMES[0].as_bytes()), RAW_NAMES[0])), "{text}");
    assert_eq!(confirmed(dir.path()).unwrap(), Confirmation::Unchanged);

    fs::write(dir.path().join(RAW_NAMES[1]), b"changed").unwrap();
    let error = confirmed(dir.path()).unwrap_err();
    assert!(matches!(error, DownloadError::Changed { .. }), "{error}");
    assert_eq!(fs::read_to_string(&lock).unwrap(), text, "a failed check must not touch the lock file");
}

#[test]
fn missing_and_exchanged_files_are_named() {
    let dir = folder();
    fs::remove_file(dir.path().join(RAW_NAMES[3])).unwrap();
    let error = confirmed(dir.path()).unwrap_err();
    assert!(matches!(error, DownloadError::MissingFile { name, .. } if name == RAW_NAMES[3]), "{error}");
    assert!(!dir.path().join(LOCK_NAME).exists());

    let dir = folder();
    confirmed(dir.path()).unwrap();
    fs::rename(dir.path().join(RAW_NAMES[3]), dir.path().join(format!("{}.gz", RAW_NAMES[3]))).unwrap();
    let error = confirmed(dir.path()).unwrap_err();
    assert!(matches!(error, DownloadError::BadLock { .. }), "{error}");
}

#[test]
fn a_malformed_lock_file_is_refused() {
    let hash = sha256(b"");
    for text in [
        "nonsense\n".to_owned(),
        format!("{hash}  ../{}\n", RAW_NAMES[0]),
        format!("{hash}  /etc/passwd\n"),
        format!("{} {}\n", &hash[1..], RAW_NAMES[0]),
        String::new(),
    ] {
        let dir = folder();
        fs::write(dir.path().join(LOCK_NAME), &text).unwrap();
        let error = confirmed(dir.path()).unwrap_err();
        assert!(matches!(error, DownloadError::BadLock { .. }), "{text:?}: {error}");
    }
}

#[test]
fn a_folder_of_a_named_data_set_gets_no_lock_file() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let dir = data.join("fashion-mnist");
    assert_eq!(confirmed(&dir).unwrap(), Confirmation::Named("fashion-mnist"));
    assert!(!dir.join(LOCK_NAME).exists());

    // Broken files in the folder of a named data set are an error, not a new data set.
    let home = TempDir::new().unwrap();
    let broken = folder();
    let place = home.path().join("mnist");
    fs::rename(broken.path(), &place).unwrap();
    let error = confirm(&place, home.path(), &RAW_NAMES).unwrap_err();
    assert!(matches!(error, DownloadError::BrokenNamed { dataset: "mnist", .. }), "{error}");
    assert!(!place.join(LOCK_NAME).exists());
}

#[test]
fn the_lock_is_completed_when_the_training_files_come() {
    let dir = folder();
    let train: Vec<_> = [format!("{}.gz", RAW_NAMES[0]), RAW_NAMES[1].to_owned()]
        .into_iter()
        .map(|name| (dir.path().join(&name), fs::read(dir.path().join(name)).unwrap()))
        .collect();
    train.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
    let lock = dir.path().join(LOCK_NAME);
    let test_alone = || confirm(dir.path(), Path::new("no-such-data-folder"), &RAW_NAMES[2..]);
    assert_eq!(test_alone().unwrap(), Confirmation::Written(lock.clone()));
    assert_eq!(test_alone().unwrap(), Confirmation::Unchanged);
    assert!(matches!(confirmed(dir.path()), Err(DownloadError::MissingFile { .. })));

    train.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    assert_eq!(confirmed(dir.path()).unwrap(), Confirmation::Written(lock.clone()));
    assert_eq!(fs::read_to_string(&lock).unwrap().lines().count(), 4);
    assert_eq!(confirmed(dir.path()).unwrap(), Confirmation::Unchanged);
    fs::write(&train[0].0, "changed").unwrap();
    assert!(matches!(confirmed(dir.path()), Err(DownloadError::Changed { .. })));
    assert_eq!(test_alone().unwrap(), Confirmation::Unchanged);
}

#[test]
fn files_in_folders_of_their_names_are_listed_with_them() {
    let dir = folder();
    for name in RAW_NAMES {
        let inside = dir.path().join(format!("in-{name}"));
        fs::create_dir(&inside).unwrap();
        let flat = [format!("{name}.gz"), name.to_owned()].map(|name| dir.path().join(name));
        let flat = flat.into_iter().find(|path| path.is_file()).unwrap();
        fs::rename(flat, inside.join(name.replace("-idx", ".idx"))).unwrap();
        fs::rename(inside, dir.path().join(name)).unwrap();
    }
    assert!(matches!(confirmed(dir.path()).unwrap(), Confirmation::Written(_)));
    let text = fs::read_to_string(dir.path().join(LOCK_NAME)).unwrap();
    assert!(text.contains("  t10k-labels-idx1-ubyte/t10k-labels.idx1-ubyte\n"), "{text}");
    assert_eq!(confirmed(dir.path()).unwrap(), Confirmation::Unchanged);
}
