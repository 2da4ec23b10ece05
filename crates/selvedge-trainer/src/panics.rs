//! What the program does when it meets a bug of its own: says where to report it, and ends with an exit code that nothing else has.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::sync::Once;
use std::thread;

use crate::download::tell;

/// The exit code of a bug, `EX_SOFTWARE` of `sysexits.h`.
const EXIT_CODE: u8 = 70;

/// Runs the program. A panic, on any thread, is told in two lines on standard error, without a backtrace unless `RUST_BACKTRACE`
/// asks for one; the exit code is then 70.
///
/// Threads that panic end the run: whoever waits for them goes on with their panic. Files are written whole or not at all, so the
/// last checkpoint stands.
pub fn report_panics(program: impl FnOnce() -> ExitCode) -> ExitCode {
    // Several threads may meet the same bug at once.
    static FIRST: Once = Once::new();
    panic::set_hook(Box::new(|info| FIRST.call_once(|| tell(&report(info)))));
    panic::catch_unwind(AssertUnwindSafe(program)).unwrap_or(ExitCode::from(EXIT_CODE))
}

fn report(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("no message");
    let place = info.location().map_or("an unknown place".to_owned(), ToString::to_string);
    let mut text = in_words(message, &place, thread::current().name().unwrap_or("without a name"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text += &format!("\n{backtrace}");
    }
    text
}

fn in_words(message: &str, place: &str, thread: &str) -> String {
    let (version, repository) = (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_REPOSITORY"));
    let at = if repository.is_empty() { String::new() } else { format!(" at {repository}/issues") };
    // A failed comparison has several lines.
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "error: a bug in selvedge {version}, at {place} on the thread {thread}: {message}\n\
         Please report this line and your command{at}. Files are complete as they are: `train --resume DIR` continues a run \
         from its last checkpoint. RUST_BACKTRACE=1 shows more."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_told_in_two_lines() {
        let text = in_words("assertion failed\n  left: 1\n right: 2", "src/x.rs:3:5", "selvedge-1");
        assert_eq!(text.lines().count(), 2, "{text}");
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "a bug in selvedge {version}, at src/x.rs:3:5 on the thread selvedge-1: assertion failed left: 1 right: 2"
        );
        assert!(text.contains(&expected) && text.contains("report this line"), "{text}");
    }
}
