//! Where the repository is, and how programs are started in it.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

/// The exit code for wrong usage.
pub(crate) const USAGE: u8 = 2;

/// Text on standard output. Nobody may be reading it any more, as after `| head -1`: that is no failure, which `print!`
/// would make of it.
pub(crate) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Text on standard error, in the same way.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The repository's root. Cargo says at run time where this package is, so that a moved checkout works.
pub(crate) fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or_else(|| package.clone(), Path::to_path_buf)
}

/// The cargo that started this program, on this workspace, from wherever the user stands.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).arg("--manifest-path").arg(root().join("Cargo.toml"));
    command
}

/// Runs the command in this program's place and passes its exit code on.
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
