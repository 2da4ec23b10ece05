//! Libraries that stand between the program and the system, and answer some of its calls as other systems do.

use std::path::Path;
use std::process::Command;

/// What every library begins with: `next(NAME)` is the system's own function.
const HEAD: &str = r#"#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#define next(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))
"#;

/// A folder cannot be synced: `fsync` answers `ERROR`.
pub(crate) const NO_FOLDER_SYNC: &str = r#"
int fsync(int fd) {
    struct stat found;
    if (fstat(fd, &found) == 0 && S_ISDIR(found.st_mode)) { errno = ERROR; return -1; }
    return next(fsync)(fd);
}
"#;

/// No file can be locked: `flock` answers `ERROR`.
pub(crate) const NO_LOCKS: &str = r#"
int flock(int fd, int operation) { errno = ERROR; return -1; }
"#;

/// No file can be created or opened for writing below a folder `data`: the system answers `ERROR`.
pub(crate) const READ_ONLY_DATA: &str = r#"
static int refused(const char *path, int flags) {
    return (flags & O_ACCMODE) != O_RDONLY && (strncmp(path, "data/", 5) == 0 || strstr(path, "/data/") != NULL);
}
#define OPEN(name) int name(const char *path, int flags, ...) { \
    va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list); \
    if (refused(path, flags)) { errno = ERROR; return -1; } \
    return next(name)(path, flags, mode); }
OPEN(open)
OPEN(open64)
"#;

/// The disk, or the user's share of it, is full for a second checkpoint: `write` answers `ERROR`.
pub(crate) const FULL_FOR_A_SECOND_CHECKPOINT: &str = r#"
ssize_t write(int fd, const void *bytes, size_t count) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        if (strstr(path, "last.ckpt") != NULL && access("run/last.ckpt", F_OK) == 0) { errno = ERROR; return -1; }
    }
    return next(write)(fd, bytes, count);
}
"#;

/// Threads start up to the second; from the third on the system answers `ERROR`.
pub(crate) const TWO_THREADS: &str = r#"
static int started;
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    if (__atomic_fetch_add(&started, 1, __ATOMIC_RELAXED) >= 2) return ERROR;
    return next(pthread_create)(thread, attributes, run, argument);
}
"#;

/// No thread starts.
pub(crate) const NO_THREADS: &str = r#"
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) { return ERROR; }
"#;

/// The clock fails once the recipe's folder has a file `stop-main` (on the main thread) or `stop-worker` (on the others): the
/// standard library takes it for granted, and panics.
pub(crate) const NO_CLOCK: &str = r#"
int clock_gettime(clockid_t clock, struct timespec *now) {
    const char *file = syscall(SYS_gettid) == getpid() ? "stop-main" : "stop-worker";
    if (clock == CLOCK_MONOTONIC && access(file, F_OK) == 0) { errno = EINVAL; return -1; }
    return next(clock_gettime)(clock, now);
}
"#;

/// Lets the command run with a library: one of the above, with the error that it answers. Without a C compiler it says so loudly
/// and returns false.
pub(crate) fn preload(command: &mut Command, folder: &Path, library: &str, error: &str) -> bool {
    let (source, built) = (folder.join("preload.c"), folder.join("preload.so"));
    std::fs::write(&source, format!("{HEAD}{library}")).unwrap();
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let define = format!("-DERROR={error}");
    let arguments = ["-shared", "-fPIC", "-O1", &define, "-o"];
    match Command::new(&cc).args(arguments).args([&built, &source]).arg("-ldl").output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(problem) => {
            eprintln!("SKIPPED: this test needs a C compiler, and {cc} cannot be run: {problem}");
            return false;
        }
    }
    command.env("LD_PRELOAD", built);
    true
}
