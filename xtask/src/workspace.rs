//! Where the repository is, and how programs are started in it.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

/// The exit code for wrong usage.
pub(crate) const USAGE: u8 = 2;

/// Writes text to standard output. A closed pipe, as after `| head -1`, is ignored; `print!` would panic.
pub(crate) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Writes text to standard error, and ignores a closed pipe too.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The repository's root. It is read from cargo's environment at run time, so that a checkout can be moved.
pub(crate) fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or_else(|| package.clone(), Path::to_path_buf)
}

/// A command of the cargo that started this program, on this workspace, whatever the current folder is.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).arg("--manifest-path").arg(root().join("Cargo.toml"));
    command
}

/// Replaces this program by the command and passes on its exit code.
///
/// On Unix the process becomes the command, so that a signal reaches it directly.
pub(crate) fn hand_over(mut command: Command) -> ExitCode {
    #[cfg(unix)]
    let ended = {
        use std::os::unix::process::CommandExt;
        Err::<ExitStatus, _>(command.exec())
    };
    #[cfg(not(unix))]
    let ended = command.status();
    match ended {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            complain(&format!("error: cannot start {}: {error}\n", command.get_program().display()));
            ExitCode::FAILURE
        }
    }
}
