//! Whether the system has room for a network's memory, which is known before any is taken: without room the process would be
//! aborted by its allocator, or killed by the system after an hour.
//!
//! Linux tells by files; elsewhere nothing is checked.

use std::fs;
use std::path::{Path, PathBuf};

/// The memory that is left to this process, and what limits it.
#[derive(Debug, PartialEq, Eq)]
struct Room {
    bytes: u64,
    limit: String,
}

/// What a run takes beside its network, as a share of that: the optimizer's moments, the loader's batches, copies for checkpoints.
const BESIDE: u64 = 8;

/// The problem, if there is no room for a network of so many bytes.
pub(crate) fn check(needed: u64) -> Result<(), String> {
    match smallest(rooms(Path::new("/"))) {
        Some(room) if needed.saturating_add(needed / BESIDE) > room.bytes => Err(format!(
            "needs {needed} bytes of memory ({}) and some more for training, but {} are left by {}",
            in_words(needed),
            in_words(room.bytes),
            room.limit
        )),
        _ => Ok(()),
    }
}

fn in_words(bytes: u64) -> String {
    match bytes {
        0..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        100_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

fn smallest(rooms: Vec<Room>) -> Option<Room> {
    rooms.into_iter().min_by_key(|room| room.bytes)
}

/// All limits that the files below `root` tell of. What cannot be read limits nothing.
fn rooms(root: &Path) -> Vec<Room> {
    let proc = root.join("proc/self");
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let (limits, status) = (read(proc.join("limits")), read(proc.join("status")));
    let mut rooms = Vec::new();
    for (name, used, limit) in [
        ("Max address space", "VmSize:", "the limit on the address space (ulimit -v)"),
        ("Max data size", "VmData:", "the limit on data (ulimit -d)"),
    ] {
        // The first figure is the soft limit, which counts; "unlimited" is none.
        if let (Some(most), Some(used)) = (field(&limits, name), field(&status, used)) {
            rooms.push(Room { bytes: most.saturating_sub(1024 * used), limit: limit.to_owned() });
        }
    }
    let memory = read(root.join("proc/meminfo"));
    if let Some(available) = field(&memory, "MemAvailable:") {
        let bytes = 1024 * (available + field(&memory, "SwapFree:").unwrap_or(0));
        rooms.push(Room { bytes, limit: "the machine's memory".to_owned() });
    }
    rooms.extend(read(proc.join("cgroup")).lines().flat_map(|line| group_rooms(root, line)));
    rooms
}

/// The limits of a control group and of those above it, from a line of `/proc/self/cgroup`: `0::PATH` in version 2,
/// `NUMBER:CONTROLLERS:PATH` in version 1.
fn group_rooms(root: &Path, line: &str) -> Vec<Room> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (mount, most, current, reclaimable) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        }
        _ => return Vec::new(),
    };
    let mount = root.join(mount);
    let group = mount.join(path.trim_start_matches('/'));
    let mut rooms = Vec::new();
    // A container may see the path of its host, which is not there: its own group is at the mount.
    for folder in group.ancestors().take_while(|folder| folder.starts_with(&mount)) {
        let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        if let (Some(most), Some(current)) = (number(most), number(current)) {
            // The file cache counts as used, and is given up when memory is short.
            let statistics = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let used = current.saturating_sub(field(&statistics, reclaimable).unwrap_or(0));
            let limit = format!("the memory limit of the container or control group ({})", folder.display());
            rooms.push(Room { bytes: most.saturating_sub(used), limit });
        }
    }
    rooms
}

/// The number that follows a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(char::is_whitespace))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of a system.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn tightest(files: &[(&str, &str)]) -> Option<(u64, String)> {
        let root = system(files);
        smallest(rooms(root.path())).map(|room| (room.bytes, room.limit))
    }

    const MEMORY: (&str, &str) = ("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\nSwapFree:   1000 kB\n");

    #[test]
    fn the_tightest_limit_counts() {
        assert_eq!(tightest(&[]), None);
        assert_eq!(tightest(&[MEMORY]).unwrap(), (9000 * 1024, "the machine's memory".to_owned()));
        let status = ("proc/self/status", "VmPeak:\t 700 kB\nVmSize:\t     600 kB\nVmData:\t 100 kB\n");
        let limits = |address: &'static str| ("proc/self/limits", address);
        let unlimited = "Max data size             unlimited            unlimited            bytes     \n\
                         Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(tightest(&[MEMORY, status, limits(unlimited)]).unwrap().0, 9000 * 1024);
        let limited = "Max address space         1024000              unlimited            bytes     \n";
        let (bytes, limit) = tightest(&[MEMORY, status, limits(limited)]).unwrap();
        assert_eq!(bytes, 1_024_000 - 600 * 1024);
        assert!(limit.contains("ulimit -v"), "{limit}");
    }

    #[test]
    fn control_groups_of_both_versions_count() {
        let group = ("proc/self/cgroup", "0::/outer/inner\n");
        let files = [
            MEMORY,
            group,
            ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
            ("sys/fs/cgroup/outer/inner/memory.current", "100\n"),
            ("sys/fs/cgroup/outer/memory.max", "5000\n"),
            ("sys/fs/cgroup/outer/memory.current", "3000\n"),
            ("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 1000\n"),
        ];
        let (bytes, limit) = tightest(&files).unwrap();
        assert_eq!(bytes, 3000);
        assert!(limit.contains("control group") && limit.contains("outer"), "{limit}");
        let files = [
            MEMORY,
            ("proc/self/cgroup", "3:cpu,cpuacct:/x\n2:memory:/not/visible\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "7000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "2000\n"),
        ];
        assert_eq!(tightest(&files).unwrap().0, 5000);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_system_tells_and_refuses_what_no_system_has() {
        assert!(!rooms(Path::new("/")).is_empty());
        check(1 << 20).unwrap();
        let problem = check(u64::MAX).unwrap_err();
        assert!(
            problem.starts_with("needs 18446744073709551615 bytes") && problem.contains(" are left by "),
            "{problem}"
        );
    }
}
